"""What an agent prints that is to go on with a session, or a call, which it does not have; then it fails."""

import re
from typing import Final

from agentbus_worker.running.command import Exit
from agentbus_worker.running.frames import folded

_PRINTED: Final[dict[str, re.Pattern[str]]] = {
    "claude": re.compile(r"No conversation found with session ID|is not a valid (?:UUID|session)", re.IGNORECASE),
    "codex": re.compile(
        r"no rollout found|(?:thread|session|conversation)(?: id)?\b[^\n]{0,100}\bnot found|no saved session found",
        re.IGNORECASE,
    ),
    "gemini": re.compile(
        r"No previous sessions found|Invalid session identifier|Error resuming session", re.IGNORECASE
    ),
    "opencode": re.compile(r"Session not found", re.IGNORECASE),
    "qwen": re.compile(
        r"No (?:saved|previous) sessions? found|No conversation found|Invalid session identifier", re.IGNORECASE
    ),
}
"""By format, as the versions of the presets print them."""


_NO_CALL: Final = re.compile(r"No deferred tool marker found", re.IGNORECASE)


def lacks_call(ended: Exit) -> bool:
    """Whether Claude Code has ended because its session does not wait for the use of a tool, and it got no prompt."""
    return _failed_at_once(ended) and _printed(ended, _NO_CALL)


def lacks_session(ended: Exit, format_: str) -> bool:
    """Whether a command that was to go on with a session has ended because its agent does not have it.

    A run that did something had its session, whatever its agent printed.
    """
    pattern = _PRINTED.get(format_)
    return pattern is not None and _failed_at_once(ended) and _printed(ended, pattern)


def _failed_at_once(ended: Exit) -> bool:
    did_something = ended.events is not None and ended.events.productive
    return ended.reason == "exited" and bool(ended.code) and not did_something


def _printed(ended: Exit, pattern: re.Pattern[str]) -> bool:
    printed = (folded(ended.stderr.tail), ended.stdout.head, ended.stdout.tail)
    return any(pattern.search(part.decode(errors="replace")) for part in printed)

"""What an agent prints when it is to go on with a session that it does not have; it then exits with a failure."""

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


def lacks_session(ended: Exit, format_: str) -> bool:
    """Whether a command that was to go on with a session has ended because its agent does not have it.

    A run that did something had its session, whatever its agent printed.
    """
    pattern = _PRINTED.get(format_)
    if pattern is None or ended.reason != "exited" or not ended.code:
        return False
    if ended.events is not None and ended.events.productive:
        return False
    printed = (folded(ended.stderr.tail), ended.stdout.head, ended.stdout.tail)
    return any(pattern.search(part.decode(errors="replace")) for part in printed)

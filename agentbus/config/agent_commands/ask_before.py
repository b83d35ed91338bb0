"""What `ask_before` may say, and which commands can be given the settings that have Claude Code ask."""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

SETTINGS_PLACEHOLDER: Final = "{settings}"
_SHELLS: Final = ("sh", "bash", "dash", "zsh", "ksh", "fish")
_USER_CHANGERS: Final = ("sudo", "su", "runuser", "doas", "gosu", "setpriv", "chpst", "setuidgid", "s6-setuidgid")
"""Programs that run a command as another user; `setpriv` only where it is told which one."""
_TOOL_PATTERN: Final = re.compile(r"[A-Za-z_*][A-Za-z0-9_*-]{0,199}(\([^\x00-\x1f\x7f]{1,500}\))?")


def tool_pattern(text: str) -> str:
    """Return a pattern of `ask_before`.

    Raises:
        ValueError: it is none.
    """
    if _TOOL_PATTERN.fullmatch(text) is None:
        raise ValueError(f"{text[:80]!r} is no pattern of a tool, as Bash, Bash(git push*) or mcp__github__*")
    return text


def check_can_ask(name: str, words: Sequence[str]) -> None:
    """Refuse a command that cannot be given the settings that have it ask.

    Args:
        name: the key that has the command.

    Raises:
        ValueError: what is wrong with it, and what to do.
    """
    if words and _changes_user(words):
        raise ValueError(
            f"{name} runs the agent as another user ({PurePath(words[0]).name}), who cannot read the settings of "
            "ask_before: they lie in the worker's private folder. Run the worker itself as the user of the agent, or "
            'take a preset with output = "acp" and permissions = "ask", which needs no file'
        )
    if any(SETTINGS_PLACEHOLDER in word for word in words):
        return
    if any(re.match(r"--settings(=|$)", word) for word in words):
        raise ValueError(
            f"{name} has --settings, of which Claude Code takes one only, and ask_before needs it: put your settings "
            "into a file that it reads by itself, such as ~/.claude/settings.json"
        )
    if words and PurePath(words[0]).name in _SHELLS:
        raise ValueError(
            f"{name} runs a shell, which gives no options to the agent: ask_before needs --settings "
            f"{SETTINGS_PLACEHOLDER} in its line"
        )


def _changes_user(words: Sequence[str]) -> bool:
    """Whether a command runs its program as another user."""
    name = PurePath(words[0]).name
    return name in _USER_CHANGERS and (name != "setpriv" or any(word.startswith("--reuid") for word in words))

"""Checks that Claude Code can ask where a worker has it ask: with a session to go on with, and hooks that run."""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from agentbus.admin.doctor.finding import Finding, warning
from agentbus.config.worker_schema import AgentSection
from agentbus.observability.agent_telemetry import text_of_settings
from agentbus.protocol.json_codec import Json, object_in

_BARE: Final = re.compile(r"(?<!\S)--bare(?!\S)")
_SIMPLE: Final = "CLAUDE_CODE_SIMPLE"
"""The variable for the option."""
_ALL_OFF: Final = "disableAllHooks"
_MANAGED_ONLY: Final = "allowManagedHooksOnly"


def check_asking(agent: AgentSection, name: str, folder: Path) -> Iterator[Finding]:
    """Yield a warning for what keeps an agent with `ask_before` from asking, or from going on with an answer.

    Args:
        name: of its program.
        folder: in which it runs, or below which it does.
    """
    if not agent.ask_before:
        return
    if agent.resume_cmd is None:
        yield warning(
            "ask_before",
            f"{name} asks before some calls, and there is no resume_cmd: an answer begins the task anew",
            "give [agent] the resume_cmd of the preset, so that an approval runs the very call",
        )
    if where := hooks_are_off((*agent.chat_cmd, *(agent.resume_cmd or ())), os.environ, folder):
        yield warning(
            "ask_before",
            f"{where} turns hooks off: {name} denies the calls that ask_before names, and no person is asked",
            "turn the hooks on again, or take ask_before out of [agent]",
        )


def hooks_are_off(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> str:
    """Return where they are turned off: an option, a variable or a file; an empty text if nowhere, as far as is known.

    Blocks on the disk.

    Args:
        words: the command.
        environment: that of the command.
        folder: in which the command runs.
    """
    if _BARE.search(" ".join(words)):
        return "its option --bare"
    if environment.get(_SIMPLE, "") not in ("", "0", "false"):
        return f"the variable {_SIMPLE}"
    for file, key in _settings_files(environment, folder):
        if _settings_in(file).get(key) is True:
            return f"{key} in {file}"
    return ""


def _settings_files(environment: Mapping[str, str], folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files that it reads, each with the key that turns hooks off in it."""
    managed = "/Library/Application Support/ClaudeCode" if sys.platform == "darwin" else "/etc/claude-code"
    for key in (_ALL_OFF, _MANAGED_ONLY):
        yield Path(managed, "managed-settings.json"), key
    home = environment.get("HOME")
    own = environment.get("CLAUDE_CONFIG_DIR") or (home and str(Path(home, ".claude")))
    if own:
        yield Path(own, "settings.json"), _ALL_OFF
    for name in ("settings.json", "settings.local.json"):
        yield folder / ".claude" / name, _ALL_OFF


def _settings_in(file: Path) -> dict[str, Json]:
    try:
        return object_in(json.loads(text_of_settings(file) or "{}"))
    except (ValueError, RecursionError):  # it reads no such file either
        return {}

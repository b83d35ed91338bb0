"""The commands of known agents: how to run each safely for one prompt, without a terminal."""

import shutil
from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Preset:
    """How to run one agent.

    The agent gets the prompt on standard input if it can read it there. Then the prompt is in no process list, is never
    taken for an option, and may be as large as a task. No preset approves actions.

    Attributes:
        version: the version with which the command was tried.
        rights: how an operator gives the agent more rights, for the comment in the configuration.
    """

    command: tuple[str, ...]
    prompt_via: Literal["argv", "stdin"]
    version: str
    rights: str

    @property
    def executable(self) -> str:
        """The program that must be on the PATH."""
        return self.command[0]


PRESETS: Final[dict[str, Preset]] = {
    "claude": Preset(
        ("claude", "-p", "--output-format", "text"),
        "stdin",
        "2.1.197",
        "--permission-mode acceptEdits lets it change files; --allowedTools names what it may run",
    ),
    "codex": Preset(
        ("codex", "exec", "--skip-git-repo-check", "--sandbox", "workspace-write", "-"),
        "stdin",
        "0.169.0",
        "its sandbox lets it change files below the folder in which it starts, and nothing else",
    ),
    "gemini": Preset(
        ("gemini", "--output-format", "text", "--approval-mode", "default"),
        "stdin",
        "0.61.0",
        "--approval-mode auto_edit lets it change files",
    ),
    "opencode": Preset(
        ("opencode", "run"),
        "stdin",
        "1.18.33",
        "its own configuration says what it may do",
    ),
    "hermes": Preset(
        ("hermes", "chat", "--quiet", "--query={input}"),
        "argv",
        "0.19.0",
        "its own configuration says what it may do",
    ),
}


def installed() -> list[str]:
    """Return the names of the presets whose program is on the PATH."""
    return [name for name, preset in PRESETS.items() if shutil.which(preset.executable)]

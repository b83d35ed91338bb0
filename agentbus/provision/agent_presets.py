"""Agent commands that are known to work in one shot, as data: how to call each one safely."""

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Preset:
    """How one agent is called.

    The prompt goes in by standard input where the agent takes it: there it is in no process list, cannot be read as an
    option, and has no bound but the task's. No preset approves anything by itself.
    """

    command: tuple[str, ...]
    prompt_via: Literal["argv", "stdin"]
    version: str
    rights: str

    @property
    def executable(self) -> str:
        """What has to be on the PATH."""
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

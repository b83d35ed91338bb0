"""The commands of known agents: how to run each safely for one prompt, without a terminal."""

import shutil
from dataclasses import dataclass
from typing import Final, Literal

from agentbus.config.worker_schema import INTERRUPTIBLE


@dataclass(frozen=True, slots=True)
class Preset:
    """How to run one agent.

    The agent gets the prompt on standard input if it can read it there. Then the prompt is in no process list, is never
    taken for an option, and may be as large as a task. No preset approves actions.

    Attributes:
        version: the version with which the command was tried.
        rights: how an operator gives the agent more rights, for the comment in the configuration.
        output: how the worker reads what the command prints.
        acp_mode: the mode in which an agent of the Agent Client Protocol asks before it does something.
        untold: what that does not tell, for the same comment.
        resume: the command that goes on with a session; None where that was not tried, or is not possible.
    """

    command: tuple[str, ...]
    prompt_via: Literal["argv", "stdin"]
    version: str
    rights: str
    output: Literal["text", "claude", "codex", "gemini", "opencode", "qwen", "acp"] = "text"
    untold: str = ""
    acp_mode: str = ""
    resume: tuple[str, ...] | None = None

    @property
    def executable(self) -> str:
        """The program that must be on the PATH."""
        return self.command[0]

    @property
    def resumes_interrupted(self) -> bool:
        """Whether it goes on with a session whose run was killed: then a task does that too, else it begins anew."""
        return self.resume is not None and self.output in INTERRUPTIBLE


_ASKS: Final = 'what it asks for is denied: permissions = "allow" in [agent] allows it'
_UNTOLD: Final = "that it tries its model again, and not always a cut answer from a whole one"

PRESETS: Final[dict[str, Preset]] = {
    "claude": Preset(
        ("claude", "-p", "--output-format", "stream-json", "--verbose", "--include-partial-messages"),
        "stdin",
        "2.1.332",
        "--permission-mode acceptEdits lets it change files; --allowedTools names what it may run",
        "claude",
        resume=(
            "claude",
            "-p",
            "--output-format",
            "stream-json",
            "--verbose",
            "--include-partial-messages",
            "--resume",
            "{session}",
        ),
    ),
    "codex": Preset(
        ("codex", "exec", "--json", "--skip-git-repo-check", "--sandbox", "workspace-write", "-"),
        "stdin",
        "0.171.0",
        "its sandbox lets it change files below the folder in which it starts, and nothing else",
        "codex",
        "a refusal from an empty answer",
        resume=(
            "codex",
            "exec",
            "--json",
            "--skip-git-repo-check",
            "--sandbox",
            "workspace-write",
            "resume",
            "{session}",
            "-",
        ),
    ),
    "gemini": Preset(
        ("gemini", "--output-format", "stream-json", "--approval-mode", "default"),
        "stdin",
        "0.61.0",
        "it is offered no tool that would ask; --approval-mode auto_edit lets it change files",
        "gemini",
        "an answer that was cut at the model's limit from a whole one where you have set up telemetry for it",
        resume=("gemini", "--output-format", "stream-json", "--approval-mode", "default", "--resume", "{session}"),
    ),
    "opencode": Preset(
        ("opencode", "run", "--format", "json", "--print-logs", "--log-level", "ERROR"),
        "stdin",
        "1.18.33",
        "its own configuration says what it may do, and it stops at a tool for which that says ask",
        "opencode",
        "for how long its model's server has it wait",
        resume=("opencode", "run", "--format", "json", "--print-logs", "--log-level", "ERROR", "-s", "{session}"),
    ),
    "qwen": Preset(
        ("qwen", "--output-format", "stream-json", "--include-partial-messages", "--approval-mode", "default"),
        "stdin",
        "0.24.4",
        "it is offered no tool that would ask; --approval-mode auto-edit lets it change files",
        "qwen",
        "a refusal from an empty answer, nor for how long its model's server has it wait",
        resume=(
            "qwen",
            "--output-format",
            "stream-json",
            "--include-partial-messages",
            "--approval-mode",
            "default",
            "--resume",
            "{session}",
        ),
    ),
    "hermes": Preset(
        ("hermes", "chat", "--quiet", "--query={input}"),
        "argv",
        "0.19.0",
        "its own configuration says what it may do",
        untold="an answer that was cut at the model's limit, or a denied tool, from work that was done",
    ),
    "claude-acp": Preset(
        ("claude-agent-acp",),
        "stdin",
        "0.49.0",
        f"{_ASKS}; it needs the package @agentclientprotocol/claude-agent-acp",
        "acp",
        _UNTOLD,
        acp_mode="default",
    ),
    "codex-acp": Preset(
        ("codex-acp",),
        "stdin",
        "2.6.0",
        f"{_ASKS}; it needs the package @agentclientprotocol/codex-acp",
        "acp",
        _UNTOLD,
    ),
    "gemini-acp": Preset(("gemini", "--acp", "--approval-mode", "default"), "stdin", "0.61.0", _ASKS, "acp", _UNTOLD),
    "opencode-acp": Preset(("opencode", "acp"), "stdin", "1.18.33", _ASKS, "acp", _UNTOLD),
    "qwen-acp": Preset(("qwen", "--acp", "--approval-mode", "default"), "stdin", "0.24.4", _ASKS, "acp", _UNTOLD),
    "hermes-acp": Preset(("hermes", "acp"), "stdin", "0.19.0", _ASKS, "acp", _UNTOLD),
}


def installed() -> list[str]:
    """Return the names of the presets whose program is on the PATH, each program once."""
    return [name for name, preset in PRESETS.items() if preset.output != "acp" and shutil.which(preset.executable)]

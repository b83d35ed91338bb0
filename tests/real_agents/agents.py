"""The real agents that are recorded: their packages, and how each is told to use the model server of the test."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

PROMPT: Final = "What is the answer? Run a command if you need one."


@dataclass(frozen=True)
class Agent:
    """One agent.

    Attributes:
        package: what npm or pip installs; the version is the one that the recorded lines are of.
        command: what the preset runs, with the output that a program can read.
        allowing: what is added to the command for the case in which a tool may run.
        editing: what is added to the command for the case in which files may be changed.
        setup: writes the agent's configuration into a home, and returns what the environment needs; it gets the home
            and the address of the model server with the case.
    """

    package: str
    version: str
    command: tuple[str, ...]
    setup: Callable[[Path, str, str], Mapping[str, str]]
    allowing: tuple[str, ...] = ()
    editing: tuple[str, ...] = ()


def _write(path: Path, text: str | dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")


def _claude(home: Path, url: str, case: str) -> Mapping[str, str]:
    _write(home / ".claude.json", {"hasCompletedOnboarding": True, "autoUpdates": False})
    if case == "hooks_off":
        _write(home / ".claude" / "settings.json", {"disableAllHooks": True})
    return {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "sk-of-the-test",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "2",  # of ten, which take three minutes
        "DISABLE_AUTOUPDATER": "1",
    }


def _codex(home: Path, url: str, case: str) -> Mapping[str, str]:
    model = "gpt-5.5" if case in EDIT_CASES else "model-of-the-test"  # it offers its patch tool to models that it knows
    _write(
        home / ".codex" / "config.toml",
        f'model = "{model}"\nmodel_provider = "test"\n\n[model_providers.test]\nname = "test"\n'
        f'base_url = "{url}/v1"\nenv_key = "KEY_OF_THE_TEST"\nwire_api = "responses"\n',
    )
    return {"CODEX_HOME": str(home / ".codex"), "KEY_OF_THE_TEST": "sk-of-the-test"}


def _gemini(home: Path, url: str, case: str) -> Mapping[str, str]:
    settings = {
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "general": {"disableAutoUpdate": True, "enableAutoUpdate": False},
        "privacy": {"usageStatisticsEnabled": False},
    }
    _write(home / ".gemini" / "settings.json", settings)
    return {
        "GOOGLE_GEMINI_BASE_URL": url,
        "GEMINI_API_KEY": "key-of-the-test",
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
    }


def _opencode(home: Path, url: str, case: str) -> Mapping[str, str]:
    model = {"name": "model-of-the-test", "limit": {"context": 200_000, "output": 8_000},
             "cost": {"input": 3, "output": 15}}  # fmt: skip
    provider = {"npm": "@ai-sdk/anthropic", "name": "test", "models": {"model-of-the-test": model},
                "options": {"baseURL": f"{url}/v1", "apiKey": "sk-of-the-test"}}  # fmt: skip
    config: dict[str, Any] = {
        "$schema": "https://opencode.ai/config.json",
        "model": "test/model-of-the-test",
        "small_model": "test/model-of-the-test",
        "provider": {"test": provider},
        "autoupdate": False,
        "share": "disabled",
    }
    if case == "denied":
        config["permission"] = {"bash": "ask"}
    _write(home / ".config" / "opencode" / "opencode.json", config)
    return {
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    }


def _qwen(home: Path, url: str, case: str) -> Mapping[str, str]:
    settings = {
        "security": {"auth": {"selectedType": "openai"}},
        "general": {"enableAutoUpdate": False},
        "privacy": {"usageStatisticsEnabled": False},
        "model": {"name": "model-of-the-test"},
    }
    _write(home / ".qwen" / "settings.json", settings)
    return {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "sk-of-the-test", "OPENAI_MODEL": "model-of-the-test"}


def _hermes(home: Path, url: str, case: str) -> Mapping[str, str]:
    model = {"default": "model-of-the-test", "provider": "custom", "base_url": f"{url}/v1",
             "api_key": "sk-of-the-test", "context_length": 200_000}  # fmt: skip
    _write(home / ".hermes" / "config.yaml", {"model": model})  # JSON is YAML
    return {}


def _claude_acp(home: Path, url: str, case: str) -> Mapping[str, str]:
    program = shutil.which("claude") or "claude"
    return {**_claude(home, url, case), "CLAUDE_CODE_EXECUTABLE": program, "IS_SANDBOX": "1"}


AGENTS: Final[dict[str, Agent]] = {
    "claude": Agent(
        "@anthropic-ai/claude-code",
        "2.1.332",
        ("claude", "-p", "--output-format", "stream-json", "--verbose", "--include-partial-messages"),
        _claude,
        allowing=("--allowedTools", "Bash"),
        editing=("--permission-mode", "acceptEdits"),
    ),
    "codex": Agent(
        "@openai/codex",
        "0.171.0",
        ("codex", "exec", "--json", "--skip-git-repo-check", "--sandbox", "workspace-write", "-"),
        _codex,
    ),
    "gemini": Agent(
        "@google/gemini-cli",
        "0.61.0",
        ("gemini", "--output-format", "stream-json", "--approval-mode", "default"),
        _gemini,
        allowing=("--approval-mode", "yolo"),
        editing=("--approval-mode", "auto_edit"),
    ),
    "opencode": Agent(
        "opencode-ai",
        "1.18.33",
        ("opencode", "run", "--format", "json", "--print-logs", "--log-level", "ERROR"),
        _opencode,
    ),
    "qwen": Agent(
        "@qwen-code/qwen-code",
        "0.24.4",
        ("qwen", "--output-format", "stream-json", "--include-partial-messages", "--approval-mode", "default"),
        _qwen,
        allowing=("--approval-mode", "yolo"),
        editing=("--approval-mode", "auto-edit"),
    ),
}

TEXT_AGENTS: Final[dict[str, Agent]] = {
    "hermes": Agent("hermes-agent[acp]", "0.19.0", ("hermes", "chat", "--quiet", "--query={input}"), _hermes),
}
"""Those that print text, of which no lines are recorded; pip installs them."""

ACP_AGENTS: Final[dict[str, Agent]] = {
    "claude-acp": Agent("@agentclientprotocol/claude-agent-acp", "0.49.0", ("claude-agent-acp",), _claude_acp),
    "codex-acp": Agent("@agentclientprotocol/codex-acp", "2.6.0", ("codex-acp",), _codex),
    "gemini-acp": Agent("@google/gemini-cli", "0.61.0", ("gemini", "--acp", "--approval-mode", "default"), _gemini),
    "opencode-acp": Agent("opencode-ai", "1.18.33", ("opencode", "acp"), _opencode),
    "qwen-acp": Agent("@qwen-code/qwen-code", "0.24.4", ("qwen", "--acp", "--approval-mode", "default"), _qwen),
    "hermes-acp": Agent("hermes-agent[acp]", "0.19.0", ("hermes", "acp"), _hermes),
}
"""Those that speak the Agent Client Protocol; most are programs of the others."""

ALL_AGENTS: Final = AGENTS | TEXT_AGENTS | ACP_AGENTS

CASES: Final = (
    "ok", "tool", "denied", "approval", "empty", "refusal", "max_tokens",
    "auth", "forbidden", "rate_limit", "rate_limit_long", "quota", "billing", "overloaded", "server_error", "context",
    "model", "no_connection", "cut", "hang", "hang_before", "keepalive", "loop", "resumed", "unknown_session",
)  # fmt: skip
"""What each agent goes through. In `loop` the model calls tools without end, in `resumed` a session goes on."""

MORE_CASES: Final = ("long_tool", "slow", "permitted", "cancel")
"""Cases of `make real-agents` alone, of which no lines are recorded: a tool that is silent, an answer that is slow, a
tool that the worker permits, and a task that is cancelled."""
CONVERSATIONS: Final = ("follow_up", "folder_gone", "unasked", "approved", "not_approved", "hooks_off", "bare")
"""Cases of `make real-agents` alone with several tasks: see `conversing`."""
EDIT_CASES: Final = ("edit",)
"""A case of `make real-agents` alone: the agent changes a file of a repository, and the change comes home."""
PERSON_CASES: Final = ("person_approves", "person_denies")
"""Cases of `make real-agents` alone, over the Agent Client Protocol: a person is asked while the run goes on."""
ACP_CASES: Final = ("ok", "tool", "denied", "permitted", *PERSON_CASES, "auth", "cancel")
"""What those go through that speak the Agent Client Protocol."""
MODEL_CASES: Final = {"permitted": "denied", **dict.fromkeys(PERSON_CASES, "denied"), "cancel": "hang"}
"""What the model does in a case, where it does not have its name."""


def cases_of(name: str) -> tuple[str, ...]:
    """Return the cases that an agent goes through."""
    if name == "codex-acp":  # its sandbox refuses without asking
        return tuple(case for case in ACP_CASES if case not in ("denied", "permitted", *PERSON_CASES))
    if name in ACP_AGENTS:
        return ACP_CASES
    more = tuple(case for case in MORE_CASES if case not in MODEL_CASES)
    conversations = {"claude": CONVERSATIONS, "hermes": ()}.get(name, CONVERSATIONS[:2])
    return (*CASES, *more, *conversations, *(EDIT_CASES if name in AGENTS else ()))


NO_SESSION: Final = "00000000-0000-4000-8000-000000000000"


def command_of(name: str, case: str, session: str | None = None) -> list[str]:
    """Return the words with which an agent is run in a case, and goes on with a session where one is named."""
    agent = ALL_AGENTS[name]
    words = list(agent.command)
    if name in ACP_AGENTS:
        return words
    if case in ("tool", "long_tool", "loop", *EDIT_CASES):
        more = agent.editing if case in EDIT_CASES else agent.allowing
        for option in more[::2]:
            if option in words:
                at = words.index(option)
                del words[at : at + 2]
        words[1:1] = more if name != "claude" else ()
        words += more if name == "claude" else ()
    if session is not None:
        match name:
            case "codex":
                words[-1:] = ["resume", session, "-"]
            case "opencode":
                words += ["-s", "ses_" + session.replace("-", "")[:27] if session == NO_SESSION else session]
            case _:
                words += ["--resume", session]
    return words


if __name__ == "__main__":  # what npm installs, and what pip does
    if sys.argv[1:] == ["--pip"]:
        print(*(f"{agent.package}=={agent.version}" for agent in TEXT_AGENTS.values()))
    else:
        npm = [agent for name, agent in (AGENTS | ACP_AGENTS).items() if name != "hermes-acp"]
        print(*sorted({f"{agent.package}@{agent.version}" for agent in npm}))

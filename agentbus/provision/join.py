"""Writes what a machine needs to join a bus, from a bundle: a configuration, a credential and the CA."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentbus.config.loading import load_coordinator, load_worker
from agentbus.config.private_files import private_folder, write_private
from agentbus.config.toml_text import toml_text
from agentbus.config.worker_schema import INPUT_FILE_PLACEHOLDER, INPUT_PLACEHOLDER, refuse_shell
from agentbus.errors import ConfigError
from agentbus.protocol import subjects
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.provision.agent_presets import PRESETS, Preset
from agentbus.provision.bundle import Bundle, sign_in

WORKER_FILE = "config.toml"
COORDINATOR_FILE = "coordinator.toml"


@dataclass(frozen=True, slots=True)
class AgentCommand:
    """The agent command of a worker: its words, how it gets the prompt, and how what it prints is read.

    Attributes:
        resume: the words of the command that goes on with a session, where the agent has one.
    """

    words: tuple[str, ...]
    prompt_via: str
    remark: str = ""
    output: str = "text"
    acp_mode: str = ""
    resume: tuple[str, ...] | None = None


def preset_command(name: str) -> AgentCommand:
    """Return the agent command of a preset."""
    preset: Preset = PRESETS[name]
    remark = f"As of {preset.executable} {preset.version}. It gets no rights by itself: {preset.rights}."
    remark += f" It does not tell {preset.untold}." if preset.untold else ""
    return AgentCommand(
        preset.command,
        preset.prompt_via,
        remark,
        output=preset.output,
        acp_mode=preset.acp_mode,
        resume=preset.resume,
    )


def custom_command(text: str) -> AgentCommand:
    """Split the agent command that an operator wrote. Without a placeholder it gets the prompt on standard input.

    Raises:
        ConfigError: it cannot be split into words, is empty, or is for a shell.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise ConfigError(f"the command cannot be split into words: {error}") from None
    try:
        refuse_shell(words)
    except ValueError as error:
        raise ConfigError(f"the command {error}") from None
    if not words:
        raise ConfigError("the command is empty")
    if any(INPUT_PLACEHOLDER in word for word in words):
        return AgentCommand(words, "argv")
    return AgentCommand(words, "file" if any(INPUT_FILE_PLACEHOLDER in word for word in words) else "stdin")


_ASKING: Final = {
    "claude": 'To have it ask a person before some calls of tools: ask_before = ["Bash(git push*)"]',
    "acp": 'It is denied what it asks for. permissions = "ask" has a person answer, "allow" allows all.',
}
"""What a configuration says of agents that can ask, above their `output`."""


def join_as_worker(bundle: Bundle, folder: Path, command: AgentCommand) -> Path:
    """Write the configuration of a worker, its credential and its CA into `folder`; returns the configuration.

    Raises:
        ConfigError: the bundle is not that of a worker, or the folder has a configuration already.
    """
    if bundle.role != "worker":
        who = bundle.role if bundle.role in ("coordinator", "administrator") else f"coordinator {bundle.id}"
        raise ConfigError(f"this bundle is for the {who}; use it with: agentbus coordinator init --bundle FILE")
    path = folder / WORKER_FILE
    _refuse_existing(path, "agentbus worker init")
    head = "# Configuration of `agentbus worker run`. All keys: config/agentbus.worker.example.toml.\n\n"
    agent = {
        "id": bundle.id,
        "chat_cmd": command.words,
        "prompt_via": command.prompt_via,
        **({"output": command.output} if command.output != "text" else {}),
        **({"acp_mode": command.acp_mode} if command.acp_mode else {}),
        "resume_cmd": command.resume,
    }
    remarks = {"chat_cmd": command.remark} if command.remark else {}
    if command.resume:
        remarks["resume_cmd"] = "How it goes on with a session, for follow-ups. Give it the rights that chat_cmd has."
    if command.output in _ASKING:
        remarks["output"] = _ASKING[command.output]
    _write(
        bundle, folder, path, head + toml_text({"agent": agent, "nats": _nats_section(bundle, folder)}, remarks=remarks)
    )
    load_worker(path)
    return path


def join_as_coordinator(bundle: Bundle, folder: Path) -> Path:
    """Write the configuration of a coordinator, its credential and its CA into `folder`; returns the configuration.

    An agent that may give tasks to others is a coordinator as well: it publishes them under its own id.

    Raises:
        ConfigError: the bundle is that of a worker that may give no tasks, or the folder has a configuration already.
    """
    if bundle.role == "worker" and not bundle.may_task:
        raise ConfigError(
            f"the agent {bundle.id} may not give tasks to others; its bundle is for: agentbus worker init --bundle FILE"
        )
    path = folder / COORDINATOR_FILE
    _refuse_existing(path, "agentbus coordinator init")
    nats = {**_nats_section(bundle, folder), "inbox_prefix": subjects.inbox_prefix(bundle.id)}
    head = "# Configuration of the coordinator: the `agentbus` commands and the MCP server.\n\n"
    _write(bundle, folder, path, head + toml_text({"nats": nats, "coordinator": _coordinator_section(bundle)}))
    load_coordinator(path=path)
    return path


def _coordinator_section(bundle: Bundle) -> dict[str, str | Sequence[str] | None]:
    """Return who the coordinator is. The role of `main`, of an agent and of the administrator follows from the id."""
    if bundle.role in ("worker", "coordinator", "administrator"):
        return {"id": subjects.COORDINATOR if bundle.id == ADMINISTRATOR else bundle.id}
    return {"id": bundle.id, "role": bundle.role, "agents": bundle.agents}


def renew(bundle: Bundle, folder: Path) -> Sequence[Path]:
    """Replace the credential and the CA of a party by those of its new bundle; the configuration stays as it is.

    Raises:
        ConfigError: this party has not joined from this folder.
    """
    secret = folder / bundle.secret_name
    if not secret.is_file():
        raise ConfigError(f"{secret} does not exist: {bundle.id} has not joined from {folder}; leave out --renew")
    if bundle.tasks_secret is not None and not (folder / bundle.tasks_secret_name).is_file():
        raise ConfigError(
            f"the configuration in {folder} is for one credential, and the administrator has two on this bus by now; "
            f"take another folder: agentbus coordinator init --bundle FILE --folder FOLDER"
        )
    return _write_credential(bundle, folder)


def _refuse_existing(path: Path, command: str) -> None:
    if path.exists():
        raise ConfigError(
            f"{path} exists already and was left as it is; for a new credential use {command} --bundle FILE --renew, "
            "for one more configuration name another folder with --folder"
        )


def _nats_section(bundle: Bundle, folder: Path) -> dict[str, str | Path]:
    second = folder / bundle.tasks_secret_name if bundle.tasks_secret is not None else None
    keys = sign_in(bundle.auth, bundle.id, folder / bundle.secret_name, second)
    nats: dict[str, str | Path] = {"url": bundle.url, **keys}
    if bundle.ca is not None:
        nats["ca_file"] = folder / _ca_name(bundle)
    return nats


def _ca_name(bundle: Bundle) -> str:
    return f"{bundle.id}.ca.pem"


def _write(bundle: Bundle, folder: Path, path: Path, text: str) -> None:
    private_folder(folder)
    _write_credential(bundle, folder)
    write_private(path, text)


def _write_credential(bundle: Bundle, folder: Path) -> Sequence[Path]:
    written = [folder / bundle.secret_name]
    write_private(written[0], f"{bundle.secret}\n", replace=True)
    if bundle.tasks_secret is not None:
        written.append(folder / bundle.tasks_secret_name)
        write_private(written[1], f"{bundle.tasks_secret}\n", replace=True)
    if bundle.ca is not None:
        written.append(folder / _ca_name(bundle))
        write_private(written[-1], bundle.ca, replace=True)
    return written

"""Checks that what an agent command prints is read as what it is, and says what a known agent may not do.

A worker with `output = "text"` gives out the lines of JSON of an agent as its answer, and takes failed work for done.
"""

import json
import os
import re
import shlex
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from agentbus.admin.doctor.agent.claude_hooks import check_asking
from agentbus.admin.doctor.check_context import CheckContext
from agentbus.admin.doctor.finding import Finding, ok, warning
from agentbus.config.worker_schema import SESSION_PLACEHOLDER, AgentSection
from agentbus.coordinator import Coordinator
from agentbus.errors import BusError
from agentbus.observability.agent_telemetry import own_telemetry
from agentbus.protocol.json_codec import Json, object_in
from agentbus.protocol.messages import Result
from agentbus.protocol.outcomes.run_report import FALLBACK, run_in

_NEWEST: Final = 20
"""How many results are looked at: the latest ones, of the agents as they are now."""
_FIRST_LINE_CHARS: Final = 100_000
"""The first event of an agent has a few thousand characters, with all of its tools."""


@dataclass(frozen=True, slots=True)
class _Known:
    """How a program is told to print its events, and how it may do more than by default.

    Attributes:
        events: the options that a worker can read the output of.
        asks_for_json: matches options with which it prints JSON of any kind.
        asks_for_events: matches those of `events`.
        may_more: matches options that give it rights.
        rights: what it may do without them.
        untold: what its events do not tell, and what a result of it is therefore.
    """

    events: str
    asks_for_json: str
    asks_for_events: str
    may_more: str
    rights: str
    untold: str = ""


_FORMAT: Final = r"(?:--output-format|-o)[ =]"
_NOT_OFFERED: Final = "is not offered any tool that asks for a permission: it runs no command and changes no file"
_REFUSAL: Final = "does not tell a refusal from an empty answer: it is empty"
_WAIT: Final = "does not tell for how long its model's server has it wait: such a run ends"
_KNOWN: Final[dict[str, _Known]] = {
    "claude": _Known(
        "--output-format stream-json --verbose --include-partial-messages",
        _FORMAT + r"(?:stream-)?json\b",
        _FORMAT + r"stream-json\b",
        r"--(?:permission-mode|allowed-?[tT]ools|settings|dangerously-skip-permissions|permission-prompt-tool)\b",
        "is denied each tool that asks for a permission, and goes on without: --permission-mode and --allowedTools "
        "say what it may do",
    ),
    "codex": _Known(
        "exec --json",
        r"--json\b",
        r"--json\b",
        r"(?:--sandbox|-s)[ =](?:workspace-write|danger-full-access)\b|--dangerously-bypass",
        "may read and change nothing: --sandbox workspace-write lets it change files below its folder",
        _REFUSAL,
    ),
    "gemini": _Known(
        "--output-format stream-json",
        _FORMAT + r"(?:stream-)?json\b",
        _FORMAT + r"stream-json\b",
        r"--approval-mode[ =](?:auto_edit|yolo)\b|--yolo\b|(?<!\S)-y\b|--allowed-tools\b",
        f"{_NOT_OFFERED}; --approval-mode auto_edit lets it change files",
    ),
    "opencode": _Known(
        "run --format json --print-logs --log-level ERROR",
        r"--format[ =]json\b",
        r"--format[ =]json\b",
        r"--auto\b|--dangerously-skip-permissions\b",
        "stops at the first tool for which its configuration says ask",
        f"{_WAIT} after stall_timeout_seconds, as quota if it said that there is a limit",
    ),
    "qwen": _Known(
        "--output-format stream-json --include-partial-messages",
        _FORMAT + r"(?:stream-)?json\b",
        _FORMAT + r"stream-json\b",
        r"--approval-mode[ =](?:auto-edit|auto_edit|yolo)\b|--yolo\b|(?<!\S)-y\b|--allowed-tools\b",
        f"{_NOT_OFFERED}; --approval-mode auto-edit lets it change files",
        f"{_REFUSAL}. It {_WAIT} after stall_timeout_seconds",
    ),
}
"""The agents with a format of events. The name of each is that of its program and of its format."""
_ADAPTERS: Final = ("claude-agent-acp", "codex-acp", "hermes-acp")
"""Programs that speak the Agent Client Protocol and nothing else."""
_ACP_OPTIONS: Final = {"gemini": r"--(?:experimental-)?acp\b", "qwen": r"--acp\b", "opencode": r"(?<!\S)acp\b"}
"""What has the others speak it."""


def check_command(agent: AgentSection, folder: Path) -> Iterator[Finding]:
    """Yield what a command of a known agent cannot do, and a warning if its output is not read as what it is.

    Args:
        folder: in which it runs, or below which it does.
    """
    name, options = _program(agent.chat_cmd)
    speaks = _speaks_acp(agent.chat_cmd, name, options)
    if agent.output == "acp" or speaks:
        yield from _check_acp(agent, name, speaks=speaks)
        return
    yield from _check_placeholder(agent)
    if name is not None:
        yield from _check_known(agent, name, options, folder)


def _check_known(agent: AgentSection, name: str, options: str, folder: Path) -> Iterator[Finding]:
    """Yield what a command with a format of events cannot do or tell, and a warning if it is not read as that."""
    known = _KNOWN[name]
    if agent.output == "text" and re.search(known.asks_for_json, options):
        yield warning(
            "output",
            f'chat_cmd has {name} print JSON, and output is "text": that JSON is the result, and failed work can be '
            "completed",
            f'set output = "{name}" in [agent], and give the command the options {known.events}',
        )
    elif agent.output not in ("text", name):
        yield warning(
            "output", f'chat_cmd runs {name}, and output is "{agent.output}"', f'set output = "{name}" in [agent]'
        )
    elif agent.output == name and not re.search(known.asks_for_events, options):
        yield warning(
            "output",
            f'output is "{name}", and chat_cmd does not have {name} print its events: it is read as text',
            f"give the command the options {known.events}",
        )
    elif agent.output == name and (untold := known.untold or _kept_from_telling(name, agent, folder)):
        yield ok("untold", f"{name} {untold}")
    may_more = re.search(known.may_more, options) is not None
    if not may_more:
        yield ok("rights", f"{name} {known.rights}")
    yield from _check_resuming(agent.resume_cmd, name, known, may_more=may_more)
    yield from check_asking(agent, name, folder)


def _check_placeholder(agent: AgentSection) -> Iterator[Finding]:
    if any(SESSION_PLACEHOLDER in word for word in agent.chat_cmd):
        yield warning(
            "chat_cmd",
            f"chat_cmd has {SESSION_PLACEHOLDER}, which is replaced in resume_cmd only: each task begins a session",
            "put the command that goes on with a session into resume_cmd",
        )


def _check_resuming(command: Sequence[str] | None, name: str, known: _Known, *, may_more: bool) -> Iterator[Finding]:
    """Yield a warning where a follow-up would be run otherwise than the task that it goes on with."""
    if command is None:
        return
    program, options = _program(command)
    if program != name:
        found = program or PurePath(command[0]).name
        yield warning("resume_cmd", f"chat_cmd runs {name}, and resume_cmd {found}", "let both run the same agent")
    elif not re.search(known.asks_for_events, options):
        yield warning(
            "resume_cmd",
            f"resume_cmd does not have {name} print its events: what it prints is read as text",
            f"give it the options {known.events}",
        )
    elif may_more != (re.search(known.may_more, options) is not None):
        yield warning(
            "resume_cmd",
            f"chat_cmd and resume_cmd give {name} other rights: a follow-up may do more than its first task, or less",
            "give both the same options",
        )


def _check_acp(agent: AgentSection, name: str | None, *, speaks: bool) -> Iterator[Finding]:
    """Yield what an agent of the Agent Client Protocol may do, and a warning if only one side speaks it."""
    if agent.output != "acp":
        yield warning(
            "output",
            f'chat_cmd has {name or agent.chat_cmd[0]} speak the Agent Client Protocol, and output is "{agent.output}"',
            'set output = "acp" in [agent]',
        )
        return
    if name is not None and not speaks:
        yield warning(
            "output",
            f'output is "acp", and chat_cmd does not have {name} speak the Agent Client Protocol',
            f"see the preset {name}-acp: agentbus worker init --help",
        )
    if agent.permissions == "ask":
        yield ok("rights", "the agent waits for a person where it asks for something")
    elif agent.permissions != "allow":
        yield ok("rights", 'the agent is denied what it asks for: permissions = "allow" in [agent] allows it')
    else:
        yield ok("rights", "the agent is allowed all that it asks for")


def _speaks_acp(command: Sequence[str], name: str | None, options: str) -> bool:
    """Whether a command is known to speak the Agent Client Protocol."""
    if any(PurePath(word).name in _ADAPTERS for word in command):
        return True
    return name in _ACP_OPTIONS and re.search(_ACP_OPTIONS[name], options) is not None


def _kept_from_telling(name: str, agent: AgentSection, folder: Path) -> str:
    """Return what an agent that is asked for its telemetry does not tell, because a person uses that otherwise."""
    where = own_telemetry(agent.chat_cmd, os.environ, folder) if name == "gemini" else ""
    return where and (
        f"does not tell an answer that was cut at the model's limit from a whole one: it is completed. Workers read "
        f"that in its telemetry, which {where} sets here, and which they leave as it is"
    )


def check_result(result: Result) -> Finding | None:
    """Return a warning if a worker has not understood what the command of a result printed, or was not told to."""
    run = run_in(result.model_extra or {})
    if run is not None and run.format == FALLBACK:
        return warning(
            "output",
            f"{result.agent}: what its command prints has not the form of {run.kind}, and was read as text: failed "
            "work can be completed",
            "run there: agentbus doctor --role worker. After an update of the agent, update agentbus on its machine",
        )
    if run is None and (name := _events_in(result.result)) is not None:
        return warning(
            "output",
            f"{result.agent}: its result is the events that {name} prints, which its worker reads as text",
            f'set output = "{name}" in [agent] on its machine',
        )
    return None


async def check_results(context: CheckContext) -> AsyncIterator[Finding]:
    """Yield a warning for each agent whose newest result was not read as what it is."""
    try:
        messages = await Coordinator(context.bus, context.agent).results(newest=_NEWEST)
    except BusError:  # the permissions and the streams are checked by themselves
        return
    newest = {message.result.agent: message.result for message in messages if message.result is not None}
    for result in newest.values():
        if (finding := check_result(result)) is not None:
            yield finding


def _program(command: Sequence[str]) -> tuple[str | None, str]:
    """Return the known agent that a command runs, also in a line for a shell, and the words after its name."""
    words: list[str] = []
    for word in command:
        parts = [word]
        if " " in word:
            with suppress(ValueError):
                parts = shlex.split(word, comments=True)
        words += parts
    for number, word in enumerate(words):
        if (name := PurePath(word).name) in _KNOWN:
            return name, " ".join(words[number + 1 :])
    return None, ""


def _events_in(text: Json) -> str | None:
    """Return the agent whose events a result consists of."""
    if not isinstance(text, str) or not text.lstrip().startswith("{"):
        return None
    line = text.lstrip()[:_FIRST_LINE_CHARS].partition("\n")[0]
    try:
        event = object_in(json.loads(line))
    except (ValueError, RecursionError):
        return None
    kind = event.get("type")
    if "sessionID" in event:
        return "opencode"
    if kind in ("thread.started", "turn.started"):
        return "codex"
    if "session_id" not in event:
        return None
    if kind in ("system", "result"):
        return "qwen" if "qwen_code_version" in event else "claude"
    return "gemini" if kind == "init" else None

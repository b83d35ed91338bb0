"""What the configuration of a worker may say: its sections, keys, defaults and bounds.

A module of its own, because a coordinator never needs it, and a command should start at once.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, model_validator

from agentbus.config.agent_commands.ask_before import check_can_ask, tool_pattern
from agentbus.config.schema import AgentId, FilePath, Name, NatsSection, Seconds, Section, Unquoted
from agentbus.config.sections.mcp_server import McpServer
from agentbus.config.sections.repository import RepositorySection
from agentbus.protocol import subjects
from agentbus.protocol.conversations.continuation import LONGEST_WAIT_S
from agentbus.protocol.messages import MAX_TASK_BYTES
from agentbus.protocol.outcomes.failure_codes import FAILURE_CODES, LONG_RETRY_S
from agentbus.protocol.permissions import RESERVED

INPUT_PLACEHOLDER: Final = "{input}"
INPUT_FILE_PLACEHOLDER: Final = "{input_file}"
TASK_ID_PLACEHOLDER: Final = "{task_id}"
WORKDIR_PLACEHOLDER: Final = "{workdir}"
SESSION_PLACEHOLDER: Final = "{session}"
INTERRUPTIBLE: Final = frozenset({"claude"})
"""The formats of agents that go on with a session whose run was killed, as was tried with SIGTERM and SIGKILL in the
middle of a tool. What another agent makes of such a session is not known: a task begins anew."""
_SHELL: Final = re.compile(r"[|&;<>]+|[0-9]?>>?(&[0-9])?")
"""A word that is an operator of shells."""


def _inbox_of(subject: str) -> str:
    if subjects.agent_of(subject, "results") is None:
        raise ValueError("must be the inbox of an agent: agent.<id>.results")
    return subject


class WorkerNatsSection(NatsSection):
    """The same for a worker, with the names of what it consumes."""

    stream: Name = subjects.TASKS_STREAM
    task_subject: str | None = None
    default_result_subject: Annotated[str, AfterValidator(_inbox_of)] = subjects.results(subjects.COORDINATOR)
    durable: Name | None = None


def _split_command(value: Any) -> Any:
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError as error:
            raise ValueError(f"cannot be split into words: {error}") from None
        refuse_shell(words)
        return words
    return value


def refuse_shell(words: Sequence[str]) -> None:
    """Refuse the words of a command line that was meant for a shell, which no command is given to.

    Raises:
        ValueError: one of them is an operator of shells.
    """
    if operator := next((word for word in words if _SHELL.fullmatch(word)), None):
        raise ValueError(
            f"has {operator!r} in it, which only a shell understands, and none runs it: write the words as a list, "
            'with "sh", "-c" before the line for the shell'
        )


_LONGEST_SETBACK_S: Final = 6 * 86_400
"""The stream of tasks keeps a message for seven days: a task must have its result before it is gone."""


class AgentSection(Section):
    """Which agent this is and the command that it runs."""

    id: AgentId
    chat_cmd: Annotated[tuple[str, ...], BeforeValidator(_split_command)]
    extra_instruction: str = ""
    prompt_via: Literal["argv", "stdin", "file"] = "argv"
    output: Literal["text", "claude", "codex", "gemini", "opencode", "qwen", "acp"] = "text"
    acp_mode: Annotated[str, Field(max_length=200)] | None = None
    permissions: Literal["deny", "allow", "ask"] | None = None
    mcp_servers: dict[str, McpServer] | None = None
    resume_cmd: Annotated[tuple[str, ...], BeforeValidator(_split_command)] | None = None
    ask_before: Annotated[tuple[Annotated[str, AfterValidator(tool_pattern)], ...], Field(max_length=64)] | None = None
    folder: FilePath | None = None
    progress: Literal["off", "tools", "all"] = "all"
    description: Annotated[str, Field(max_length=500)] = ""
    setback_limit_seconds: Annotated[float, Field(ge=0, le=_LONGEST_SETBACK_S)] = 86_400

    @model_validator(mode="after")
    def _check(self) -> "AgentSection":
        if self.id in RESERVED:
            raise ValueError(f"id: no agent can be called {self.id}: that is a party of every bus")
        if not self.chat_cmd or not self.chat_cmd[0].strip():
            raise ValueError("chat_cmd is empty; name the agent command and its arguments")
        if self.output == "acp":
            self._check_acp()
            return self
        if named := sorted(self.model_fields_set & {"acp_mode", "permissions", "mcp_servers"}):
            raise ValueError(f'{named[0]} goes with output = "acp"; what another agent may do stands in chat_cmd')
        _check_prompt("chat_cmd", self.chat_cmd, self.prompt_via)
        if self.ask_before:
            self._check_asking()
        if self.resume_cmd is not None:
            self._check_resuming(self.resume_cmd)
        return self

    @property
    def can_resume(self) -> bool:
        """Whether the agent can be told to go on with a session: by a command of its own, or by its protocol."""
        return self.resume_cmd is not None or self.output == "acp"

    @property
    def resumes_interrupted(self) -> bool:
        """Whether it can go on with a session whose last run was ended from outside, in the middle of its work."""
        return self.resume_cmd is not None and self.output in INTERRUPTIBLE

    def _check_acp(self) -> None:
        """Refuse what does not go with an agent that gets its prompt by the Agent Client Protocol."""
        if "prompt_via" in self.model_fields_set and self.prompt_via != "stdin":
            raise ValueError('prompt_via must be "stdin", or left out: with output = "acp" the protocol has the prompt')
        if self.resume_cmd is not None:
            raise ValueError('resume_cmd must be left out: with output = "acp" the protocol goes on with a session')
        for placeholder in (INPUT_PLACEHOLDER, INPUT_FILE_PLACEHOLDER):
            if any(placeholder in word for word in self.chat_cmd[1:]):
                raise ValueError(f'chat_cmd has {placeholder}: with output = "acp" the protocol has the prompt')

    def _check_asking(self) -> None:
        """Refuse a command that cannot be given the settings that have it ask."""
        if self.output != "claude":
            raise ValueError('ask_before needs output = "claude": the hooks of Claude Code ask')
        for name, words in (("chat_cmd", self.chat_cmd), ("resume_cmd", self.resume_cmd or ())):
            check_can_ask(name, words)

    def _check_resuming(self, words: tuple[str, ...]) -> None:
        if not words or not words[0].strip():
            raise ValueError("resume_cmd is empty; leave it out where the agent cannot go on with a session")
        if self.output == "text":
            raise ValueError(
                'resume_cmd needs the id of a session, which only the events of an agent tell, and output is "text"'
            )
        if not any(SESSION_PLACEHOLDER in word for word in words[1:]):
            raise ValueError(f"resume_cmd has no {SESSION_PLACEHOLDER} among its arguments: it resumes nothing")
        _check_prompt("resume_cmd", words, self.prompt_via)


def _check_prompt(name: str, words: tuple[str, ...], prompt_via: str) -> None:
    """Check that the prompt goes into a command in the way that `prompt_via` says, and in no other."""
    for via, placeholder in (("argv", INPUT_PLACEHOLDER), ("file", INPUT_FILE_PLACEHOLDER)):
        present = any(placeholder in word for word in words[1:])
        if via == prompt_via and not present:
            raise ValueError(
                f'{name} has no {placeholder} among its arguments: the prompt would go nowhere (prompt_via is "{via}")'
            )
        if via != prompt_via and present:
            raise ValueError(f'{name} has {placeholder}, which goes with prompt_via = "{via}"')


_STALL_S: Final = 600.0
"""`stall_timeout_seconds` where it is not set: longer than one answer of a model takes."""
_NEVER_AGAIN: Final = ("not_ended", "not_started", "rejected", "expired")
"""Failures after which no worker runs a task again, or for which it goes back to the queue in any case."""


def _retry_reason(text: str) -> str:
    if text in FAILURE_CODES and text not in _NEVER_AGAIN:
        return text
    kind, _, code = text.partition(":")
    if kind == "exit" and code in {str(number) for number in range(1, 256)}:
        return text
    raise ValueError(
        f"{text!r} is no reason to retry; use lost, timeout, idle, another code of a failure, "
        "or exit:CODE with a code from 1 to 255"
    )


_QUESTION_WAIT_S: Final = 3_600.0
_ASKING: Final = frozenset({"question_wait_seconds", "open_questions"})
"""Keys of `[worker]` for agents whose questions are put to people."""
_MOST_SESSION_DAYS: Final = 365
"""Results, which name the sessions, are kept for weeks; more than this is a mistake in the unit."""


class WorkerSection(Section):
    """How tasks are run."""

    task_timeout_seconds: Seconds = 1800
    max_task_bytes: Annotated[int, Unquoted, Field(gt=0)] = MAX_TASK_BYTES
    inline_output_bytes: Annotated[int, Unquoted, Field(ge=1024, le=16_777_216)] = 65_536
    max_output_bytes: Annotated[int, Unquoted, Field(ge=1024)] = 1_073_741_824
    max_artifacts_bytes: Annotated[int, Unquoted, Field(ge=0)] = 268_435_456
    idle_timeout_seconds: Annotated[float, Unquoted, Field(ge=0, allow_inf_nan=False)] = 0
    stall_timeout_seconds: Annotated[float, Unquoted, Field(ge=0, allow_inf_nan=False)] | None = None
    max_retry_after_seconds: Annotated[float, Unquoted, Field(ge=0, allow_inf_nan=False)] = LONG_RETRY_S
    max_attempts: Annotated[int, Unquoted, Field(ge=1)] = 3
    retry_on: tuple[Annotated[str, AfterValidator(_retry_reason)], ...] = ("lost",)
    retry_backoff_seconds: Annotated[float, Unquoted, Field(ge=0, le=3600, allow_inf_nan=False)] = 10
    workdir: FilePath | None = None
    keep_workdir: StrictBool = True
    session_days: Annotated[float, Unquoted, Field(gt=0, le=_MOST_SESSION_DAYS)] = 14
    continue_wait_seconds: Annotated[float, Unquoted, Field(ge=0, le=LONGEST_WAIT_S)] = 600
    question_wait_seconds: Annotated[float, Unquoted, Field(gt=0, le=LONGEST_WAIT_S)] | None = None
    open_questions: Annotated[int, Unquoted, Field(ge=1, le=256)] | None = None
    concurrency: Annotated[int, Unquoted, Field(ge=1, le=256)] = 1
    kill_grace_seconds: Annotated[float, Unquoted, Field(ge=0, allow_inf_nan=False)] = 5
    drain_timeout_seconds: Annotated[float, Unquoted, Field(ge=0, allow_inf_nan=False)] = 30
    reconnect_time_wait_seconds: Seconds = 2
    max_reconnect_attempts: Annotated[int, Unquoted, Field(ge=-1)] = -1
    state_dir: FilePath = Field(default=Path("~/.agentbus/state"), validate_default=True)


class LogSection(Section):
    """Where the worker's log goes, besides stderr, and what its lines look like."""

    dir: FilePath = Field(default=Path("~/.agentbus/logs"), validate_default=True)
    max_bytes: Annotated[int, Unquoted, Field(gt=0)] = 104_857_600
    backup_count: Annotated[int, Unquoted, Field(ge=1)] = 5
    format: Literal["text", "json"] = "text"


class MetricsSection(Section):
    """Where metrics for Prometheus are served: a port of loopback, if any."""

    port: Annotated[int, Unquoted, Field(ge=0, le=65_535)] | None = None


class WorkerConfig(Section):
    """Everything that `agentbus worker run` needs."""

    agent: AgentSection
    worker: WorkerSection = Field(default_factory=WorkerSection)
    nats: WorkerNatsSection
    repository: RepositorySection = Field(default_factory=RepositorySection)
    log: LogSection = Field(default_factory=LogSection)
    metrics: MetricsSection = Field(default_factory=MetricsSection)

    @model_validator(mode="after")
    def _check(self) -> "WorkerConfig":
        wanted = subjects.tasks(self.agent.id)
        if self.nats.task_subject not in (None, wanted):
            raise ValueError(
                f"task_subject must be {wanted} for the agent {self.agent.id}; "
                "workers that share an agent's tasks take its id"
            )
        if self.worker.stall_timeout_seconds and self.agent.output == "text":
            raise ValueError(
                'stall_timeout_seconds needs the events of an agent, and output is "text"; '
                "idle_timeout_seconds bounds the time without output"
            )
        if self.agent.folder is not None and self.worker.workdir is not None:
            raise ValueError(
                "folder in [agent] and workdir in [worker] exclude each other: one for all tasks, or one for each"
            )
        if self.has_repository and (self.agent.folder is not None or self.worker.workdir is not None):
            raise ValueError(
                "[repository] excludes folder in [agent] and workdir in [worker]: each task gets a clone of its own"
            )
        if self.agent.permissions != "ask" and (named := sorted(self.worker.model_fields_set & _ASKING)):
            raise ValueError(f'{named[0]} in [worker] goes with permissions = "ask" in [agent]')
        return self

    @property
    def has_repository(self) -> bool:
        """Whether the agent works in clones of a repository."""
        return self.repository.source is not None

    @property
    def question_wait_s(self) -> float:
        """How long a question waits for a person."""
        return self.worker.question_wait_seconds or _QUESTION_WAIT_S

    @property
    def most_open_questions(self) -> int:
        """How many runs may wait for a person at once: all slots but one where that is not set, and at least one."""
        return self.worker.open_questions or max(1, self.worker.concurrency - 1)

    @property
    def stall_timeout_s(self) -> float | None:
        """For how long no event may come that shows work; None if there is no limit, as for text."""
        found = self.worker.stall_timeout_seconds
        if found is None:
            return None if self.agent.output == "text" else _STALL_S
        return found or None

    @property
    def durable(self) -> str:
        """The durable consumer whose tasks this worker takes."""
        return self.nats.durable or subjects.durable(self.agent.id)

    @property
    def default_inbox(self) -> str:
        """The agent whose inbox gets results that no valid id in the task claims."""
        return subjects.agent_of(self.nats.default_result_subject, "results") or subjects.COORDINATOR

    def outcomes_on_disk(self, name: str = "*.json") -> Iterator[Path]:
        """Find the outcomes that workers of this agent keep on this machine until their bus has them.

        `name` is the name of a file, which may hold wildcards.
        """
        return self.worker.state_dir.glob(f"*/{self.agent.id}/*/outbox/{name}")

"""Makes the command of a task: its arguments, environment, working folder, prompt and limits."""

import asyncio
import functools
import os
import re
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from agentbus.config.agent_commands.ask_before import SETTINGS_PLACEHOLDER
from agentbus.config.agent_commands.programs import program_from_anywhere
from agentbus.config.private_files import open_private
from agentbus.config.worker_schema import (
    INPUT_FILE_PLACEHOLDER,
    INPUT_PLACEHOLDER,
    SESSION_PLACEHOLDER,
    TASK_ID_PLACEHOLDER,
    WORKDIR_PLACEHOLDER,
    AgentSection,
    WorkerConfig,
)
from agentbus.errors import CommandError, MachineFaultError
from agentbus.observability import tracing
from agentbus.protocol.messages import Task
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.work.task_work import SentFile, Work
from agentbus_worker import watchdog
from agentbus_worker.acp.assignment import Assignment
from agentbus_worker.asking.answer_pipe import AnswerPipe, answer_pipe
from agentbus_worker.asking.claude_settings import environment_of, with_settings, write_settings
from agentbus_worker.asking.decisions import told
from agentbus_worker.bringing_home.collected import FOLDER as ARTIFACTS_FOLDER
from agentbus_worker.bringing_home.collected import VARIABLE as ARTIFACTS_VARIABLE
from agentbus_worker.disk.threads import Disk
from agentbus_worker.formats.readers import READERS
from agentbus_worker.running.command import Limits
from agentbus_worker.running.folders.inputs import FOLDER as INPUTS_FOLDER
from agentbus_worker.running.folders.inputs import VARIABLE as INPUTS_VARIABLE
from agentbus_worker.running.folders.place_of_run import Places, place_of_run
from agentbus_worker.running.process_tree import OWNER_VARIABLE, RUN_VARIABLE, TASK_VARIABLE
from agentbus_worker.running.prompt import build_prompt
from agentbus_worker.running.side_files import side_file_of_run
from agentbus_worker.running.spawn import Command

if TYPE_CHECKING:
    from agentbus_worker.conversations.conversation import Conversation
    from agentbus_worker.conversations.sessions import Session

_PLACEHOLDER: Final = re.compile(
    "|".join(
        re.escape(name)
        for name in (
            INPUT_PLACEHOLDER,
            INPUT_FILE_PLACEHOLDER,
            TASK_ID_PLACEHOLDER,
            WORKDIR_PLACEHOLDER,
            SESSION_PLACEHOLDER,
            SETTINGS_PLACEHOLDER,
        )
    )
)
ACP: Final = "acp"
"""The output of a driver that speaks the Agent Client Protocol with the agent."""
_DENIED_LATER_S: Final = 60.0
"""How much longer the driver waits than the worker, which denies first."""
_DRIVERS: Final = {ACP: (sys.executable, "-P", "-m", "agentbus_worker.acp")}
"""What runs a command. With -P the folder of a task, where it starts, has no module of it."""


class Attempt(NamedTuple):
    """One attempt of a task.

    Attributes:
        owner: the coordinator that published the task, as the subject of its message says.
        number: 1 for the first one.
        run_id: identifies this run among those of all workers; its processes are found by it.
        work: what the task says of the repository of the agent.
        files: what it brings.
    """

    owner: str
    number: int
    run_id: str
    work: Work | None = None
    files: tuple[SentFile, ...] = ()


@asynccontextmanager
async def task_command(
    config: WorkerConfig,
    task: Task,
    attempt: Attempt,
    *,
    conversation: "Conversation",
    places: Places,
    disk: Disk,
    stop: asyncio.Future[None],
) -> AsyncGenerator[Command]:
    """Make the command of one attempt. Its prompt file and its folders exist for the length of the block.

    Args:
        conversation: says which session the attempt goes on with, and whether its folder stays for the next one.
        places: where the folders of the run lie.
        disk: writes the file, and makes the working folder.
        stop: once this is done, a disk that does not answer is not waited for.

    Raises:
        MachineFaultError: a folder or the prompt file cannot be made, or the disk does not answer.
        WorkspaceError: there is no clone of the repository, or a file that the task brings is not to be had.
        CommandError: the task id would be an option of the command.
    """
    agent, owner, run_id, tmp = config.agent, attempt.owner, attempt.run_id, places.tmp
    file = tmp / f"{run_id}.prompt" if agent.prompt_via == "file" else None
    own_folder = places.temporary.of_run(stop)
    pipe = answer_pipe(tmp / f"{run_id}.answers", disk.state, stop) if agent.permissions == "ask" else nullcontext()
    async with (
        place_of_run(
            config, TaskKey(agent.id, task.id, owner), places, attempt.work, conversation, disk.folders, stop
        ) as (workdir, clone),
        own_folder as own_tmp,
        pipe as answers,
    ):
        try:
            prompt = _prompt(config, task, owner, conversation, inputs := await _laid(attempt, places, own_tmp, stop))
            if file is not None:
                await _write_prompt(file, prompt, disk, stop)
            settings = await write_settings(own_tmp, agent, conversation.answered, threads=disk.folders, stop=stop)
            values = {**_values(task, prompt, file, workdir, settings), **conversation.values}
            words = _words(config, task, conversation, values, silent=not prompt)
            artifacts = _artifacts_in(own_tmp)
            own = _own(own_tmp, artifacts, conversation, inputs)
            env = {**_environment(agent, task, attempt, workdir), **own}
            side_file = await side_file_of_run(
                agent.output, own_tmp, conversation.words, env, workdir, threads=disk.folders, stop=stop
            )
            yield Command(
                argv=[*_DRIVERS.get(agent.output, ()), *words], env={**env, **side_file.environment},
                run_id=run_id, task_id=task.id, owner=owner, cwd=workdir, clone=clone,
                stdin=_standard_input(config, prompt, conversation.resumed, answers),
                side_file=side_file.path, answers=answers, artifacts=artifacts,
                no_process_left=own_folder.no_process_left,
            )  # fmt: skip
        finally:
            if file is not None:
                disk.state.begin(lambda: _remove(file))


def _values(
    task: Task, prompt: str, file: Path | None, workdir: Path | None, settings: Path | None
) -> dict[str, Callable[[], str]]:
    return {
        INPUT_PLACEHOLDER: lambda: prompt,
        INPUT_FILE_PLACEHOLDER: lambda: str(file),
        TASK_ID_PLACEHOLDER: lambda: task.id,
        WORKDIR_PLACEHOLDER: lambda: str(workdir or _worker_folder()),
        SESSION_PLACEHOLDER: lambda: SESSION_PLACEHOLDER,
        SETTINGS_PLACEHOLDER: lambda: str(settings or SETTINGS_PLACEHOLDER),
    }


async def _laid(attempt: Attempt, places: Places, own_tmp: Path, stop: asyncio.Future[None]) -> Path | None:
    """Lay what the task brings; return the folder, or None if it brings nothing.

    Raises:
        WorkspaceError: see `Inputs.lay`.
        MachineFaultError: see there.
    """
    if not attempt.files or places.inputs is None:
        return None
    folder = own_tmp / INPUTS_FOLDER
    await places.inputs.lay(attempt.owner, attempt.files, folder, stop)
    return folder


def _prompt(config: WorkerConfig, task: Task, owner: str, conversation: "Conversation", inputs: Path | None) -> str:
    """Return the prompt of a task; an empty one where the agent goes on without any."""
    if conversation.runs_the_call:
        return ""
    agent = config.agent
    brought = f"The files that the task brings lie in the folder {inputs}." if inputs is not None else ""
    return build_prompt(
        told(task) if conversation.resumed is not None else task,
        agent=agent.id,
        owner=owner,
        extra_instruction=agent.extra_instruction,
        preface="\n\n".join(part for part in (conversation.preface, brought) if part),
    )


def _words(
    config: WorkerConfig,
    task: Task,
    conversation: "Conversation",
    values: Mapping[str, Callable[[], str]],
    *,
    silent: bool,
) -> list[str]:
    """Return the words of the command with their placeholders replaced; without that of the prompt if it gets none.

    Raises:
        CommandError: the command would take the task id for an option.
    """
    _refuse_option(task.id, conversation.words)
    words = with_settings(conversation.words, config.agent.ask_before or ())
    # In one pass: placeholders inside the prompt must not be replaced.
    return [
        _PLACEHOLDER.sub(lambda found: values[found[0]](), word)
        for word in words
        if not (silent and word == INPUT_PLACEHOLDER)
    ]


def _refuse_option(task_id: str, words: Sequence[str]) -> None:
    """Refuse a task id that the command would take for an option.

    Raises:
        CommandError: it would.
    """
    if task_id.startswith("-") and any(word.startswith(TASK_ID_PLACEHOLDER) for word in words):
        raise CommandError(
            "chat_cmd has a word that begins with the task id, and this id begins with '-': "
            "the command would take it for an option"
        )


def from_anywhere(config: WorkerConfig) -> WorkerConfig:
    """Return a configuration whose command and working folders are found from every folder, not from this one only.

    Raises:
        ConfigError: the program of the command was not found.
    """
    agent, worker = config.agent, config.worker
    program, *arguments = agent.chat_cmd
    agent = agent.model_copy(update={"chat_cmd": (program_from_anywhere(program), *arguments)})
    if agent.resume_cmd is not None:
        program, *arguments = agent.resume_cmd
        agent = agent.model_copy(update={"resume_cmd": (program_from_anywhere(program), *arguments)})
    if agent.folder is not None:
        agent = agent.model_copy(update={"folder": agent.folder.absolute()})
    if worker.workdir is not None:
        worker = worker.model_copy(update={"workdir": worker.workdir.absolute()})
    return config.model_copy(update={"agent": agent, "worker": worker})


def command_limits(config: WorkerConfig) -> Limits:
    """Return the limits of a command from the configuration: its run time and its output."""
    worker = config.worker
    return Limits(
        timeout_s=worker.task_timeout_seconds,
        grace_s=worker.kill_grace_seconds,
        keep_bytes=worker.inline_output_bytes,
        spill_bytes=worker.max_output_bytes,
        idle_timeout_s=worker.idle_timeout_seconds or None,
        output=config.agent.output,
        words=config.agent.chat_cmd,
        stall_timeout_s=config.stall_timeout_s,
        max_retry_after_s=worker.max_retry_after_seconds,
        leader_first=config.agent.output == ACP,
    )


def _standard_input(
    config: WorkerConfig, prompt: str, resumed: "Session | None", answers: AnswerPipe | None
) -> bytes | None:
    """Return what the command gets there: the prompt, or what the driver of an agent is told; None for nothing."""
    agent = config.agent
    if agent.output == ACP:
        servers = [server.for_session(name) for name, server in (agent.mcp_servers or {}).items()]
        mode, permissions = agent.acp_mode or "", agent.permissions or "deny"
        session = resumed.id if resumed is not None else None
        return Assignment(
            prompt, session=session, mode=mode, permissions=permissions, mcp_servers=servers,
            answers=str(answers.path) if answers is not None else None,
            question_wait_s=config.question_wait_s + _DENIED_LATER_S,
        ).to_bytes()  # fmt: skip
    return prompt.encode() if agent.prompt_via == "stdin" else None


@functools.cache
def inherited_environment() -> dict[str, str]:
    """Return the environment that commands inherit from the worker, without what is meant for the worker alone."""
    own = {*tracing.ENVIRONMENT, *watchdog.ENVIRONMENT}
    return {name: value for name, value in os.environ.items() if not name.startswith("AGENTBUS_") and name not in own}


def _of_format(output: str) -> Mapping[str, str]:
    return READERS[output].environment if output in READERS else {}


def _environment(agent: AgentSection, task: Task, attempt: Attempt, workdir: Path | None) -> dict[str, str]:
    return {
        **_of_format(agent.output),
        **inherited_environment(),
        **tracing.environment(),
        RUN_VARIABLE: attempt.run_id,
        "AGENTBUS_AGENT_ID": agent.id,
        TASK_VARIABLE: task.id,
        OWNER_VARIABLE: attempt.owner,
        "AGENTBUS_TASK_TYPE": task.task_type.replace("\0", ""),
        "AGENTBUS_ATTEMPT": str(attempt.number),
        **({"AGENTBUS_WORKDIR": str(workdir)} if workdir else {}),
    }


@functools.lru_cache(maxsize=64)
def _artifacts_in(folder: Path) -> Path:
    """Return the folder of artifacts in a temporary folder, which one quick run after the other may get."""
    return folder / ARTIFACTS_FOLDER


def _own(tmp: Path, artifacts: Path, conversation: "Conversation", inputs: Path | None) -> dict[str, str]:
    return {
        "TMPDIR": str(tmp),
        ARTIFACTS_VARIABLE: str(artifacts),
        **({INPUTS_VARIABLE: str(inputs)} if inputs is not None else {}),
        **environment_of(conversation.answered),
    }


def _worker_folder() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise MachineFaultError(f"the folder in which the worker was started is gone: {error.strerror}") from None


async def _write_prompt(file: Path, prompt: str, disk: Disk, stop: asyncio.Future[None]) -> None:
    def write() -> None:
        with open_private(file, truncate=True) as out:
            out.write(prompt.encode())

    try:
        await disk.state.run(write, stop=stop)
    except OSError as error:
        raise MachineFaultError(f"the prompt cannot be written to {file}: {error.strerror or error}") from None


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink(missing_ok=True)

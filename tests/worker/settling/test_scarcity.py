"""A machine that runs out of processes, memory, files or room: tasks go back unrun, and the worker goes on later."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.file_faults import full_disk
from support.harness import SUPPORT, eventually, process, worker, worker_toml
from support.jobs import acknowledged, agent_keys, publish, result_messages, settled, text
from support.supervised import supervisors_of
from support.unkillable import UID, needs_root

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of a running process are set by Linux's means")

READS_ALL = "+dac_override,+dac_read_search"
AS_ANOTHER_USER = (
    *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
    *(f"--inh-caps={READS_ALL}", f"--ambient-caps={READS_ALL}", "--"),
)
"""Root has as many processes as it likes. The other user gets into the folder of Python, wherever that is."""
ECHO = ["sh", "-c", "echo ran", "sh", "{input}"]
Change = Callable[[int], object]


def limited(name: str, *, of_worker: bool, prefix: tuple[str, ...] = ()) -> tuple[Change, Change]:
    """What takes the room of a kind from the worker with a pid, or from its supervisors, and what gives it back."""

    def limit(soft: str) -> Change:
        def change(pid: int) -> None:
            for one in [*([pid] if of_worker else []), *([] if name == "nofile" else supervisors_of(pid))]:
                subprocess.run([*prefix, "prlimit", "--pid", str(one), f"--{name}={soft}:"], check=True)

        return change

    return limit("3"), limit("unlimited" if name == "as" else "1000")


@contextlib.contextmanager
def folder_of_another_user() -> Generator[Path]:
    """It is beside the folders of pytest: these let only their owner in."""
    folder = Path(tempfile.mkdtemp(prefix="scarcity-", dir="/tmp"))  # its name cannot be guessed
    try:
        os.chown(folder, UID, UID)
        yield folder
    finally:
        shutil.rmtree(folder)


async def runs_once_it_is_over(
    coordinator: Coordinator,
    config: Path,
    shortage: tuple[Change, Change],
    reason: str,
    **started: Any,
) -> None:
    """Check that a task which comes during a shortage goes back, and runs as its first attempt once that is over."""
    begin, end = shortage
    async with worker(config, **started) as child:
        begin(child.pid)
        task_id = await publish(coordinator, "x" * 20_000)  # more than the rest of a page
        await child.until_said("paused (not_started): ")

        async def shown() -> bool:
            [found] = await coordinator.agents("code")
            return found.paused is not None and reason in found.paused.reason

        await eventually(shown, f"it is shown as paused for {reason!r}")
        entry = (await coordinator.task(task_id).status()).record.entry
        assert (entry.attempt <= 1, entry.result, entry.setbacks is not None) == (True, None, True)
        end(child.pid)
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
        await child.until_said("no longer paused")
        assert child.popen.poll() is None
    assert (status.state, text(status), status.record.entry.attempt) == ("completed", "ran\n", 1)
    assert len(await result_messages(coordinator)) == 1


@needs_root
async def test_a_task_goes_back_while_its_user_may_have_no_more_processes(server: NatsServer, coordinator: Coordinator):
    with folder_of_another_user() as folder:
        config = worker_toml(folder, server.url, chat_cmd=ECHO, worker={"workdir": folder / "work"})
        os.chown(config, UID, UID)
        limit = limited("nproc", of_worker=True, prefix=AS_ANOTHER_USER)
        started: dict[str, Any] = {"prefix": AS_ANOTHER_USER, "env": {"HOME": str(folder)}}
        reason = "Resource temporarily unavailable"
        await runs_once_it_is_over(coordinator, config, limit, reason, **started)


@pytest.mark.long
@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        (limited("as", of_worker=False), "Cannot allocate memory"),
        (limited("nofile", of_worker=True), "Too many open files"),
    ],
    ids=["memory", "files"],
)
async def test_a_task_goes_back_while_there_is_no_room_to_start_its_command(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, limit: tuple[Change, Change], reason: str
):
    config = worker_toml(tmp_path, server.url, chat_cmd=ECHO)
    await runs_once_it_is_over(coordinator, config, limit, reason)


@pytest.mark.long
async def test_a_task_goes_back_while_the_disk_has_no_room_for_its_prompt(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url, chat_cmd=[*ECHO[:4], "{input_file}"])
    config = agent_keys(config, prompt_via="file")
    state = tmp_path / "state"
    with full_disk(state) as fill:
        shortage: tuple[Change, Change] = (lambda _: fill(), lambda _: (state / "filler").unlink())
        await runs_once_it_is_over(coordinator, config, shortage, "No space left on device")


@pytest.mark.gate("after its start")
@pytest.mark.parametrize(
    ("content", "attempt", "said"),
    [
        ("lack memory before it is started", 1, "handed back unrun"),
        ("lacks memory after it has run", 2, "trying again in 0.0 s"),
    ],
    ids=["before its start", "after its start"],
)
async def test_a_task_for_which_the_memory_of_the_worker_is_not_enough_ends_no_worker_and_runs_again(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, content: str, attempt: int, said: str
):
    config = worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", 'echo "$1"', "sh", "{input}"])
    argv = [sys.executable, str(SUPPORT / "faulty_worker.py"), "--config", str(config)]
    with process(argv, tmp_path / "worker.log") as child:
        await child.until_said("ready for tasks")
        task_id = await publish(coordinator, content)
        await child.until_said("paused (not_started): the worker has not enough memory for this task")
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
        assert child.said(said)
        assert child.popen.poll() is None
    assert (status.state, status.record.entry.attempt) == ("completed", attempt)
    assert (status.record.entry.setbacks is not None) == (attempt == 1)
    assert len(await result_messages(coordinator)) == 1

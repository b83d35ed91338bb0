"""A process that dies exactly between two steps loses nothing and does nothing twice: the next one completes it.

`dying.py` is the real command line, but for its sudden death; what comes after is an ordinary worker or command.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.admin.dead_letters import newest_dead_letters
from agentbus.bus.setup import ensure_files_bucket
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import load_worker
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.messages import new_task
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus_worker.state_folder import lock_state
from support.agreement import agreed
from support.dying import POINTS
from support.harness import SUPPORT, Process, eventually, process, processes_with, run_cli, worker, worker_toml
from support.jobs import acknowledged, counts, error, publish, result_messages, settled, short_lease

DYING = str(SUPPORT / "dying.py")
LEASE_S = 1.0
HANG = "exec sleep 1000"
LARGE = "head -c 1500000 /dev/zero | tr '\\0' x"


@contextlib.contextmanager
def dying(point: str, *args: str, log: Path) -> Generator[Process]:
    assert point in POINTS
    with process([sys.executable, DYING, point, *args], log) as child:
        yield child


async def death(child: Process, point: str) -> None:
    """Wait until it has died at its point."""
    assert await child.exit_code() == -signal.SIGKILL, child.log.read_text(encoding="utf-8")
    assert child.said(f"dies: {point}\n")


async def worker_dies(config: Path, point: str) -> None:
    log = config.with_suffix(f".{os.urandom(3).hex()}.log")
    with dying(point, "worker", "run", "--config", str(config), log=log) as child:
        await death(child, point)


async def command_dies(folder: Path, point: str, *args: str) -> None:
    log = folder / f"{os.urandom(3).hex()}.log"
    with dying(point, *args, log=log) as child:
        await death(child, point)


def counting_worker(folder: Path, server: NatsServer, *, first: str = ":", **keys: Any) -> Path:
    """A worker whose command notes each run in `ran`; the first run does `first` as well."""
    ran = folder / "ran"
    script = f"echo ran >> {ran}; [ $(wc -l < {ran}) -gt 1 ] || {{ {first}; }}; echo done"
    return worker_toml(folder, server.url, chat_cmd=["/bin/sh", "-c", script, "sh", "{input}"], worker=keys)


def runs(folder: Path) -> int:
    ran = folder / "ran"
    return len(ran.read_text(encoding="utf-8").splitlines()) if ran.exists() else 0


def outcomes_on_disk(folder: Path) -> list[Path]:
    return sorted((folder / "state").glob("*/code/*/outbox/*"))


async def one_result(bus: Coordinator, folder: Path, task_id: str, state: str) -> dict[str, Any]:
    """All is settled, once: one result, the one that the ledger names, and nothing is left anywhere."""
    status = await settled(bus, task_id)
    await acknowledged(bus)
    assert status.state == state
    [message] = await result_messages(bus)
    assert message["id"] == status.record.entry.result_id
    assert message["task"]["id"] == task_id
    assert (await counts(bus))["AGENT_DEAD"] == 0
    await eventually(lambda: not outcomes_on_disk(folder), "the outcome on disk is cleared")
    return message


# -- a worker ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Workers that die one after the other, each at its point; the next one is ordinary, and finishes.

    `runs` is how often the command is started in all, `first` what the first run does. `setbacks` is how often the
    ledger knows that the machine could not start it.
    """

    deaths: tuple[str, ...]
    runs: int
    first: str = ":"
    attempt: int = 1
    setbacks: int = 0

    def __str__(self) -> str:
        return " then ".join(self.deaths)


CASES = [
    Case(("delivered",), runs=1),
    Case(("claimed",), runs=1, attempt=2),
    Case(("claimed, without a slot",), runs=1, attempt=2),
    Case(("slot granted",), runs=1, attempt=2),
    Case(("command about to start",), runs=1, attempt=2),
    Case(("lease renewed, delivery not extended",), runs=2, first=HANG, attempt=2),
    Case(("command ended",), runs=2, attempt=2),
    Case(("file half stored",), runs=2, first=LARGE, attempt=2),
    Case(("file stored",), runs=2, first=LARGE, attempt=2),
    Case(("outcome about to be written",), runs=2, attempt=2),
    Case(("outcome on disk, not committed",), runs=1),
    Case(("committed without a copy on disk",), runs=1),
    Case(("committed, answer not seen",), runs=1),
    Case(("committed, not published",), runs=1),
    Case(("published, not acknowledged",), runs=1),
    Case(("acknowledged, copy still on disk",), runs=1),
    Case(("settled",), runs=1),
    Case(("queued for a retry, delivery not returned",), runs=2, first="exit 3", attempt=2),
    Case(("delivery returned",), runs=2, first="exit 3", attempt=2),
    # a takeover, and a start that has something to deliver, die in their turn
    Case(("lease renewed, delivery not extended", "claimed"), runs=2, first=HANG, attempt=3),
    Case(("committed without a copy on disk", "published again, not acknowledged"), runs=1),
    Case(("outcome on disk, not committed", "replay begun"), runs=1),
    Case(("outcome on disk, not committed", "replay committed, not published"), runs=1),
    Case(("outcome on disk, not committed", "replay published, copy still on disk"), runs=1),
]


@pytest.mark.gate(
    "slot granted",
    "lease renewed, delivery not extended then",
    "file half stored",
    "outcome about",
    "outcome on disk, not committed then",
    "committed without a copy on disk then",
    "committed, answer",
    "published, not ack",
    "queued for a retry",
)
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_task_whose_worker_dies_between_two_steps_has_one_result(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, case: Case
):
    await short_lease(coordinator, lease_s=LEASE_S)
    await ensure_files_bucket(coordinator.bus, "code")
    config = counting_worker(
        tmp_path, server, first=case.first, retry_on=["lost", "exit:3"], retry_backoff_seconds=0.1, max_attempts=4
    )
    task_id = await publish(coordinator, "work")
    for point in case.deaths:
        await worker_dies(config, point)
    async with worker(config):
        message = await one_result(coordinator, tmp_path, task_id, "completed")
    assert (message["result"], message["attempt"]) == ("done\n", case.attempt)
    assert runs(tmp_path) == case.runs


@pytest.mark.parametrize("point", ["command started, not recorded", "command recorded"])
async def test_a_command_whose_worker_died_right_after_its_start_is_ended_and_started_again(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, point: str
):
    await short_lease(coordinator, lease_s=LEASE_S)
    config = counting_worker(tmp_path, server, first=HANG)
    task_id = await publish(coordinator, "work")
    await worker_dies(config, point)
    await eventually(lambda: not processes_with(f"AGENTBUS_TASK_ID={task_id}"), "its supervisor ends the command")
    if not runs(tmp_path):
        (tmp_path / "ran").write_text("ended before it could note that it ran\n", encoding="utf-8")
    async with worker(config):
        await one_result(coordinator, tmp_path, task_id, "completed")
    assert runs(tmp_path) == 2


async def test_a_task_whose_worker_dies_while_it_releases_it_is_run_by_the_next_worker(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=LEASE_S)
    config = counting_worker(tmp_path, server, first=HANG, drain_timeout_seconds=0.1)
    point = "released, delivery not returned"
    task_id = await publish(coordinator, "work")
    with dying(point, "worker", "run", "--config", str(config), log=tmp_path / "worker.log") as child:
        await eventually(lambda: runs(tmp_path), "the command runs")
        child.terminate()
        await death(child, point)
    assert (await coordinator.task(task_id).status()).state == "queued"
    async with worker(config):
        message = await one_result(coordinator, tmp_path, task_id, "completed")
    assert (message["attempt"], runs(tmp_path)) == (1, 2)


@pytest.mark.gate("answer not seen")
@pytest.mark.parametrize(
    "case",
    [
        Case(("paused, not handed back",), runs=1, attempt=2),
        Case(("setbacks reckoned, not written",), runs=1, attempt=2),
        Case(("handed back, answer not seen",), runs=1, setbacks=1),
        Case(("released, delivery not returned",), runs=1, setbacks=1),
        Case(("delivery returned",), runs=1, setbacks=1),
        Case(("released, delivery not returned", "setbacks reckoned, not written"), runs=1, attempt=2, setbacks=1),
    ],
    ids=str,
)
async def test_a_task_that_its_machine_cannot_start_runs_once_though_its_worker_dies_while_it_hands_it_back(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, case: Case
):
    await short_lease(coordinator, lease_s=LEASE_S)
    in_the_way = tmp_path / "work"
    in_the_way.write_text("a file where the folder should be", encoding="utf-8")
    config = counting_worker(tmp_path, server, workdir=in_the_way / "here", max_attempts=2)
    task_id = await publish(coordinator, "work")
    for point in case.deaths:
        await worker_dies(config, point)
        await agreed(coordinator)
    entry = (await coordinator.task(task_id).status()).record.entry
    assert (entry.state, entry.attempt) == (("queued", 0) if case.attempt == 1 else ("working", 1))
    assert sum((entry.setbacks.count if entry.setbacks else {}).values()) == case.setbacks
    in_the_way.unlink()
    async with worker(config):
        message = await one_result(coordinator, tmp_path, task_id, "completed")
    assert (message["result"], message["attempt"], runs(tmp_path)) == ("done\n", case.attempt, case.runs)


@pytest.mark.parametrize("deaths", [1, 2])
async def test_a_task_that_is_settled_without_a_run_has_one_result_though_its_worker_dies(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, deaths: int
):
    await short_lease(coordinator, lease_s=LEASE_S)
    config = counting_worker(tmp_path, server)
    task_id = await publish(coordinator, "work")
    await coordinator.task(task_id).cancel("not needed")
    for point in ("settled without a run, not published", "published again, not acknowledged")[:deaths]:
        await worker_dies(config, point)
    async with worker(config):
        message = await one_result(coordinator, tmp_path, task_id, "cancelled")
    assert (message["error"], runs(tmp_path)) == ("cancelled by agent-main: not needed", 0)


async def test_a_task_out_of_attempts_has_one_result_though_its_worker_dies(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=LEASE_S)
    config = counting_worker(tmp_path, server, max_attempts=1)
    task_id = await publish(coordinator, "work")
    await worker_dies(config, "command ended")
    await worker_dies(config, "settled without a run, not published")
    async with worker(config):
        message = await one_result(coordinator, tmp_path, task_id, "failed")
    assert message["error"] == "attempts exhausted (1): the worker was lost while it ran the task"
    assert runs(tmp_path) == 1


async def test_a_worker_that_dies_while_it_takes_over_outcomes_loses_none(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=LEASE_S)
    config = counting_worker(tmp_path, server)
    loaded, _ = load_worker(config)
    urls = connection_settings(loaded.nats, agent="code", name="test").urls
    task_id = await publish(coordinator, "work")
    with lock_state(tmp_path / "state", urls, "code"):  # the first folder is taken now, and free later
        await worker_dies(config, "outcome on disk, not committed")
    [left] = outcomes_on_disk(tmp_path)
    await worker_dies(config, "state folder taken over")
    [moved] = outcomes_on_disk(tmp_path)
    assert (left.parent.parent.name, moved.parent.parent.name, left.name) == ("1", "0", moved.name)
    async with worker(config):
        await one_result(coordinator, tmp_path, task_id, "completed")
    assert runs(tmp_path) == 1


# -- a dead letter ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point", ["dead letter stored, sender not notified", "sender notified, delivery not terminated"]
)
async def test_an_invalid_task_is_one_dead_letter_and_has_one_result_though_its_worker_dies(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, point: str
):
    await short_lease(coordinator, lease_s=LEASE_S)
    config = counting_worker(tmp_path, server)
    odd = {"id": "odd", "from": "agent-main", "to": "agent-code", "type": "task.request", "payload": 7}
    await coordinator.bus.store(subjects.tasks("code"), encode(odd), msg_id="odd")
    await worker_dies(config, point)
    async with worker(config):
        await acknowledged(coordinator)
    [message] = await result_messages(coordinator)
    assert (message["status"], message["task"]) == ("failed", odd)
    assert len(await newest_dead_letters(coordinator.bus, 9)) == 1
    assert runs(tmp_path) == 0


async def test_a_dead_letter_whose_requeue_command_dies_runs_once(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=LEASE_S)
    task = new_task(to="code", content="work", task_type="test")
    await coordinator.bus.store(subjects.dead("code"), encode(task.to_json()), headers={"Bus-Origin": "AGENT_TASKS.1"})
    args = ("dead", "requeue", "1", "--nats-url", server.url)
    await command_dies(tmp_path, "requeued, dead letter not deleted", *args)
    again = await run_cli(*args)
    assert (again.code, json.loads(again.out)) == (0, {"seq": 1, "requeued_for": "code"})
    async with worker(counting_worker(tmp_path, server)):
        await acknowledged(coordinator)
        await one_result(coordinator, tmp_path, task.id, "completed")
    assert runs(tmp_path) == 1


# -- a coordinator ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["in the ledger, not queued", "queued, caller not answered"])
@pytest.mark.parametrize("meanwhile", ["no worker", "a worker works"])
async def test_a_publisher_that_dies_before_the_answer_and_publishes_again_makes_one_task(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, point: str, meanwhile: str
):
    await short_lease(coordinator, lease_s=LEASE_S)
    config = counting_worker(tmp_path, server)
    args = ("task", "publish", "--nats-url", server.url, "--to", "code", "--task-type", "test", "--task-id", "job", "x")
    async with contextlib.AsyncExitStack() as stack:
        if meanwhile == "a worker works":
            await stack.enter_async_context(worker(config))
        await command_dies(tmp_path, point, *args)
        again = await run_cli(*args)
        assert again.code == 0
        assert "the task job was published before" in again.err
        if meanwhile == "no worker":
            await stack.enter_async_context(worker(config))
        await one_result(coordinator, tmp_path, "job", "completed")
    assert runs(tmp_path) == 1


async def test_a_cancel_request_whose_coordinator_dies_before_the_control_message_takes_effect(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=LEASE_S)
    async with worker(counting_worker(tmp_path, server, first=HANG)):
        task_id = await publish(coordinator, "work")
        await eventually(lambda: runs(tmp_path), "the command runs")
        args = ("task", "cancel", task_id, "--reason", "too slow", "--nats-url", server.url)
        await command_dies(tmp_path, "cancel request written, worker not notified", *args)
        status = await settled(coordinator, task_id)
        assert error(status) == "cancelled by agent-main: too slow"
        assert (await run_cli(*args)).code == 0
        await one_result(coordinator, tmp_path, task_id, "cancelled")
    assert runs(tmp_path) == 1


async def test_an_expired_task_whose_coordinator_dies_while_settling_it_is_settled_by_the_next_read(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = (await coordinator.bus.api("STREAM.INFO.AGENT_TASKS"))["config"]
    short = {"max_age": 200_000_000, "duplicate_window": 200_000_000}
    await coordinator.bus.api("STREAM.UPDATE.AGENT_TASKS", {**config, **short})
    task_id = await publish(coordinator, "work")
    await acknowledged(coordinator)  # the bus has dropped it
    args = ("task", "get", task_id, "--nats-url", server.url)
    await command_dies(tmp_path, "expired, result not published", *args)
    assert await Ledger(coordinator.bus).read(TaskKey("code", task_id))
    assert await result_messages(coordinator) == []
    for _ in range(2):
        assert (await run_cli(*args)).code == 0
        message = await one_result(coordinator, tmp_path, task_id, "failed")
        assert message["error"].startswith("expired")

"""Handles of tasks: results, outputs, and outcomes of many tasks on a real bus."""

import asyncio
import logging
from pathlib import Path

import pytest

from agentbus import Coordinator, PublishedTask, TaskFailure, TaskStatus, connect
from agentbus.bus.setup import set_up
from agentbus.config.loading import URL_VARIABLE
from agentbus.errors import (
    BusUnavailableError,
    InvalidIdError,
    NoApprovalPendingError,
    NotSettledError,
    ResultTimeoutError,
    StreamFullError,
    TaskConflictError,
    TaskNotFoundError,
)
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer, run_server, start_server
from agentbus.task_handle import TaskHandle
from support.free_ports import free_port
from support.harness import eventually, run_python, worker, worker_toml

RESULT_S = 30.0
OUTPUT_BYTES = 300_000


def failures(outcomes: list[TaskStatus | TaskFailure]) -> list[TaskFailure]:
    return [one for one in outcomes if isinstance(one, TaskFailure)]


# -- one task ---------------------------------------------------------------------------------------------------


async def test_a_result_is_returned_whether_the_task_was_completed_or_failed(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)):
        done = await coordinator.publish("code", "say:done")
        bad = await coordinator.publish("code", "exit:3")
        results = [await task.result(RESULT_S) for task in (done, bad)]
        again = await coordinator.task(done.id).result(0)
    assert [(one.status, one.task_id) for one in results] == [("completed", done.id), ("failed", bad.id)]
    assert results[0].result == "done\n"
    assert again == results[0]


async def test_a_result_that_is_not_there_in_time_is_an_error_and_the_task_goes_on(coordinator: Coordinator):
    task = await coordinator.publish("code", "hello")
    with pytest.raises(ResultTimeoutError, match=rf"{task.id} has no result after 0\.1 s: it is queued\. Wait again"):
        await task.result(0.1)
    assert (await task.status()).state == "queued"


async def test_a_result_that_is_waited_for_while_the_bus_is_away_says_so(tmp_path: Path):
    for timeout_s in (2, 10, 40):  # on a busy machine, the time may be over before the bus is away
        said = await said_after_an_outage(tmp_path / f"{timeout_s}", timeout_s)
        if "away" in said:
            break
    assert "queued when the bus was last reached; it is away now" in said


async def said_after_an_outage(store: Path, timeout_s: float) -> str:
    """What a wait for a result says whose bus goes away as soon as it follows the ledger."""
    server = await start_server(store=store, port=free_port())
    try:
        async with connect(server.url) as coordinator:
            await set_up(coordinator.bus)
            task = await coordinator.publish("code", "hello")
            waiting = asyncio.create_task(task.result(timeout_s))

            async def followed() -> bool:
                return waiting.done() or await consumers(coordinator) > 0

            await eventually(followed, "the ledger is followed")
            server.kill()
            with pytest.raises(ResultTimeoutError) as caught:
                await waiting
            return str(caught.value)
    finally:
        await server.stop()


async def consumers(coordinator: Coordinator) -> int:
    info = await coordinator.bus.api(f"STREAM.INFO.{subjects.STATE_STREAM}")
    return int(info["state"]["consumer_count"])


async def test_a_task_that_is_cancelled_before_its_start_has_a_result_without_an_id(coordinator: Coordinator):
    task = await coordinator.publish("code", "hello")
    assert (await task.cancel("not needed")).settled
    result = await task.result(RESULT_S)
    assert (result.status, result.id, result.task_id) == ("cancelled", "", task.id)
    assert result.error == "cancelled by agent-main before a worker started it"
    with pytest.raises(NotSettledError, match="no output yet"):
        [piece async for piece in task.output()]


async def test_the_whole_output_is_read_where_the_result_holds_a_part(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)):
        long = await coordinator.publish("code", f"bytes:{OUTPUT_BYTES}")
        short = await coordinator.publish("code", "say:short")
        result = await long.result(RESULT_S)
        await short.result(RESULT_S)
        assert len(str(result.result)) < OUTPUT_BYTES
        assert b"".join([piece async for piece in long.output()]) == b"x" * OUTPUT_BYTES
        assert [piece async for piece in coordinator.task(short.id).output()] == [b"short\n"]


async def test_a_task_without_a_result_has_no_output_no_retry_and_no_answer(coordinator: Coordinator):
    task = await coordinator.publish("code", "hello")
    with pytest.raises(NotSettledError):
        [piece async for piece in task.output()]
    with pytest.raises(NotSettledError):
        await task.retry()
    with pytest.raises(NoApprovalPendingError):
        await task.answer(approve=True)


async def test_a_handle_from_an_id_learns_its_agent_from_the_bus(coordinator: Coordinator):
    task = await coordinator.publish("code", "hello", task_id="job")
    for ask in (TaskHandle.status, TaskHandle.cancel, TaskHandle.result):
        handle = coordinator.task("job")
        assert handle.agent is None
        assert "agent=None" in repr(handle)
        await ask(handle)
        assert handle.agent == "code"
    assert repr(task) == "<PublishedTask job agent=code>"


async def test_a_handle_of_an_id_that_is_not_valid_is_refused_before_the_bus_is_asked(coordinator: Coordinator):
    for task_id, agent in (("a b", None), ("job", "a.b")):
        with pytest.raises(InvalidIdError):
            coordinator.task(task_id, agent=agent)


# -- many tasks -------------------------------------------------------------------------------------------------


async def test_a_target_that_is_refused_keeps_the_ids_of_the_others_in_order(coordinator: Coordinator):
    await coordinator.publish("doc", "something else", task_id="job-doc")
    outcomes = await coordinator.publish_to(["code", "doc", "ops"], "hello", task_id="job")
    assert [(one.id, one.agent) for one in outcomes] == [(f"job-{name}", name) for name in ("code", "doc", "ops")]
    assert [type(one) for one in outcomes] == [PublishedTask, TaskFailure, PublishedTask]
    refused = outcomes[1]
    assert isinstance(refused, TaskFailure)
    assert isinstance(refused.error, TaskConflictError)
    for task in (outcomes[0], outcomes[2]):
        assert (await coordinator.task(task.id).status()).state == "queued"


async def test_a_full_backlog_refuses_those_that_have_no_room_and_names_their_ids(coordinator: Coordinator):
    config = (await coordinator.bus.api(f"STREAM.INFO.{subjects.TASKS_STREAM}"))["config"]
    await coordinator.bus.api(f"STREAM.UPDATE.{subjects.TASKS_STREAM}", {**config, "max_msgs": 2})
    names = [f"agent{number}" for number in range(5)]
    outcomes = await coordinator.publish_to(names, "hello")
    assert [one.agent for one in outcomes] == names
    refused = [one for one in outcomes if isinstance(one, TaskFailure)]
    assert len(refused) == 3
    assert all(isinstance(one.error, StreamFullError) and one.id for one in refused)


async def test_a_bus_that_is_away_fails_each_target_after_one_time_out_with_ids_to_repeat(tmp_path: Path):
    async with run_server(store=tmp_path / "nats") as server, connect(server.url) as coordinator:
        await set_up(coordinator.bus)
        server.kill()
        outcomes = await coordinator.publish_to(["code", "doc", "ops"], "hello")
    assert [one.agent for one in outcomes] == ["code", "doc", "ops"]
    assert all(isinstance(one, TaskFailure) and isinstance(one.error, BusUnavailableError) for one in outcomes)
    assert len({one.id for one in outcomes}) == 3


async def test_statuses_and_cancellations_of_many_name_what_is_unknown_in_its_place(coordinator: Coordinator):
    task = await coordinator.publish("code", "hello", task_id="job")
    wanted = [task, "unknown", coordinator.task("missing", agent="doc"), "not valid", "job"]
    for outcomes, state in (
        (await coordinator.statuses(wanted), "queued"),
        (await coordinator.cancel_all(wanted, reason="enough"), "cancelled"),
    ):
        found = [outcomes[0], outcomes[4]]
        assert [one.state for one in found if isinstance(one, TaskStatus)] == [state, state]
        failed = failures(outcomes)
        assert [(one.id, one.agent) for one in failed] == [("unknown", None), ("missing", "doc"), ("not valid", None)]
        assert [type(one.error) for one in failed] == [TaskNotFoundError, TaskNotFoundError, InvalidIdError]


async def test_statuses_wait_for_a_bus_that_comes_back_and_fail_where_it_does_not(tmp_path: Path):
    store = tmp_path / "nats"
    server = await start_server(store=store, port=free_port())
    port = int(server.url.rpartition(":")[2])
    try:
        async with connect(server.url) as coordinator:
            await set_up(coordinator.bus)
            task = await coordinator.publish("code", "hello")
            server.kill()
            await eventually(lambda: not coordinator.bus.connected, "the connection is lost")
            [away] = failures(await coordinator.statuses([task], timeout_s=0.2))
            assert isinstance(away.error, BusUnavailableError)
            waiting = asyncio.create_task(coordinator.statuses([task], timeout_s=RESULT_S))
            server = await start_server(store=store, port=port)
            [status] = await waiting
            assert isinstance(status, TaskStatus)
            assert status.state == "queued"
    finally:
        await server.stop()


# -- what the library logs --------------------------------------------------------------------------------------


async def test_a_lost_and_a_restored_connection_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="agentbus")
    store = tmp_path / "nats"
    server = await start_server(store=store, port=free_port())
    port = int(server.url.rpartition(":")[2])

    def logged(level: int) -> list[str]:
        return [one.getMessage() for one in caplog.records if one.name == "agentbus" and one.levelno == level]

    try:
        async with connect(server.url) as coordinator:
            server.kill()
            await eventually(lambda: logged(logging.WARNING), "the lost connection is logged")
            before = len(logged(logging.INFO))
            server = await start_server(store=store, port=port)
            await eventually(lambda: len(logged(logging.INFO)) > before, "the restored connection is logged")
            assert coordinator.bus.connected
    finally:
        await server.stop()
    assert "connection" in logged(logging.WARNING)[0]


LOSES_ITS_SERVER = """
import asyncio, sys
from pathlib import Path
import agentbus
from agentbus.provision.nats_server import start_server

async def main():
    server = await start_server(store=Path(sys.argv[1]))
    try:
        async with agentbus.connect(server.url) as bus:
            server.kill()
            while bus.bus.connected:
                await asyncio.sleep(0.02)
    finally:
        await server.stop()

asyncio.run(main())
"""


async def test_a_program_that_configures_no_logging_sees_nothing_of_it(tmp_path: Path):
    ran = await run_python("-c", LOSES_ITS_SERVER, str(tmp_path / "nats"), env={URL_VARIABLE: ""})
    assert (ran.code, ran.out, ran.err) == (0, "", "")

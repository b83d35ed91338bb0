"""Publishing many tasks: each with its own outcome, in order, once, and without holding up what else the loop has."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import Path

import pytest

from agentbus import Coordinator, NewTask, PublishedTask, TaskFailure, connect
from agentbus.bus.setup import set_up
from agentbus.errors import BusUnavailableError, InvalidIdError, MessageError, TaskConflictError
from agentbus.provision.nats_server import run_server
from support.agreement import agreed, ledger, queue
from support.harness import BOUND_S, eventually


def numbered(count: int, first: int = 0) -> list[NewTask]:
    return [NewTask("code", f"task {number}", task_id=f"job-{number}") for number in range(first, first + count)]


async def published(bus: Coordinator, tasks: Iterable[NewTask], batch: str | None = None) -> list[PublishedTask]:
    outcomes = [outcome async for outcome in bus.publish_many(tasks, batch=batch)]
    failed = [one.error for one in outcomes if isinstance(one, TaskFailure)]
    assert not failed
    return [one for one in outcomes if not isinstance(one, TaskFailure)]


async def test_the_outcomes_are_in_the_order_of_the_tasks_and_each_task_is_stored(coordinator: Coordinator):
    tasks = await published(coordinator, numbered(300))
    assert [task.id for task in tasks] == [f"job-{number}" for number in range(300)]
    assert [task.message.payload and task.message.payload.content for task in tasks[:2]] == ["task 0", "task 1"]
    assert not any(task.known for task in tasks)
    assert len(await queue(coordinator)) == 300
    await agreed(coordinator)


async def test_a_task_that_fails_keeps_no_other_one_from_being_published(coordinator: Coordinator):
    await coordinator.publish("code", "something else", task_id="job-1")
    tasks = [*numbered(3), NewTask("no agent", "x"), NewTask("code", 5), *numbered(1, first=3)]
    first, conflict, third, no_agent, no_text, last = [one async for one in coordinator.publish_many(tasks)]
    assert [one.id for one in (first, third, last) if isinstance(one, PublishedTask)] == ["job-0", "job-2", "job-3"]
    assert isinstance(conflict, TaskFailure)
    assert (conflict.id, conflict.agent, type(conflict.error)) == ("job-1", "code", TaskConflictError)
    assert isinstance(no_agent, TaskFailure)
    assert (no_agent.id, no_agent.agent, type(no_agent.error)) == ("", "no agent", InvalidIdError)
    assert isinstance(no_text, TaskFailure)
    assert isinstance(no_text.error, MessageError)


async def test_a_batch_that_is_published_again_makes_no_second_task(coordinator: Coordinator):
    tasks = [NewTask("code", text) for text in ("one", "two", "one", "one")]
    first = await published(coordinator, tasks, "nightly")
    assert len({task.id for task in first}) == 4, "three of the same content are three tasks"
    assert all(task.id.startswith("nightly-") for task in first)
    again = await published(coordinator, [*tasks, NewTask("doc", "one")], "nightly")
    assert [task.id for task in again[:4]] == [task.id for task in first]
    assert [task.known for task in again] == [True] * 4 + [False]
    other = await published(coordinator, tasks, "tomorrow")
    assert not any(task.known for task in other)
    assert len(await queue(coordinator)) == 9


async def test_a_batch_whose_name_cannot_begin_an_id_is_refused_before_anything_is_sent(coordinator: Coordinator):
    for batch in ("no id", "", "x" * 100):
        with pytest.raises(InvalidIdError):
            await published(coordinator, numbered(1), batch)
    assert await queue(coordinator) == {}


async def test_tasks_are_taken_as_earlier_ones_are_stored_and_read(coordinator: Coordinator):
    taken = 0

    async def endless() -> AsyncGenerator[NewTask]:
        nonlocal taken
        while True:
            taken += 1
            yield NewTask("code", "x", task_id=f"job-{taken}")

    read = 0
    async with aclosing(coordinator.publish_many(endless())) as outcomes:
        async for outcome in outcomes:
            assert outcome.id == f"job-{read + 1}"
            assert taken - read <= 40
            read += 1
            if read == 200:
                break
    await coordinator.bus.begun.wait()
    await agreed(coordinator)
    assert 200 <= len(await ledger(coordinator)) <= taken


async def test_an_outcome_is_told_before_the_next_task_is_there(coordinator: Coordinator):
    more = asyncio.Event()

    async def slow() -> AsyncGenerator[NewTask]:
        yield NewTask("code", "x", task_id="job-1")
        await more.wait()
        yield NewTask("code", "x", task_id="job-2")

    async with asyncio.timeout(BOUND_S), aclosing(coordinator.publish_many(slow())) as outcomes:
        assert (await anext(outcomes)).id == "job-1"
        more.set()
        assert (await anext(outcomes)).id == "job-2"


async def test_what_the_source_raises_is_raised_behind_what_it_gave_before(coordinator: Coordinator):
    async def broken() -> AsyncGenerator[NewTask]:
        yield NewTask("code", "x", task_id="job-1")
        raise OSError("the file is gone")

    outcomes = coordinator.publish_many(broken())
    assert (await anext(outcomes)).id == "job-1"
    with pytest.raises(OSError, match="the file is gone"):
        await anext(outcomes)


async def noting(bus: Coordinator, tasks: Iterable[NewTask], seen: list[str]) -> None:
    async with aclosing(bus.publish_many(tasks)) as outcomes:
        async for outcome in outcomes:
            seen += [outcome.id]


@pytest.mark.parametrize("times", [1, 2])
async def test_a_cancelled_publication_of_many_leaves_no_half_of_one(coordinator: Coordinator, times: int):
    for number in range(2):
        tasks = numbered(200, first=1000 * number)
        seen: list[str] = []

        running = asyncio.create_task(noting(coordinator, tasks, seen))
        await eventually(lambda seen=seen: len(seen) > 20, "some are published")
        for _ in range(times):
            running.cancel()
            await asyncio.sleep(0)
        await asyncio.wait((running,))
        assert running.cancelled()
        await coordinator.bus.begun.wait()
        await agreed(coordinator)
        assert set(seen) <= set(await ledger(coordinator))


@pytest.mark.long
async def test_a_bus_that_stays_away_fails_those_behind_the_first_at_once(tmp_path: Path):
    async with run_server(store=tmp_path) as server, connect(server.url) as main:
        await set_up(main.bus)
        outcomes = main.publish_many(numbered(500))
        assert isinstance(await anext(outcomes), PublishedTask)
        server.kill()
        began = time.monotonic()
        rest = [one async for one in outcomes]
        assert time.monotonic() - began < 30, "each of them would wait for ten seconds"
    failed = [one for one in rest if isinstance(one, TaskFailure)]
    assert len(rest) == 499
    assert failed
    assert all(isinstance(one.error, BusUnavailableError) for one in failed)
    assert "is away; the task job-499 was not published" in str(failed[-1].error)


@pytest.mark.usefixtures("nothing_left_to_collect")
@pytest.mark.parametrize("how", ["many", "agents"])
async def test_the_event_loop_never_stands_while_many_are_published(coordinator: Coordinator, how: str):
    longest, done = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not done.is_set():
            before = time.thread_time()  # of this thread: what other programs of the machine take does not count
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    watching = asyncio.create_task(watch())
    if how == "many":
        await published(coordinator, numbered(1_000))
    else:
        await coordinator.publish_to([f"agent{number}" for number in range(500)], "x")
    done.set()
    await watching
    assert longest < 0.15, "50 ms on a machine that does nothing else; with all at once it is several times as long"


async def test_tasks_bring_files_which_are_sent_once_and_are_a_part_of_what_a_task_is(
    coordinator: Coordinator, tmp_path: Path
):
    await set_up(coordinator.bus, ["code"])
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1" * 300_000)
    two.write_bytes(b"2")
    tasks = [
        NewTask("code", "x", files=(one,)),
        NewTask("code", "x", files=(two,)),
        NewTask("code", "x", base="main", branch="fix"),
        NewTask("code", "x"),
        NewTask("code", "again", files=(one, two)),
    ]
    first = await published(coordinator, tasks, "nightly")
    stored = (await coordinator.bus.stream_info("OBJ_AGENT_INPUTS_code")).state
    assert stored.bytes < 400_000
    assert len({task.id for task in first}) == len(tasks)
    brought = [task.message.model_extra or {} for task in first]
    assert [[file["name"] for file in fields.get("files", ())] for fields in brought] == [
        ["one"], ["two"], [], [], ["one", "two"],
    ]  # fmt: skip
    assert brought[2]["work"] == {"base": "main", "branch": "fix"}
    again = await published(coordinator, tasks, "nightly")
    assert [(task.id, task.known) for task in again] == [(task.id, True) for task in first]
    [missing] = [one async for one in coordinator.publish_many([NewTask("code", "x", files=(tmp_path / "no",))])]
    assert isinstance(missing, TaskFailure)
    assert "cannot be read: No such file" in str(missing.error)

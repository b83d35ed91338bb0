"""A call that is cancelled, at whatever point it waits for the bus, leaves no half of its steps behind."""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from typing import Any

import pytest

from agentbus import Coordinator, connect
from agentbus.admin.dead_letters import newest_dead_letters, requeue
from agentbus.protocol import subjects
from agentbus.protocol.audit import names as audit
from agentbus.protocol.json_codec import decode, encode
from agentbus.protocol.ledger_entry import queued
from agentbus.protocol.messages import new_task
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from support.agreement import agreed, ledger, queue
from support.altered_link import altered_link, at_first
from support.cut import Cutter
from support.harness import SUPPORT, eventually, run_python
from support.mcp_harness import settle

Call = Callable[[Coordinator, int], Awaitable[Any]]
Check = Callable[[], Awaitable[None]]

ways = pytest.mark.parametrize("times", [1, 2], ids=["cancelled once", "cancelled twice, then the connection closes"])


async def said(bus: Coordinator, verb: str) -> int:
    """How many lines the audit has of a verb."""
    info = await bus.bus.stream_info(audit.SAID_STREAM, subjects_filter=audit.ALL)
    return sum(times for subject, times in (info.state.subjects or {}).items() if subject.endswith(f".{verb}"))


async def nothing(_: int) -> None:
    """What most calls need before."""


async def cut_everywhere(
    server: NatsServer,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
    check: Check,
    times: int,
    prepare: Callable[[int], Awaitable[None]] = nothing,
) -> int:
    """Cut a call at every point, each time over a connection of its own; returns how many there are."""
    cutter = Cutter(monkeypatch)
    for at in count(1):
        await prepare(at)
        async with connect(server.url) as main:
            reached = await cutter.cut(main.bus, call(main, at), at=at, times=times)
            if times == 1:
                await check()
        await check()
        if not reached:
            return at - 1
    raise AssertionError("a call has an end")


@ways
async def test_a_publication(server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, times: int):
    async def publish(main: Coordinator, at: int) -> None:
        await main.publish("code", "hi", task_id=f"job-{at}")

    points = await cut_everywhere(server, monkeypatch, publish, lambda: agreed(coordinator), times)
    assert points >= 6, "the entry, the room and the message"
    assert f"job-{points + 1}" in await ledger(coordinator), "the last one was not cut"


async def test_one_of_several_publications_at_the_same_time_under_a_time_out(
    server: NatsServer, coordinator: Coordinator
):
    agents = [f"code{number}" for number in range(20)]
    async with connect(server.url) as main:
        for number in range(8):
            with suppress(TimeoutError):
                async with asyncio.timeout(number / 1000):
                    await main.publish_to(agents, "hi", task_id=f"job{number}")
            await agreed(coordinator)


async def test_a_publication_again_of_a_task_whose_publisher_died(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    """What was half done before is no worse than that after a cut, and whole if it was not cut."""

    async def half_done(at: int) -> None:
        task = new_task(to="code", content="hi", task_type="task", task_id=f"job-{at}")
        await Ledger(coordinator.bus).create(TaskKey("code", task.id), queued(task, "main", "nonce"))

    async def publish(main: Coordinator, at: int) -> None:
        await main.publish("code", "hi", task_id=f"job-{at}")

    async def never_twice() -> None:
        assert set((await queue(coordinator)).values()) <= {1}

    points = await cut_everywhere(server, monkeypatch, publish, never_twice, 1, half_done)
    assert (await queue(coordinator))[f"job-{points + 1}"] == 1


@ways
async def test_an_answer(server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, times: int):
    async def ask(at: int) -> None:
        asking = await coordinator.publish("code", "clean up", task_id=f"job-{at}")
        question = "status=needs_approval\nmay I?\n"
        await settle(coordinator, asking.id, question, status="needs_approval", task=asking.message)

    async def answer(main: Coordinator, at: int) -> None:
        await main.task(f"job-{at}", agent="code", owner="main").answer(approve=True)

    async def check() -> None:
        await agreed(coordinator)
        answers = sum(id_.endswith(".answer") for id_ in await ledger(coordinator))
        await eventually(lambda: _equal(said(coordinator, "answer"), answers), "the audit tells of each answer")

    assert await cut_everywhere(server, monkeypatch, answer, check, times, ask) >= 10


@ways
async def test_a_retry(server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, times: int):
    async def settled(at: int) -> None:
        old = await coordinator.publish("code", "again", task_id=f"job-{at}")
        await settle(coordinator, old.id, task=old.message)

    async def retry(main: Coordinator, at: int) -> None:
        await main.task(f"job-{at}", agent="code", owner="main").retry()

    async def check() -> None:
        await agreed(coordinator)
        retries = sum(id_.startswith("task-") for id_ in await ledger(coordinator))
        await eventually(lambda: _equal(said(coordinator, "retry"), retries), "the audit tells of each retry")

    assert await cut_everywhere(server, monkeypatch, retry, check, times, settled) >= 10


@ways
async def test_a_request_to_cancel(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, times: int
):
    told: set[str] = set()
    await coordinator.bus.subscribe(subjects.control("code"), lambda message: told.add(decode(message.data)["cancel"]))

    async def queued_before(at: int) -> None:
        await coordinator.publish("code", "work", task_id=f"job-{at}")

    async def cancel(main: Coordinator, at: int) -> None:
        await main.task(f"job-{at}", agent="code", owner="main").cancel("no need")

    async def check() -> None:
        requested = {id_ for id_, record in (await ledger(coordinator)).items() if record.entry.cancel is not None}
        await eventually(lambda: told == requested, "the workers were told of each request that the ledger has")
        await eventually(lambda: _equal(said(coordinator, "cancel"), len(requested)), "the audit tells of each")

    assert await cut_everywhere(server, monkeypatch, cancel, check, times, queued_before) >= 6
    assert len(told) >= 2


@ways
async def test_a_dead_letter_that_is_queued_again(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, times: int
):
    ids = {f"job-{at}" for at in range(1, 20)}
    for at in range(1, 20):
        task = encode(new_task(to="code", content="hi", task_type="task", task_id=f"job-{at}").to_json())
        await coordinator.bus.store(subjects.dead("code"), task, headers={"Bus-Origin": f"AGENT_TASKS.{at}"})

    async def check() -> None:
        letters = [str(decode(letter.data)["id"]) for letter in await newest_dead_letters(coordinator.bus, 99)]
        assert Counter(letters) + await queue(coordinator) == Counter(ids)

    points = await cut_everywhere(server, monkeypatch, lambda main, at: requeue(main.bus, at), check, times)
    assert points < 19


async def test_what_a_cancelled_call_had_begun_and_could_not_finish_is_logged(
    coordinator: Coordinator, caplog: pytest.LogCaptureFixture
):
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def steps() -> None:
        begun.set()
        await go_on.wait()
        raise RuntimeError("the second step was refused")

    call = asyncio.create_task(coordinator.bus.begun.finish(steps()))
    await begun.wait()
    for _ in range(2):
        call.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await call
    assert coordinator.bus.begun.any
    go_on.set()
    await coordinator.bus.begun.wait()
    assert "could not be finished: the second step was refused" in caplog.text
    assert not coordinator.bus.begun.any


@pytest.mark.parametrize("unanswered", [3, 1_000], ids=["answered at last", "never answered"])
async def test_what_is_taken_back_is_removed_until_that_is_answered_and_logged_where_it_never_is(
    server: NatsServer, coordinator: Coordinator, caplog: pytest.LogCaptureFixture, unanswered: int
):
    unreadable, removals = at_first(unanswered, lambda _: b"{}"), list[bytes]()

    def answer(data: bytes) -> bytes | None:
        if not call.cancelling():  # the entry is there
            call.cancel()
            return data
        removals.append(data)
        return unreadable(data)

    async with altered_link(server.url) as link:
        async with connect(link.url) as main:
            link.changes[subjects.state(TaskKey("code", "job"))] = answer
            call = asyncio.ensure_future(main.publish("code", "x", task_id="job"))
            with pytest.raises(asyncio.CancelledError):
                await call
            await eventually(lambda: len(removals) >= 2, "it is removed again")
            while unanswered == 3 and main.bus.begun.any:
                await main.bus.begun.wait()
        if unanswered == 3:
            assert (len(removals), caplog.text) == (4, "")
        else:
            unsure = "the task job may or may not be queued"
            await eventually(lambda: unsure in caplog.text, "the log says that it may be left")
    await agreed(coordinator)


@pytest.mark.usefixtures("signals_of_a_terminal")
@pytest.mark.gate("told to end, about to be queued")
@pytest.mark.parametrize(
    "point",
    [
        "told to end, in the ledger, not queued",
        "told to end, about to be queued",
        "hung up, about to be queued",
        "told to end, nothing begun",
    ],
)
@pytest.mark.posix("signals")
async def test_a_command_that_gets_a_signal_between_two_steps_finishes_them_and_dies_of_it(
    server: NatsServer, coordinator: Coordinator, point: str
):
    args = ("task", "publish", "--nats-url", server.url, "--to", "code", "--task-type", "test", "--task-id", "job", "x")
    ran = await run_python(str(SUPPORT / "dying.py"), point, *args)
    number = signal.SIGHUP if point.startswith("hung up") else signal.SIGTERM
    assert (ran.code, f"dies: {point}" in ran.err) == (-number, True)
    await agreed(coordinator)
    if "in the ledger" not in point:
        assert ("job" in await ledger(coordinator)) == ("about to be queued" in point)


async def _equal(counted: Awaitable[int], wanted: int) -> bool:
    return await counted == wanted

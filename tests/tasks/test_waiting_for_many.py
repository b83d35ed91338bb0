"""Waiting for tasks costs what they cost: no request too many for one, no change of others, no look at all for each."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

import pytest

from agentbus import Coordinator, connect
from agentbus.concurrently import concurrently
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import Claim, Record, claimed
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.waiting import follow, shared_consumers
from agentbus.tasks.waiting.watched_tasks import Until
from support.altered_link import AlteredLink, Whole, altered_link, once
from support.harness import BOUND_S, eventually
from support.mcp_harness import settle, until_watched

LEDGER = subjects.STATE_STREAM


@pytest.fixture
async def link(server: NatsServer) -> AsyncGenerator[AlteredLink]:
    async with altered_link(server.url) as opened:
        yield opened


def counting(link: AlteredLink, *beginnings: str) -> Counter[str]:
    """Count what arrives over the link: the answers to requests, and messages, by the beginning of their subjects."""
    seen = Counter[str]()
    for beginning in beginnings:

        def count(data: bytes, beginning: str = beginning) -> bytes:
            seen[beginning] += 1
            return data

        link.changes[beginning] = count
    return seen


async def work_on(bus: Coordinator, task_id: str, agent: str = "code") -> None:
    """Do what a worker does at the beginning of a task."""
    ledger, key = Ledger(bus.bus), TaskKey(agent, task_id)
    record = await ledger.read(key)
    assert isinstance(record, Record)
    claim = Claim(worker="w", nonce="n", lease_s=30, since="now")
    await ledger.write(key, claimed(record.entry, claim, 1), revision=record.revision)


async def test_a_wait_for_one_task_makes_no_more_requests_than_it_needs(link: AlteredLink, coordinator: Coordinator):
    async with connect(link.url) as main:
        task = await main.publish("code", "x", task_type="test", task_id="job")
        seen = counting(link, "$JS.API.DIRECT.GET", "$JS.API.CONSUMER.CREATE", "$JS.API.STREAM.INFO", "$KV.")
        waiting = asyncio.create_task(task.result(BOUND_S))
        await until_watched(coordinator.bus, LEDGER)
        await work_on(coordinator, "job")
        await settle(coordinator, "job")
        assert (await waiting).status == "completed"
    # Whether it has its result, a consumer if not; and the entry as it is then, at the claim and at the end.
    assert seen == {"$JS.API.DIRECT.GET": 1, "$JS.API.CONSUMER.CREATE": 1, "$KV.": 3}


async def test_a_wait_for_a_settled_task_is_one_request(link: AlteredLink, coordinator: Coordinator):
    async with connect(link.url) as main:
        task = await main.publish("code", "x", task_type="test", task_id="job")
        await settle(coordinator, "job")
        seen = counting(link, "$JS.API.", "$KV.")
        assert (await task.result(BOUND_S)).status == "completed"
    assert seen == {"$JS.API.": 1}


@pytest.mark.parametrize("most", [1, 100], ids=["all followed", "those of the wait followed"])
async def test_a_wait_for_several_tasks_reads_each_once_and_looks_once_where_the_ledger_ends(
    link: AlteredLink, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, most: int
):
    monkeypatch.setattr(follow, "_MOST_KEYS", most)
    ids = [f"job-{number}" for number in range(5)]
    for task_id in ids:
        await coordinator.publish("code", "x", task_type="test", task_id=task_id)
    await settle(coordinator, "job-0")
    async with connect(link.url) as main:
        seen = counting(link, "$JS.API.DIRECT.GET", "$JS.API.CONSUMER.CREATE", "$JS.API.STREAM.INFO")
        waiting = asyncio.create_task(main.wait(ids, agent="code"))
        await until_watched(coordinator.bus, LEDGER)
        assert seen == {"$JS.API.STREAM.INFO": 1, "$JS.API.DIRECT.GET": 5, "$JS.API.CONSUMER.CREATE": 1}
        for task_id in ids[1:]:
            await settle(coordinator, task_id)
        assert (await waiting).settled.keys() == set(ids)


async def test_waits_that_end_in_vain_at_once_look_once_at_what_the_queue_holds(
    link: AlteredLink, coordinator: Coordinator
):
    ids = [f"job-{number}" for number in range(20)]
    for task_id in ids:
        await coordinator.publish("code", "x", task_type="test", task_id=task_id)
    async with connect(link.url) as main:
        seen = counting(link, "$JS.API.STREAM.INFO.AGENT_TASKS")
        waited = await asyncio.gather(*(main.wait([one], timeout_s=0.5) for one in ids))
    assert [list(one.pending) for one in waited] == [[one] for one in ids]
    assert 1 <= seen["$JS.API.STREAM.INFO.AGENT_TASKS"] < len(ids)  # each has looked twice before


@pytest.mark.parametrize("count", [1, 5])
async def test_only_changes_of_the_tasks_that_are_waited_for_are_delivered(
    link: AlteredLink, coordinator: Coordinator, count: int
):
    waited_for = [f"job-{number}" for number in range(count)]
    for task_id in (*waited_for, "other"):
        await coordinator.publish("code", "x", task_type="test", task_id=task_id)
    async with connect(link.url) as main:
        seen = counting(link, "$KV.AGENT_STATE.code.job", "$KV.AGENT_STATE.code.other")
        waiting = asyncio.create_task(main.wait(waited_for, agent="code"))
        await until_watched(coordinator.bus, LEDGER)
        await work_on(coordinator, "other")
        for task_id in ("other", *waited_for):
            await settle(coordinator, task_id)
        assert (await waiting).settled.keys() == set(waited_for)
    assert seen.keys() == {"$KV.AGENT_STATE.code.job"}


@pytest.mark.parametrize("most", [4, 100], ids=["all followed", "those of the wait followed"])
@pytest.mark.parametrize("until", ["all", "any"])
async def test_many_tasks_are_waited_for_with_several_consumers_or_with_one_for_all(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, most: int, until: Until
):
    monkeypatch.setattr(shared_consumers, "_KEYS_AT_ONCE", 3)
    monkeypatch.setattr(follow, "_MOST_KEYS", most)
    ids = [f"job-{number}" for number in range(8)]
    await concurrently(ids, lambda one: coordinator.publish("code", "x", task_type="test", task_id=one), at_once=8)
    told: list[tuple[str, str]] = []

    def tell(task_id: str, state: str) -> None:
        told.append((task_id, state))

    waiting = asyncio.create_task(coordinator.wait(ids, until=until, on_change=tell, timeout_s=BOUND_S))
    await until_watched(coordinator.bus, LEDGER)
    await work_on(coordinator, "job-7")
    await eventually(lambda: ("job-7", "working") in told, "it is told that one is being worked on")
    for task_id in ids if until == "all" else ["job-4"]:
        await settle(coordinator, task_id)
    waited = await waiting
    assert waited.current
    if until == "all":
        assert (waited.settled.keys(), waited.pending) == (set(ids), {})
        assert Counter(task_id for task_id, state in told if state == "completed") == Counter(ids)
    else:
        assert waited.settled.keys() == {"job-4"}
        assert {task_id: one.state for task_id, one in waited.pending.items() if one.state != "queued"} == {
            "job-7": "working"
        }


@pytest.mark.parametrize("most", [1, 100], ids=["all followed", "those of the wait followed"])
async def test_that_a_task_is_working_is_known_at_the_end_though_it_was_not_read_before(
    link: AlteredLink, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, most: int
):
    monkeypatch.setattr(follow, "_MOST_KEYS", most)
    for task_id in ("first", "second"):
        await coordinator.publish("code", "x", task_type="test", task_id=task_id)
    async with connect(link.url) as main:
        waiting = asyncio.create_task(main.wait(["first", "second"], agent="code", until="any"))
        await until_watched(coordinator.bus, LEDGER)
        await work_on(coordinator, "second")
        await settle(coordinator, "first")
        waited = await waiting
    assert [one.state for one in waited.pending.values()] == ["working"]
    assert waited.pending["second"].record.entry.attempt == 1


@pytest.mark.parametrize("others", [[], ["second"]], ids=["one", "several"])
async def test_a_change_between_the_look_up_and_the_consumer_is_seen(
    link: AlteredLink, coordinator: Coordinator, others: list[str]
):
    for task_id in ("first", *others):
        await coordinator.publish("code", "x", task_type="test", task_id=task_id)
    async with connect(link.url) as main:
        old = await main.bus.last_message(LEDGER, subjects.state(TaskKey("code", "first")))
        assert old is not None
        await settle(coordinator, "first")
        lines = [f"{name}: {value}" for name, value in old.headers.items()]
        before = Whole("\r\n".join(["NATS/1.0", *lines, "", ""]).encode() + old.data)
        altered = once(lambda _: before)
        link.changes["$JS.API.DIRECT.GET"] = lambda data: data if b"completed" not in data else altered(data)
        ended, ends = (b'"last_seq":%d,' % seq for seq in (old.seq, old.seq + len(others) + 1))
        link.changes["$JS.API.STREAM.INFO"] = lambda data: data.replace(ends, ended)
        async with asyncio.timeout(BOUND_S):
            waited = await main.wait(["first", *others], agent="code", until="any")
    assert waited.settled.keys() == {"first"}

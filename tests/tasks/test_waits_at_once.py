"""Many waits of one connection at the same time: they share few consumers, and no wait costs another one anything."""

import asyncio
import json
from collections.abc import Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream import connect as connect_bus
from agentbus.bus.reading import delivery_inboxes
from agentbus.bus.setup import set_up
from agentbus.concurrently import concurrently
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Claim, Record, claimed, settled
from agentbus.protocol.messages import decode_result
from agentbus.protocol.parties.ledger_streams import ledger_of
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.protocol.roles import Role
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import run_server, start_server
from agentbus.tasks.inbox import InboxMessage
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.status import Waited
from support.altered_link import Whole, altered_link, once
from support.free_ports import free_port
from support.harness import BOUND_S, eventually
from support.installation import own_bus
from support.mcp_harness import put, result_message

LEDGER = subjects.STATE_STREAM
_AT_ONCE = 64


async def publish(bus: Coordinator, ids: Iterable[str]) -> None:
    await concurrently(ids, lambda one: bus.publish("code", "x", task_type="test", task_id=one), at_once=_AT_ONCE)


async def change(bus: Coordinator, task_id: str, *, owner: str = "main", ends: bool = True) -> None:
    """Do what a worker does with the ledger entry of a task."""
    ledger, key = Ledger(bus.bus), TaskKey("code", task_id, owner)
    record = await ledger.read(key)
    assert isinstance(record, Record)
    entry = claimed(record.entry, Claim(worker="w", nonce="n", lease_s=30, since="now"), 1)
    if ends:
        result = decode_result(encode({**result_message(task_id, "done"), **key.owner_field}))
        entry = settled(record.entry, result)
    await ledger.write(key, entry, revision=record.revision)


async def followed_keys(bus: Bus, stream: str) -> list[int]:
    """How many keys each consumer of a stream has for which someone waits; 0 for those with a wildcard."""
    live = [one.config for one in await bus.consumers(stream) if one.num_waiting]
    return [
        0 if "*" in str(one.get("filter_subject")) or ">" in str(one.get("filter_subject"))
        else len(one.get("filter_subjects") or ["one"])
        for one in live
    ]  # fmt: skip


def task_of(message: InboxMessage) -> str | None:
    return message.result.task_id if message.result else None


def waits(bus: Coordinator, ids: Iterable[str]) -> list[asyncio.Task[Waited]]:
    return [asyncio.create_task(bus.wait([one], agent="code", timeout_s=BOUND_S)) for one in ids]


async def until_followed(bus: Bus, count: int, stream: str = LEDGER) -> list[int]:
    async def found() -> list[int] | None:
        keys = await followed_keys(bus, stream)
        return keys if sum(keys) == count else None

    return await eventually(found, f"{count} keys are followed")


@pytest.mark.gate("operator-60", "member-60")
@pytest.mark.parametrize(
    ("name", "role", "tasks", "at_once"),
    [
        ("main", "operator", 60, 300),
        ("main", "operator", 1_100, 1_100),
        ("alice", "member", 60, 300),
        ("doc", "member", 300, 300),
    ],
    ids=["operator-60", "operator-1100", "member-60", "agent-300"],
)
async def test_more_waits_than_a_connection_may_have_subscriptions_all_end_with_their_results(
    tmp_path: Path, name: str, role: Role, tasks: int, at_once: int
):
    ids = [f"job-{number}" for number in range(tasks)]
    waited_for = [ids[number % tasks] for number in range(at_once)]
    async with (
        own_bus(tmp_path, ["code"], may_task={"doc": ["code"]}, coordinators={"alice": ("member", ["code"])}) as bus,
        connect_bus(bus.settings(ADMINISTRATOR)) as administrator,
        bus.coordinator(name, role) as coordinator,
        bus.coordinator("main") as worker,
    ):
        await publish(coordinator, ids)
        waiting = waits(coordinator, waited_for)
        if role == "operator":
            live = await until_followed(administrator, tasks, ledger_of("code"))
            assert len(live) <= 18 + tasks // 50
        else:

            async def found() -> list[int] | None:
                live = await followed_keys(administrator, ledger_of("code"))
                return live if 0 in live else None

            live = await eventually(found, "all entries of the member are followed")
            assert len(live) <= 9
        await concurrently(ids, lambda one: change(worker, one, owner=name), at_once=_AT_ONCE)
        for task_id, waited in zip(waited_for, await asyncio.gather(*waiting), strict=True):
            assert waited.settled.keys() == {task_id}
            assert waited.current
        assert coordinator.bus.connected
        assert not bus.violations()


async def test_more_inboxes_can_be_followed_at_once_than_a_connection_may_have_subscriptions(tmp_path: Path):
    conf = tmp_path / "few.conf"
    store = json.dumps(str(tmp_path / "few"))
    limit = delivery_inboxes.OWN + 4
    conf.write_text(
        f"listen: 127.0.0.1:-1\njetstream {{ store_dir: {store} }}\nmax_subscriptions: {limit}\n", encoding="utf-8"
    )
    async with (
        run_server(store=tmp_path / "few", config=conf) as server,
        connect(server.url) as coordinator,
        connect(server.url) as other,
    ):
        await set_up(other.bus)
        async with AsyncExitStack() as stack:
            opening = (stack.enter_async_context(coordinator.inbox()) for _ in range(2 * limit))
            told = [asyncio.create_task(inbox.next()) for inbox in await asyncio.gather(*opening)]
            await put(other, result_message("job", "done"))
            assert {task_of(message) for message in await asyncio.gather(*told)} == {"job"}

        async def gone() -> bool:
            return not await other.bus.consumers(subjects.RESULTS_STREAM)

        await eventually(gone, "the consumers are gone, whose requests the server would keep for longer")
        assert coordinator.bus.connected


async def test_waits_that_begin_one_after_the_other_come_together_and_miss_nothing(coordinator: Coordinator):
    ids = [f"job-{number}" for number in range(24)]
    await publish(coordinator, ids)
    waiting: list[asyncio.Task[Waited]] = []
    live: list[int] = []
    async with connect(coordinator.bus.settings.servers) as main:
        for number, task_id in enumerate(ids, 1):
            waiting += waits(main, [task_id])
            live = await until_followed(coordinator.bus, number)
            assert len(live) <= 18
        assert max(live) > 4
        for task_id in ids:
            await change(coordinator, task_id)
        for task_id, waited in zip(ids, await asyncio.gather(*waiting), strict=True):
            assert waited.settled.keys() == {task_id}


async def test_a_wait_that_is_cancelled_ends_no_other_one_and_the_last_one_leaves_nothing(coordinator: Coordinator):
    ids = [f"job-{number}" for number in range(20)]
    await publish(coordinator, ids)
    before = asyncio.all_tasks()
    async with connect(coordinator.bus.settings.servers) as main:
        connected = asyncio.all_tasks()
        waiting = waits(main, ids)
        await until_followed(coordinator.bus, len(ids))
        for one in waiting[::2]:
            one.cancel()
        await asyncio.wait(waiting[::2])
        for task_id in ids:
            await change(coordinator, task_id)
        for task_id, waited in zip(ids[1::2], await asyncio.gather(*waiting[1::2]), strict=True):
            assert waited.settled.keys() == {task_id}
        await eventually(lambda: asyncio.all_tasks() <= connected, "their consumers end")
    await eventually(lambda: asyncio.all_tasks() <= before, "nothing goes on")


async def test_a_wait_that_joins_others_sees_what_has_changed_since_it_looked(coordinator: Coordinator):
    await publish(coordinator, ["first", "second"])
    async with altered_link(coordinator.bus.settings.servers) as link, connect(link.url) as main:
        waiting = asyncio.create_task(main.wait(["first", "second"], agent="code", timeout_s=BOUND_S))
        await until_followed(coordinator.bus, 2)
        old = await main.bus.last_message(LEDGER, subjects.state(TaskKey("code", "first")))
        assert old is not None
        await change(coordinator, "first")
        lines = [f"{name}: {value}" for name, value in old.headers.items()]
        before = Whole("\r\n".join(["NATS/1.0", *lines, "", ""]).encode() + old.data)
        link.changes["$JS.API.DIRECT.GET"] = once(lambda _: before)
        joining = await main.wait(["first"], agent="code", timeout_s=BOUND_S)
        assert joining.settled.keys() == {"first"}
        await change(coordinator, "second")
        assert (await waiting).settled.keys() == {"first", "second"}


async def test_many_waits_outlast_a_server_that_is_stopped_and_started(tmp_path: Path) -> None:
    ids = [f"job-{number}" for number in range(20)]
    server = await start_server(store=tmp_path, port=free_port())
    try:
        port = int(server.url.rpartition(":")[2])
        async with connect(server.url) as main, connect(server.url) as other:
            await set_up(main.bus)
            await publish(main, ids)
            waiting = waits(main, ids)
            await until_followed(other.bus, len(ids))
            await server.stop()
            await eventually(lambda: not main.bus.connected, "the connection is lost")
            server = await start_server(store=tmp_path, port=port)
            await other.bus.wait_connected()
            for task_id in ids:
                await change(other, task_id)
            for task_id, waited in zip(ids, await asyncio.gather(*waiting), strict=True):
                assert waited.settled.keys() == {task_id}
                assert waited.current
    finally:
        await server.stop()


async def test_consumers_that_share_a_subscription_get_what_is_theirs(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(delivery_inboxes, "OWN", 0)
    ids = [f"job-{number}" for number in range(3)]
    await publish(coordinator, ids)
    async with coordinator.inbox() as one, coordinator.inbox() as two:
        waiting = waits(coordinator, ids)
        await until_followed(coordinator.bus, len(ids))
        for task_id in ids:
            await change(coordinator, task_id)
        for task_id, waited in zip(ids, await asyncio.gather(*waiting), strict=True):
            assert waited.settled.keys() == {task_id}
        for number in range(50):
            await put(coordinator, result_message(f"result-{number}", "done"))
        async with asyncio.timeout(BOUND_S):
            for inbox in (one, two):
                told = [task_of(await inbox.next()) for _ in range(50)]
                assert told == [f"result-{number}" for number in range(50)]
        assert [task_of(message) for message in await coordinator.results(2)] == ["result-48", "result-49"]


async def test_waits_of_a_user_who_may_not_follow_several_keys_all_end(tmp_path: Path):
    conf = tmp_path / "older.conf"
    store, refused = json.dumps(str(tmp_path / "older")), f"$JS.API.CONSUMER.CREATE.{LEDGER}.*"
    conf.write_text(
        f"listen: 127.0.0.1:-1\njetstream {{ store_dir: {store} }}\nno_auth_user: a\n"
        "authorization { users: [ { user: a, password: b }, "
        f'{{ user: c, password: d, permissions: {{ publish: {{ allow: ">", deny: "{refused}" }} }} }} ] }}\n',
        encoding="utf-8",
    )
    ids = [f"job-{number}" for number in range(30)]
    async with (
        run_server(store=tmp_path / "older", config=conf) as server,
        connect(server.url) as other,
        connect(server.url.replace("//", "//c:d@")) as main,
    ):
        await set_up(other.bus)
        await publish(other, ids)
        waiting = waits(main, ids)

        async def found() -> bool:
            return 0 in await followed_keys(other.bus, LEDGER)

        await eventually(found, "all entries are followed, for several may not be")
        for task_id in ids:
            await change(other, task_id)
        for task_id, waited in zip(ids, await asyncio.gather(*waiting), strict=True):
            assert waited.settled.keys() == {task_id}
        assert not main.bus.reads_whole_ledger

"""Each party of a bus of `agentbus init` has a ledger of its own: what one writes into it holds up no other one."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from agentbus import Coordinator
from agentbus.admin.overview import OverviewReader
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.reading import merging
from agentbus.bus.setup import set_up
from agentbus.bus.topology import SECOND_NS
from agentbus.errors import MessageError, StreamFullError
from agentbus.protocol.parties.ledger_streams import ledger_of
from agentbus.protocol.roles import Role
from agentbus.provision.bus_folder.folder import BusFolder
from support import installation
from support.harness import BOUND_S, eventually, run_cli, worker
from support.installation import OwnBus, own_bus
from support.server_version import server_version

pytestmark = pytest.mark.posix("a worker needs process groups and signals")


async def fill_ledger(bus: Bus, agent: str) -> None:
    """Write entries of one agent until the server takes none, not even a small one."""
    for size in (1_000_000, 50_000, 500, 0):
        with pytest.raises(StreamFullError):
            await write_entries(bus, agent, size)


async def write_entries(bus: Bus, agent: str, size: int) -> None:
    for number in range(20_000):
        await bus.store(f"$KV.AGENT_STATE.{agent}.{size}-{number}", bytes(size))


async def test_a_worker_that_fills_its_ledger_delays_nothing_of_another_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "PLAN", replace(installation.PLAN, max_file="60MiB"))
    async with own_bus(tmp_path) as own, own.coordinator("main") as main, connect(own.settings("admin")) as admin:
        go = tmp_path / "go"
        async with worker(own.worker_toml(tmp_path, "doc", task_timeout_seconds=600, concurrency=2)) as process:
            running = await main.publish("doc", f"wait:{go}", task_type="test")
            await process.until_said(running.id)
            waiting = asyncio.create_task(main.wait([running.id], timeout_s=BOUND_S))
            async with connect(own.settings("code")) as code:
                await fill_ledger(code, "code")
            renewals = (await admin.stream_info(ledger_of("doc"))).state.last_seq
            next_task = await main.publish("doc", "say:published", task_type="test")
            assert (await main.wait([next_task.id], timeout_s=BOUND_S)).settled[next_task.id].state == "completed"
            assert (await admin.stream_info(ledger_of("doc"))).state.last_seq > renewals
            go.touch()
            status = (await waiting).settled[running.id]
            assert (status.state, status.result.to_json()["attempt"] if status.result else None) == ("completed", 1)
        with pytest.raises(
            StreamFullError, match=r"the ledger(, KV_AGENT_STATE_code,| of code, KV_AGENT_STATE_code,) holds"
        ):
            await main.publish("code", "say:refused", task_type="test")
        assert {one.task_id for one in (await main.list_tasks(state="completed")).tasks} == {running.id, next_task.id}


async def test_a_worker_that_writes_small_entries_is_bounded_by_their_number(tmp_path: Path) -> None:
    async with own_bus(tmp_path) as own, own.coordinator("main") as main, connect(own.settings("admin")) as admin:
        name = ledger_of("code")
        config = (await admin.stream_info(name)).config
        assert config["max_msgs"] == config["max_bytes"] // 512
        await admin.api(f"STREAM.UPDATE.{name}", {**config, "max_msgs": 20})
        task = await main.publish("code", "say:done", task_type="test")
        async with connect(own.settings("code")) as code:
            with pytest.raises(StreamFullError):
                await write_entries(code, "code", 0)
        async with worker(own.worker_toml(tmp_path, "code")):
            assert (await main.wait([task.id], timeout_s=BOUND_S)).settled[task.id].state == "completed"
        with pytest.raises(StreamFullError, match="the ledger of code, KV_AGENT_STATE_code, holds 20 of 20 entries"):
            await main.publish("code", "say:refused", task_type="test")


_MOST_SLOWER = 5
"""How much longer a task of another agent may take while the flood goes on, beside what the machine has to do."""
_OF_A_TASK_S = 0.2
"""What is allowed beside that: a task takes less on a machine that does nothing else, so its time varies much."""


async def flood(bus: Bus, subject: str, size: int, refused: asyncio.Event, stop: asyncio.Event) -> None:
    """Store under ever new names, one after the other, also when the server takes no more."""
    number = 0
    while not stop.is_set():
        number += 1
        try:
            await bus.store(subject.format(number), bytes(size))
        except StreamFullError:
            refused.set()


async def times_of(main: Coordinator, count: int) -> list[float]:
    """How long tasks of doc take, one after the other, from before they are published until their publisher is told."""
    clock, times = asyncio.get_running_loop().time, list[float]()
    for _ in range(count):
        began = clock()
        task = await main.publish("doc", "say:done", task_type="test")
        assert (await main.wait([task.id], timeout_s=BOUND_S)).settled[task.id].state == "completed"
        times.append(clock() - began)
    return times


@pytest.mark.attacks
async def test_a_flood_of_entries_small_and_large_and_of_results_leaves_another_agent_its_pace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "PLAN", replace(installation.PLAN, max_file="60MiB"))
    async with own_bus(tmp_path) as own, own.coordinator("main") as main, connect(own.settings("admin")) as admin:
        async with worker(own.worker_toml(tmp_path, "doc")), connect(own.settings("code")) as code:
            await times_of(main, 3)  # the first ones also start what runs them
            quiet = median(await times_of(main, 15))
            stop, small, large = asyncio.Event(), asyncio.Event(), asyncio.Event()
            async with asyncio.TaskGroup() as floods:
                floods.create_task(flood(code, "$KV.AGENT_STATE.code.large-{}", 500_000, large, stop))
                await large.wait()
                floods.create_task(flood(code, "$KV.AGENT_STATE.code.small-{}", 0, small, stop))
                await small.wait()
                for number in range(1_000):  # as many inboxes, all of them invented
                    await code.store(f"agent.inbox-{number}.results", bytes(4_000))
                loud = median(await times_of(main, 15))
                stop.set()
        assert loud <= _MOST_SLOWER * quiet + _OF_A_TASK_S
        info = await admin.stream_info(ledger_of("code"))
        assert info.state.bytes > 0.99 * info.max_bytes or info.state.messages == info.max_msgs


async def test_what_was_accepted_is_done_at_once_also_when_the_inboxes_are_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "PLAN", replace(installation.PLAN, max_file="60MiB"))
    async with own_bus(tmp_path) as own, own.coordinator("main") as main, connect(own.settings("admin")) as admin:
        tasks = [await main.publish("doc", "say:done", task_type="test") for _ in range(5)]
        async with connect(own.settings("code")) as code:
            for number in range(100):
                with suppress(StreamFullError):
                    await code.store(f"agent.inbox-{number}.results", bytes(1_000_000 >> number // 20 * 4))
        info = await admin.stream_info("AGENT_RESULTS")
        assert info.state.bytes > 0.95 * info.max_bytes
        async with worker(own.worker_toml(tmp_path, "doc")):
            waited = await main.wait([task.id for task in tasks], timeout_s=BOUND_S)
            assert {one.state for one in waited.settled.values()} == {"completed"}
            await admin.api("STREAM.PURGE.AGENT_RESULTS", {"filter": "agent.*.results.code"})

            async def all_told() -> bool:
                told = await main.results(newest=9)
                return {one.result.task_id for one in told if one.result} == {task.id for task in tasks}

            await eventually(all_told, "the results are in the inbox")


TEAM: dict[str, tuple[Role, list[str] | None]] = {
    "alice": ("member", None),
    "carol": ("operator", None),
    "bob": ("viewer", None),
    "dave": ("member", ["doc"]),
}


@pytest.fixture
async def team(tmp_path: Path) -> AsyncGenerator[OwnBus]:
    async with own_bus(tmp_path, ["code", "doc", "review"], coordinators=TEAM) as bus:
        yield bus


async def publish_around(coordinator: Coordinator, count: int) -> list[str]:
    """Publish tasks for the agents in turn; returns their ids, the newest first."""
    agents = ("code", "doc", "review")
    ids = [(await coordinator.publish(agents[at % 3], f"x{at}", task_type="test")).id for at in range(count)]
    return ids[::-1]


async def test_a_list_has_the_tasks_of_all_agents_in_the_order_of_their_last_changes(team: OwnBus) -> None:
    async with team.coordinator("main") as main, team.coordinator("alice") as alice:
        ids = await publish_around(main, 14)
        own = await publish_around(alice, 5)
        for reader, name, everything in ((main, "main", [*own, *ids]), (alice, "alice", own)):
            found, cursor = list[str](), None
            while True:
                page = await reader.list_tasks(limit=4, cursor=cursor)
                assert len(page.tasks) <= 4
                found += [one.task_id for one in page.tasks]
                cursor = page.cursor
                if cursor is None:
                    break
            assert found == everything, name
        docs = [one for one in ids if (await main.task(one).status()).agent == "doc"]
        assert [one.task_id for one in (await main.list_tasks(agent="doc", limit=3)).tasks][-1:] == docs[:1]
    assert team.violations() == []


async def consumers_on_ledgers(admin: Bus, agents: Sequence[str]) -> int:
    answers = [await admin.api(f"STREAM.INFO.{ledger_of(agent)}") for agent in agents]
    return sum(int(answer["state"]["consumer_count"]) for answer in answers)


async def test_a_page_of_fewer_tasks_than_there_are_ledgers_has_the_newest_of_all(team: OwnBus) -> None:
    async with team.coordinator("main") as main, connect(team.settings("admin")) as admin:
        ids = (await publish_around(main, 6))[:3]
        assert [one.task_id for one in (await main.list_tasks(limit=1)).tasks] == ids[:1]
        if server_version() >= (2, 11):
            assert await consumers_on_ledgers(admin, ("code", "doc", "review")) == 0, "each was read by one request"
        several = [(await main.publish("code", f"y{at}", task_type="test")).id for at in range(3)][::-1]
        for limit in (1, 2, 5):
            found = await main.list_tasks(limit=limit)
            assert [one.task_id for one in found.tasks] == [*several, *ids][:limit]
            following = await main.list_tasks(limit=1, cursor=found.cursor)
            assert [one.task_id for one in following.tasks] == [*several, *ids][limit : limit + 1]
    assert team.violations() == []


async def test_pages_below_a_cursor_of_fewer_tasks_than_there_are_ledgers_have_each_task_once(
    team: OwnBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "_SLICES", 1_000)
    async with team.coordinator("main") as main, connect(team.settings("admin")) as admin:
        ids = await publish_around(main, 9)
        found, page = list[str](), await main.list_tasks(limit=1)
        while page.cursor is not None:
            page = await main.list_tasks(limit=1, cursor=page.cursor)
            found += [one.task_id for one in page.tasks]
            if server_version() >= (2, 11) and len(found) <= 4:  # none of the ledgers is at its end
                assert await consumers_on_ledgers(admin, ("code", "doc", "review")) == 0, "each was read by requests"
        assert found == ids[1:]
        more = [(await main.publish("code", f"y{at}", task_type="test")).id for at in range(12)][::-1]
        newest = await main.list_tasks(limit=1)
        # A span that holds all there is, and so more of one ledger than is read one by one.
        monkeypatch.setattr(merging, "_ROOM", 1e6)
        assert [one.task_id for one in (await main.list_tasks(limit=1, cursor=newest.cursor)).tasks] == more[1:2]


async def test_status_has_what_runs_though_the_other_ledgers_have_changed_since(team: OwnBus, tmp_path: Path) -> None:
    go = tmp_path / "go"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    async with team.coordinator("main") as main, worker(team.worker_toml(tmp_path / "a", "doc")) as process:
        running = await main.publish("doc", f"wait:{go}", task_type="test")
        await process.until_said(running.id)
        async with worker(team.worker_toml(tmp_path / "b", "code")):
            settled = [await main.publish("code", f"say:{number}", task_type="test") for number in range(3)]
            await main.wait([task.id for task in settled], timeout_s=BOUND_S)
            done = await main.publish("code", "say:done", task_type="test")
            await main.wait([done.id], timeout_s=BOUND_S)

        async def shown() -> bool:
            page = await OverviewReader(main, recent=1).read()
            return ([one.task_id for one in page.running], [one.task_id for one in page.recent]) == (
                [running.id],
                [done.id],
            )

        await eventually(shown, "status has the task that runs, and the one that was settled last")
        go.touch()
        await main.wait([running.id], timeout_s=BOUND_S)


async def test_a_page_is_full_however_long_it_takes_and_a_search_ends_in_time(
    team: OwnBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "_FIRST_AT_ONCE", 1)
    monkeypatch.setattr(merging, "_LEAST", 1)
    async with team.coordinator("main") as main:
        ids = await publish_around(main, 60)
        page = await main.list_tasks(limit=12, search_s=0)
        assert ([one.task_id for one in page.tasks], page.partial) == (ids[:12], False)
        cursor, calls = None, 0
        while not calls or cursor is not None:
            found = await main.list_tasks(state="failed", search_s=0, cursor=cursor)
            assert found.tasks == []
            assert cursor is None or found.cursor is None or found.cursor < cursor, "each call comes further"
            cursor, calls = found.cursor, calls + 1
        assert calls > 1


async def test_a_cursor_from_before_the_ledger_was_divided_is_refused(team: OwnBus) -> None:
    async with team.coordinator("main") as main:
        await publish_around(main, 2)
        with pytest.raises(MessageError, match="1234 is no cursor of this bus any more"):
            await main.list_tasks(cursor=1234)


async def test_one_wait_covers_tasks_of_several_agents(team: OwnBus, tmp_path: Path) -> None:
    async with team.coordinator("main") as main, team.coordinator("alice") as alice:
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
        for who in (main, alice):
            ids = await publish_around(who, 6)
            kept = [one for one in ids if (await who.task(one).status()).agent != "review"]
            async with (
                worker(team.worker_toml(tmp_path / "a", "code")),
                worker(team.worker_toml(tmp_path / "b", "doc")),
            ):
                assert set((await who.wait(kept, timeout_s=BOUND_S)).settled) == set(kept)
    assert team.violations() == []


async def test_the_tasks_of_a_removed_agent_stay_to_be_seen(team: OwnBus) -> None:
    async with team.coordinator("main") as main, team.coordinator("alice") as alice:
        ids, own = await publish_around(main, 3), await publish_around(alice, 3)
        team.folder.remove("code")
        team.server.reload()

        async def listed(who: Coordinator) -> set[str]:
            return {one.task_id for one in (await who.list_tasks()).tasks}

        async def code_is_gone() -> bool:
            try:
                async with connect(team.settings("code")):
                    return False
            except Exception:  # noqa: BLE001
                return True

        await eventually(code_is_gone, "the server has taken the accounts")
        assert await listed(main) == {*ids, *own}
        assert await listed(alice) == set(own)
        team.folder.add("code")
        assert "retired" not in (team.folder.path / "bus.toml").read_text(encoding="utf-8")


async def test_the_ledgers_that_exist_give_way_to_that_of_a_new_agent(tmp_path: Path) -> None:
    async with own_bus(tmp_path, ["code"]) as own, connect(own.settings("admin")) as admin:
        before = (await admin.stream_info(ledger_of("code"))).max_bytes
        more = ["b", "c", "d"]
        made = {one.name: one.outcome for one in await set_up(admin, more)}
        assert {made[ledger_of(one)] for one in more} == {"made"}
        sizes = [(await admin.stream_info(ledger_of(one))).max_bytes for one in ("code", *more)]
        assert sizes == [before // 4] * 4
        assert {one.outcome for one in await set_up(admin, ["code", *more])} <= {"found", "made", "different"}
        assert [(await admin.stream_info(ledger_of(one))).max_bytes for one in ("code", *more)] == sizes


async def set_up_by_command(own: OwnBus, *agents: str) -> str:
    """Run `agentbus setup` as the administrator in the folder; returns what it remarks."""
    words = [word for agent in agents for word in ("--agent", agent)]
    ran = await run_cli("setup", "--config", str(own.folder.administrator), *words)
    assert ran.code == 0, ran.err
    names = [json.loads(line)["name"] for line in ran.out.splitlines()]
    assert len(names) == len(set(names)), "nothing is told twice"
    return ran.err


async def test_what_a_removed_party_has_left_goes_once_it_holds_nothing(team: OwnBus) -> None:
    folder = team.folder
    async with connect(team.settings("admin")) as admin:
        assert {name for name in await admin.stream_names() if name.startswith("KV_AGENT_STATE")} == {
            ledger_of(one) for one in ("main", "alice", "carol", "dave", "code", "doc", "review")
        }, "a viewer needs none"
        async with team.coordinator("main") as main:
            task = await main.publish("doc", "say:queued", task_type="test")
        for agent in ("code", "doc"):
            folder.remove(agent)
        folder.remove("dave", "coordinator")
        assert "was empty: code, dave" in await set_up_by_command(team)
        left = set(await admin.stream_names())
        assert left.isdisjoint({ledger_of("code"), ledger_of("dave"), "OBJ_AGENT_FILES_code", "AGENT_PROGRESS_code"})
        assert {ledger_of("doc"), ledger_of("alice"), "OBJ_AGENT_FILES_doc"} <= left
        assert BusFolder(folder.path).retired == ("doc",)
        async with team.coordinator("main") as main:
            assert (await main.task(task.id, agent="doc").cancel()).state == "cancelled"
        assert "was empty" not in await set_up_by_command(team), "the state of its task is kept"
        assert ledger_of("doc") in await admin.stream_names()
        ledger = (await admin.stream_info(ledger_of("doc"))).config
        await admin.api(f"STREAM.UPDATE.{ledger_of('doc')}", {**ledger, "max_age": SECOND_NS})

        async def expired() -> bool:
            return (await admin.stream_info(ledger_of("doc"))).state.messages == 0

        await eventually(expired, "the state has expired")
        assert "was empty" not in await set_up_by_command(team), "its task is queued still"
        await admin.api("STREAM.PURGE.AGENT_TASKS", {"filter": "agent.doc.>"})
        assert "was empty: doc" in await set_up_by_command(team)
        assert BusFolder(folder.path).retired == ()


async def test_an_agent_may_get_the_id_of_a_coordinator_that_was_removed(team: OwnBus, tmp_path: Path) -> None:
    async with connect(team.settings("admin")) as admin:
        async with team.coordinator("alice") as alice:
            await alice.bus.store("$KV.AGENT_STATE.alice.=record", b"{}")
        team.folder.remove("alice", "coordinator")
        team.folder.add("alice")
        team.server.reload()
        assert "was empty" not in await set_up_by_command(team, "alice")
        assert (await admin.stream_info(ledger_of("alice"))).config["subjects"] == ["$KV.AGENT_STATE.alice.>"]
        assert (await admin.stream_info(ledger_of("alice"))).state.messages == 1


async def test_a_search_whose_time_is_over_shows_what_it_has_found_in_one_of_many_ledgers(
    team: OwnBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other ledgers have all that is newer, and one round reads some of it."""
    monkeypatch.setattr(merging, "_FIRST_AT_ONCE", 1)
    monkeypatch.setattr(merging, "_MOST_AT_ONCE", 1)
    monkeypatch.setattr(merging, "_LEAST", 1)
    async with team.coordinator("main") as main:
        older = [await main.publish("code", f"x{at}", task_type="test") for at in range(3)]
        cancelled = [await main.publish("code", f"y{at}", task_type="test") for at in range(2)]
        for task in cancelled:
            await task.cancel()
        for at in range(12):
            await main.publish("doc", f"z{at}", task_type="test")
        await main.publish("code", "last", task_type="test")
        found, cursor, pages = list[str](), None, list[int]()
        while not pages or cursor is not None:
            page = await main.list_tasks(state="cancelled", search_s=0, cursor=cursor)
            found += [one.task_id for one in page.tasks]
            cursor = page.cursor
            pages.append(len(page.tasks))
        assert found == [task.id for task in reversed(cancelled)], "each once"
        assert pages[0] > 0, pages
        assert older

"""A cluster in which the server that answers has not got everything yet: it is asked again, for a while."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from agentbus import Coordinator, connect
from agentbus.bus import jetstream
from agentbus.errors import TaskNotFoundError, WrongRevisionError
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import NoEntry, Record, queued
from agentbus.protocol.messages import new_task
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.events.own_events import open_events
from agentbus.tasks.ledger import Ledger
from support.altered_link import AlteredLink, altered_link, as_now, at_first, refused, unknown
from support.asking_worker import asking
from support.harness import BOUND_S
from support.mcp_harness import settle

READ = f"$JS.API.DIRECT.GET.{subjects.STATE_STREAM}"


@pytest.fixture
async def link(server: NatsServer) -> AsyncGenerator[AlteredLink]:
    """The way to one server of a cluster."""
    async with altered_link(server.url) as opened:
        opened.info["cluster"] = "three"
        yield opened


@pytest.fixture
async def main(link: AlteredLink, coordinator: Coordinator) -> AsyncGenerator[Coordinator]:
    async with connect(link.url) as opened:
        assert opened.bus.clustered
        yield opened


@pytest.mark.parametrize("agent", ["code", None])
async def test_a_task_that_the_replica_does_not_know_yet_is_found_a_moment_later(
    link: AlteredLink, main: Coordinator, coordinator: Coordinator, agent: str | None
):
    await coordinator.publish("code", "x", task_id="job")
    link.changes[READ] = at_first(3, unknown)
    async with asyncio.timeout(BOUND_S):
        assert (await main.task("job", agent=agent).status()).state == "queued"


async def test_a_task_that_is_still_unknown_after_the_lag_is_an_error(
    main: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jetstream, "_LAG_S", 0.3)
    began = time.monotonic()
    with pytest.raises(TaskNotFoundError, match="no task job of the agent code"):
        await main.task("job", agent="code").status()
    assert time.monotonic() - began >= 0.3


async def test_an_entry_is_read_again_until_its_revision_is_new_enough(
    link: AlteredLink, main: Coordinator, coordinator: Coordinator
):
    await coordinator.publish("code", "x", task_id="job")
    link.changes[READ] = at_first(3, unknown)
    found = await Ledger(main.bus).read_newer(TaskKey("code", "job"), 0)
    assert isinstance(found, Record)


async def test_an_entry_that_does_not_change_is_returned_after_the_time_out(coordinator: Coordinator):
    """The ledger may have been restored to an older state."""
    await coordinator.publish("code", "x", task_id="job")
    ledger = Ledger(coordinator.bus)
    found = await ledger.read_newer(TaskKey("code", "job"), 1_000_000, timeout_s=0.2)
    assert isinstance(found, Record)
    assert found == await ledger.read(TaskKey("code", "job"))
    assert await ledger.read_newer(TaskKey("code", "other"), 1_000_000, timeout_s=0.2) == NoEntry()


async def test_a_repeated_publication_is_recognized_through_a_lagging_replica(
    link: AlteredLink, main: Coordinator, coordinator: Coordinator
):
    await coordinator.publish("code", "x", task_type="test", task_id="job")
    link.changes[READ] = at_first(3, unknown)
    again = await main.publish("code", "x", task_type="test", task_id="job")
    assert again.known
    assert (await coordinator.bus.stream_info(subjects.TASKS_STREAM)).state.messages == 1


async def taken_back(main: Coordinator, coordinator: Coordinator, link: AlteredLink) -> None:
    """Have the replica behind the link show the task `job`, which was taken back."""
    key, task = TaskKey("code", "job"), new_task(to="code", content="x", task_type="test", task_id="job")
    revision = await Ledger(coordinator.bus).create(key, queued(task, "main", "given-up"))
    assert isinstance(revision, int)
    shown = await as_now(coordinator.bus, subjects.STATE_STREAM, subjects.state(key))
    await Ledger(coordinator.bus).remove(key, revision=revision)
    link.changes[READ] = at_first(3, shown)
    assert (await main.task("job", agent="code").status()).state == "queued", "so far a read shows it"
    link.changes[READ] = at_first(3, shown)


@pytest.mark.parametrize("content", ["x", "something else"])
async def test_an_id_that_was_taken_back_is_free_though_a_replica_still_shows_its_task(
    link: AlteredLink, main: Coordinator, coordinator: Coordinator, content: str
):
    await taken_back(main, coordinator, link)
    published = await main.publish("code", content, task_type="test", task_id="job")
    assert not published.known
    found = await Ledger(coordinator.bus).read(TaskKey("code", "job"))
    assert isinstance(found, Record)
    assert found.entry.digest == published.message.digest()
    assert (await coordinator.bus.stream_info(subjects.TASKS_STREAM)).state.messages == 1


async def test_an_entry_that_was_written_before_is_read_until_the_replica_has_it(
    link: AlteredLink, main: Coordinator, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jetstream, "_LAG_S", 0.3)
    ledger, key = Ledger(main.bus), TaskKey("code", "job")
    assert await ledger.read_known(key) == NoEntry()
    task = await coordinator.publish("code", "x", task_id="job")
    link.changes[READ] = at_first(2, unknown)
    assert isinstance(await ledger.read_known(key), Record)
    link.changes[READ] = at_first(2, await as_now(coordinator.bus, subjects.STATE_STREAM, subjects.state(key)))
    await settle(coordinator, "job", task=task.message)
    found = await ledger.read_known(key, lambda record: record.entry.terminal)
    assert isinstance(found, Record)
    assert found.entry.state == "completed"


async def test_a_question_is_told_though_the_replica_that_is_asked_does_not_have_it_yet(
    link: AlteredLink, main: Coordinator, coordinator: Coordinator
):
    run, state = await asking(coordinator, "job"), subjects.state(TaskKey("code", "job"))
    async with open_events(main.bus, "main") as events, asyncio.timeout(BOUND_S):
        await events.opened()
        link.changes[READ] = at_first(2, await as_now(coordinator.bus, subjects.STATE_STREAM, state))
        await run.ask()
        assert (await events.next()).kind == "asks"


async def test_a_refused_write_of_an_absent_entry_is_an_error_and_queues_nothing(
    link: AlteredLink, main: Coordinator, coordinator: Coordinator
):
    link.changes[subjects.state(TaskKey("code", "job"))] = refused(10071, "wrong last sequence: 7")
    link.changes[READ] = unknown
    with pytest.raises(WrongRevisionError):
        await main.publish("code", "x", task_id="job")
    assert (await coordinator.bus.stream_info(subjects.TASKS_STREAM)).state.messages == 0

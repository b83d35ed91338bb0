"""A cluster in which the server that answers has not got everything yet: it is asked again, for a while."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest

from agentbus import Coordinator, connect
from agentbus.bus import jetstream
from agentbus.errors import TaskNotFoundError, WrongRevisionError
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import NoEntry, Record
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from support.altered_link import AlteredLink, altered_link, at_first, refused, unknown
from support.harness import BOUND_S

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


async def test_a_refused_write_of_an_absent_entry_is_an_error_and_queues_nothing(
    link: AlteredLink, main: Coordinator, coordinator: Coordinator
):
    link.changes[subjects.state(TaskKey("code", "job"))] = refused(10071, "wrong last sequence: 7")
    link.changes[READ] = unknown
    with pytest.raises(WrongRevisionError):
        await main.publish("code", "x", task_id="job")
    assert (await coordinator.bus.stream_info(subjects.TASKS_STREAM)).state.messages == 0

"""A worker in a cluster whose server has not got everything yet: what must be there is read again, for a while."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentbus import Coordinator, connect
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.setup import set_up
from agentbus.protocol import subjects
from agentbus.protocol.conversations.continuation import Continuation
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.incoming import read_delivery
from agentbus.tasks.ledger import Ledger
from agentbus_worker.conversations.routing import NotYet
from agentbus_worker.settling.claim import claim
from agentbus_worker.settling.context import Context
from support.altered_link import AlteredLink, altered_link, at_first, unknown
from support.delivered import delivered
from support.jobs import counts, publish, result_messages

READ = f"$JS.API.DIRECT.GET.{subjects.STATE_STREAM}"


@asynccontextmanager
async def taken(
    server: NatsServer, coordinator: Coordinator, folder: Path, **worker: Any
) -> AsyncGenerator[tuple[Context, Delivery, AlteredLink]]:
    """A task that a worker was given, by one server of a cluster."""
    await set_up(coordinator.bus, ["code"])
    await publish(coordinator, "x" * 2_000, task_id="job")
    async with altered_link(server.url) as link:
        link.info["cluster"] = "three"
        async with (
            connect(link.url) as opened,
            delivered(opened, server, folder, **worker) as (context, delivery),
        ):
            yield context, delivery, link


async def test_a_task_that_is_not_accepted_is_settled_in_the_ledger(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
):
    async with taken(server, coordinator, tmp_path, max_task_bytes=1_024) as (context, delivery, link):
        link.changes[READ] = at_first(3, unknown)
        assert await claim(context, delivery) is None
    assert (await counts(coordinator))["AGENT_DEAD"] == 1
    [message] = await result_messages(coordinator)
    found = await Ledger(coordinator.bus).read(TaskKey("code", "job"))
    assert isinstance(found, Record)
    assert (found.entry.state, found.entry.result_id) == ("failed", message["id"])


async def test_a_follow_up_waits_for_a_task_that_the_replica_does_not_know_yet(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
):
    async with taken(server, coordinator, tmp_path) as (context, delivery, link):
        incoming = read_delivery(delivery, "code", max_bytes=100_000)
        said = Continuation(task="job", owner="main", session=None, place=None)
        link.changes[READ] = at_first(3, unknown)
        assert await context.place.where(replace(incoming, continues=said)) == NotYet()

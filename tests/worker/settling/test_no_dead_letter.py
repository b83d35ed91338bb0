"""What the bus, a right or the worker's end gets in the way of makes no dead letter: the task is read again, and done.

Each test has a task that was cancelled before it started, because a worker takes all steps for it: it tries to claim,
reads the entry, settles, and publishes the result.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from agentbus import Coordinator, connect
from agentbus.bus import jetstream
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.setup import set_up
from agentbus.errors import BusUnavailableError, PermissionDeniedError, SetupMissingError, StreamFullError
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.settling.claim import claim
from agentbus_worker.settling.context import Context
from support.altered_link import AlteredLink, Change, Whole, altered_link, at_first, lost, refused
from support.delivered import delivered
from support.harness import eventually
from support.jobs import counts, publish, result_messages
from support.restricted import all_but, restricted_bus

READ, WRITE, RESULT = "$JS.API.DIRECT.GET.KV_AGENT_STATE", "$KV.AGENT_STATE.code", "agent.main.results"
FULL: Final = refused(10077, "maximum bytes exceeded", code=503)
NO_LEADER: Final = refused(10008, "system temporarily unavailable", code=503)


def away(_: bytes) -> bytes:
    """Nothing listens: the stream is not loaded yet."""
    return Whole(b"NATS/1.0 503\r\n\r\n")


def from_second(change: Change) -> Change:
    """The first message arrives as it is, those after it are changed."""
    passed = at_first(1, lambda _: b"")
    return lambda data: data if passed(data) == b"" else change(data)


@dataclass(frozen=True)
class Taken:
    """A cancelled task that a worker was given, over a link that a test disturbs."""

    context: Context
    delivery: Delivery
    link: AlteredLink

    async def claim_undisturbed(self) -> None:
        self.link.changes.clear()
        assert await claim(self.context, self.delivery) is None


@asynccontextmanager
async def taken(server: NatsServer, coordinator: Coordinator, folder: Path) -> AsyncGenerator[Taken]:
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x")
    await coordinator.task(task_id).cancel("not needed")
    async with (
        altered_link(server.url) as link,
        connect(link.url) as worker,
        delivered(worker, server, folder) as (context, delivery),
    ):
        yield Taken(context, delivery, link)
    await the_one_result(coordinator)


async def the_one_result(coordinator: Coordinator) -> None:
    """Check what is there at the end: no dead letter, and the one result."""
    assert (await counts(coordinator))["AGENT_DEAD"] == 0
    [message] = await result_messages(coordinator)
    assert message["status"] == "cancelled"


@pytest.mark.parametrize(
    ("subject", "change", "error"),
    [
        (READ, away, SetupMissingError),
        (WRITE, NO_LEADER, BusUnavailableError),
        (WRITE, FULL, StreamFullError),
        (WRITE, from_second(FULL), StreamFullError),
        (WRITE, from_second(NO_LEADER), BusUnavailableError),
        (RESULT, FULL, StreamFullError),
        (RESULT, NO_LEADER, BusUnavailableError),
    ],
    ids=["read, away", "claim, away", "claim, full", "settle, full", "settle, away", "result, full", "result, away"],
)
async def test_a_bus_that_is_away_or_full_makes_no_dead_letter(
    tmp_path: Path,
    server: NatsServer,
    coordinator: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
    subject: str,
    change: Change,
    error: type[Exception],
):
    monkeypatch.setattr(jetstream, "_STARTING_S", 0.3)
    async with taken(server, coordinator, tmp_path) as one:
        one.link.changes[subject] = change
        with pytest.raises(error):
            await claim(one.context, one.delivery)
        await one.claim_undisturbed()


@pytest.mark.parametrize("subject", [READ, WRITE, RESULT], ids=["read", "claim", "result"])
async def test_a_claim_that_is_cancelled_makes_no_dead_letter(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, subject: str
):
    async with taken(server, coordinator, tmp_path) as one:
        asked: list[bytes] = []
        one.link.changes[subject] = lambda data: (asked.append(data), lost(data))[1]
        claiming = asyncio.create_task(claim(one.context, one.delivery))
        await eventually(lambda: asked, "it waits for an answer")
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
        await one.claim_undisturbed()


@pytest.mark.parametrize("denied", [f"{READ}.>", f"{WRITE}.>", RESULT], ids=["read", "claim", "result"])
async def test_a_right_that_is_refused_makes_no_dead_letter(tmp_path: Path, denied: str):
    async with restricted_bus(tmp_path, {"code": all_but(denied)}, agents=["code"]) as bus:
        task_id = await publish(bus.admin, "x")
        await bus.admin.task(task_id).cancel("not needed")
        async with connect(bus.url("code")) as worker, delivered(worker, bus.server, tmp_path) as (context, delivery):
            with pytest.raises(PermissionDeniedError):
                await claim(context, delivery)
            await delivery.nak()
        assert (await counts(bus.admin))["AGENT_DEAD"] == 0
        async with delivered(bus.admin, bus.server, tmp_path) as (context, delivery):
            assert await claim(context, delivery) is None
        await the_one_result(bus.admin)

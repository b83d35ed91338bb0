"""A connection over which nothing comes any more, though no packet tells that it is gone."""

import asyncio
import math
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus import nats_client, pull_consumer, requests
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.config.connection_settings import connection_settings
from agentbus.config.schema import NatsSection
from agentbus.errors import BusUnavailableError
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer
from support.forgetful_link import ForgetfulLink, forgetful_link
from support.harness import BOUND_S, eventually

SUBJECT = "agent.main.results"
NOTICED_WITHIN_S = 15.0


@pytest.fixture
async def link(server: NatsServer) -> AsyncGenerator[ForgetfulLink]:
    async with forgetful_link(server.url) as running:
        yield running


@pytest.fixture
async def bus(link: ForgetfulLink, coordinator: Coordinator, states: list[str]) -> AsyncGenerator[Bus]:
    settings = connection_settings(NatsSection(url=link.url), agent="main", name="test", reconnect_wait_s=0.05)
    async with connect(settings, on_state=states.append) as opened:
        yield opened


@pytest.fixture
def states() -> list[str]:
    """What the connection has said of itself."""
    return []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same decisions, twenty times as fast."""
    monkeypatch.setattr(requests, "LATE_S", 0.1)
    monkeypatch.setattr(nats_client, "_PONG_S", 0.25)
    monkeypatch.setattr(pull_consumer, "_LATE_S", 0.35)


@pytest.mark.usefixtures("quick")
async def test_a_request_that_is_not_answered_finds_the_line_dead_and_is_sent_again(
    link: ForgetfulLink, bus: Bus, states: list[str]
):
    await bus.store(SUBJECT, b"1", msg_id="1")
    link.forget()
    async with asyncio.timeout(BOUND_S):
        assert not (await bus.store(SUBJECT, b"2", msg_id="2")).duplicate
    assert "the server does not answer; taking the connection for lost" in states
    assert bus.seconds_since_reconnect < BOUND_S


@pytest.mark.usefixtures("quick")
async def test_a_reader_that_waits_finds_the_line_dead_by_the_heartbeats_that_fail_to_come(
    link: ForgetfulLink, bus: Bus, coordinator: Coordinator
):
    async with OrderedConsumer(bus, subjects.RESULTS_STREAM, SUBJECT, after=0) as consumer:
        waiting = asyncio.create_task(consumer.next())
        await asyncio.sleep(0)
        link.forget()
        stored = await coordinator.bus.store(SUBJECT, b"later", msg_id="1")
        async with asyncio.timeout(BOUND_S):
            delivery = await waiting
    assert (delivery.stream_seq, delivery.data) == (stored.seq, b"later")


@pytest.mark.usefixtures("quick")
async def test_a_connection_that_is_closed_meanwhile_is_left_alone(link: ForgetfulLink, bus: Bus):
    link.forget()
    request = asyncio.create_task(bus.api("INFO"))
    await asyncio.sleep(0.15)  # the request is late, and the ping that follows is not yet
    await bus.close()
    with pytest.raises(BusUnavailableError):
        await request


@pytest.mark.usefixtures("quick")
async def test_a_large_message_on_a_slow_link_is_no_dead_line(link: ForgetfulLink, bus: Bus, states: list[str]):
    await bus.store(SUBJECT, b"1", msg_id="1")
    link.bytes_per_s = 500_000
    data = b"x" * 700_000  # takes four times as long as a ping may
    assert (await bus.store(SUBJECT, data, msg_id="2")).seq == 2
    assert bus.seconds_since_reconnect == math.inf, states


@pytest.mark.usefixtures("quick")
async def test_a_busy_stream_is_no_dead_line(server: NatsServer, bus: Bus, states: list[str]):
    """JetStream does not answer, and the server does: pings are answered while a request waits in vain."""
    with pytest.raises(BusUnavailableError):
        await bus.request("silent.service", timeout_s=0.1)
    answered = await bus.subscribe("silent.service", lambda _: None)
    with pytest.raises(BusUnavailableError, match="did not answer within"):
        await bus.request("silent.service", timeout_s=1)
    await answered()
    assert bus.seconds_since_reconnect == math.inf, states


@pytest.mark.long
@pytest.mark.parametrize("waits", ["a request", "a reader"])
async def test_a_dead_line_is_noticed_in_time(
    link: ForgetfulLink, bus: Bus, coordinator: Coordinator, tmp_path: Path, waits: str
):
    loop = asyncio.get_running_loop()
    async with OrderedConsumer(bus, subjects.RESULTS_STREAM, SUBJECT, after=0) as consumer:
        waiting = asyncio.create_task(consumer.next() if waits == "a reader" else asyncio.sleep(0))
        await asyncio.sleep(0.1)  # a line that was in use a moment ago, as one is that a proxy forgets
        link.forget()
        began = loop.time()
        if waits == "a request":
            await bus.store(SUBJECT, b"2", msg_id="2")
        else:
            await eventually(lambda: bus.seconds_since_reconnect < math.inf, "it has dialled again")
        assert loop.time() - began < NOTICED_WITHIN_S
        await coordinator.bus.store(SUBJECT, b"3", msg_id="3")
        await waiting

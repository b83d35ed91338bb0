"""Reading in a stream's order: no gap and no repetition, whatever becomes of messages, consumers and streams."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from agentbus import Coordinator
from agentbus.bus import ordered_consumer
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.bus.reading import ephemeral_consumers
from agentbus.bus.reading.ephemeral_consumers import count_after
from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.schema import NatsSection
from agentbus.errors import BusUnavailableError, ConsumerLimitError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer
from support.altered_link import AlteredLink, Change, altered_link, lost, once, refused
from support.harness import BOUND_S, eventually

STREAM, SUBJECT = subjects.RESULTS_STREAM, "agent.main.results"
CREATE = f"$JS.API.CONSUMER.CREATE.{STREAM}"


@pytest.fixture
async def link(server: NatsServer) -> AsyncGenerator[AlteredLink]:
    async with altered_link(server.url) as opened:
        yield opened


@pytest.fixture
async def bus(link: AlteredLink) -> AsyncGenerator[Bus]:
    async with connect(settings(link)) as opened:
        yield opened


def settings(link: AlteredLink) -> ConnectionSettings:
    return connection_settings(NatsSection(url=link.url), agent="main", name="test")


async def put(coordinator: Coordinator, *numbers: int) -> None:
    for number in numbers:
        await coordinator.bus.store(SUBJECT, b"%d" % number)


async def backlog(consumer: OrderedConsumer) -> list[int]:
    async with asyncio.timeout(BOUND_S), aclosing(consumer.backlog()) as messages:
        return [int(message.data) async for message in messages]


async def following(consumer: OrderedConsumer, count: int) -> list[int]:
    async with asyncio.timeout(BOUND_S):
        return [int((await consumer.next()).data) for _ in range(count)]


def only(number: int, change: Change) -> Change:
    """Change the first message that holds a number."""
    changed = once(change)
    return lambda data: changed(data) if data == b"%d" % number else data


@pytest.mark.parametrize("gone", [1, 2, 3])
async def test_a_message_that_is_lost_on_its_way_is_read_again_and_none_twice(
    link: AlteredLink, bus: Bus, coordinator: Coordinator, gone: int
):
    link.changes[SUBJECT] = only(gone, lost)
    await put(coordinator, 1, 2, 3, 4)
    async with OrderedConsumer(bus, STREAM, SUBJECT, after=0) as consumer:
        assert await backlog(consumer) == [1, 2, 3, 4]
        assert consumer.resumed == 1
        await put(coordinator, 5)
        assert await following(consumer, 1) == [5]


async def test_a_backlog_ends_if_its_messages_expire_before_they_are_read(coordinator: Coordinator):
    await put(coordinator, 1, 2, 3)
    async with OrderedConsumer(coordinator.bus, STREAM, SUBJECT, after=0) as consumer:
        assert consumer.pending == 3
        await coordinator.bus.api(f"STREAM.PURGE.{STREAM}")
        assert await backlog(consumer) == []
        await put(coordinator, 4)
        assert await following(consumer, 1) == [4]


async def test_a_stream_that_is_made_again_is_followed_behind_what_was_read(
    link: AlteredLink, bus: Bus, coordinator: Coordinator
):
    await put(coordinator, 1)
    async with OrderedConsumer(bus, STREAM, SUBJECT, after=0) as consumer:
        assert await backlog(consumer) == [1]
        config = (await bus.stream_info(STREAM)).config
        told: list[bytes] = []
        link.changes[CREATE] = lambda data: told.append(data) or data
        waiting = asyncio.create_task(following(consumer, 1))
        await coordinator.bus.api(f"STREAM.DELETE.{STREAM}")
        await eventually(lambda: any(b"stream not found" in answer for answer in told), "another consumer is refused")
        await coordinator.bus.api(f"STREAM.CREATE.{STREAM}", {**config, "first_seq": consumer.cursor + 1})
        await put(coordinator, 2)
        assert await waiting == [2]


async def test_a_stream_that_stays_away_is_an_error_after_a_while(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ordered_consumer, "_RESUME_TIMEOUT_S", 0.5)
    async with OrderedConsumer(coordinator.bus, STREAM, SUBJECT, after="new") as consumer:
        await coordinator.bus.api(f"STREAM.DELETE.{STREAM}")
        with pytest.raises(SetupMissingError, match=STREAM):
            await following(consumer, 1)


async def test_in_a_cluster_a_consumer_that_is_not_placed_in_time_is_asked_for_under_another_name(
    link: AlteredLink, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ephemeral_consumers, "_ANSWER_S", 0.3)
    await put(coordinator, 1, 2)
    link.info["cluster"] = "three"
    link.changes[CREATE] = once(lost)
    async with connect(settings(link)) as bus:
        assert bus.clustered
        assert await count_after(bus, STREAM, SUBJECT, 0) == 2
    names = [consumer.name for consumer in await coordinator.bus.consumers(STREAM)]
    assert len(set(names)) == 2, "the one that was not heard of, and another"


async def test_a_single_server_that_does_not_answer_is_not_asked_for_another_consumer(
    link: AlteredLink, bus: Bus, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ephemeral_consumers, "REQUEST_TIMEOUT_S", 0.3)
    link.changes[CREATE] = lost
    with pytest.raises(BusUnavailableError, match=r"did not answer within 0\.3 s"):
        await count_after(bus, STREAM, SUBJECT, 0)


async def test_a_reader_whose_new_consumer_is_refused_tries_again(
    link: AlteredLink, bus: Bus, coordinator: Coordinator
):
    await put(coordinator, 1)
    async with OrderedConsumer(bus, STREAM, SUBJECT, after=0) as consumer:
        assert await backlog(consumer) == [1]
        [found] = await coordinator.bus.consumers(STREAM)
        link.changes[CREATE] = once(refused(10074, "insufficient storage resources", code=503))
        await coordinator.bus.api(f"CONSUMER.DELETE.{STREAM}.{found.name}")
        await put(coordinator, 2)
        assert await following(consumer, 1) == [2]


async def test_a_stream_without_room_for_a_reader_is_tried_again_and_then_says_what_to_do(
    bus: Bus, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    config = (await coordinator.bus.stream_info(STREAM)).config
    await coordinator.bus.api(f"STREAM.DELETE.{STREAM}")  # servers before 2.11 do not change the number
    await coordinator.bus.api(f"STREAM.CREATE.{STREAM}", {**config, "max_consumers": 1})
    await put(coordinator, 1)
    async with OrderedConsumer(bus, STREAM, SUBJECT, after="new") as first:
        reading = asyncio.create_task(following(first, 1))  # an open request keeps the consumer
        with monkeypatch.context() as patched:
            patched.setattr(ephemeral_consumers, "_ROOM_S", 0.5)
            with pytest.raises(ConsumerLimitError, match=r"as many consumers as it may have .* setup --update"):
                await count_after(bus, STREAM, SUBJECT, 0)
        await put(coordinator, 2)
        assert await reading == [2]
    assert await count_after(bus, STREAM, SUBJECT, 0) == 2  # two seconds after its last use, the first one goes

"""What is written to the server, and when: in order, soon, no faster than it is taken, and never as another command."""

# pyright: reportPrivateUsage=none

import asyncio
import logging
import os
import signal
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.nats_client import Msg, NatsError
from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.schema import NatsSection
from agentbus.errors import BusError, BusUnavailableError
from agentbus.provision.nats_server import NatsServer
from support.harness import BOUND_S


def settings(server: NatsServer, *, batch_writes: bool = True) -> ConnectionSettings:
    found = connection_settings(NatsSection(url=server.url), agent="main", name="test")
    return replace(found, batch_writes=batch_writes)


@pytest.fixture(params=[True, False], ids=["batched", "by nats-py"])
async def bus(server: NatsServer, request: pytest.FixtureRequest) -> AsyncGenerator[Bus]:
    async with connect(settings(server, batch_writes=request.param)) as opened:
        yield opened


async def heard(bus: Bus, subject: str) -> asyncio.Queue[Msg]:
    messages: asyncio.Queue[Msg] = asyncio.Queue()
    await bus.subscribe(subject, messages.put_nowait)
    return messages


async def first(messages: asyncio.Queue[Msg]) -> Msg:
    async with asyncio.timeout(BOUND_S):
        return await messages.get()


async def test_a_message_that_is_not_urgent_is_sent_even_if_nothing_follows_it(bus: Bus):
    messages = await heard(bus, "news")
    await bus.publish("news", b"x", flush=False)
    assert (await first(messages)).data == b"x"


async def test_messages_arrive_in_the_order_in_which_they_were_sent_urgent_or_not(bus: Bus):
    messages = await heard(bus, "news")
    for number in range(100):
        await bus.publish("news", b"%d" % number, flush=number % 3 == 0)
        if number % 10 == 0:
            await asyncio.sleep(0)
    assert [int((await first(messages)).data) for _ in range(100)] == [*range(100)]


async def test_what_is_not_urgent_is_sent_before_the_connection_is_closed(server: NatsServer, bus: Bus):
    messages = await heard(bus, "news")
    async with connect(settings(server, batch_writes=bus.settings.batch_writes)) as leaving:
        await leaving.publish("news", b"x", flush=False)
    assert (await first(messages)).data == b"x"


@pytest.mark.parametrize("value", ["a\r\nOther: b", "a\nOther: b", "a\rOther: b", "  a Other: b\r\n\r\n"])
async def test_the_value_of_a_header_cannot_begin_another_line(bus: Bus, value: str):
    messages = await heard(bus, "news")
    await bus.publish("news", b"x", headers={"Name": value})
    message = await first(messages)
    assert message.headers is not None
    assert (message.headers.keys(), message.data) == ({"Name"}, b"x")
    assert message.headers["Name"].split() == ["a", "Other:", "b"]


@pytest.mark.parametrize("value", ["", "ümläut ✓", "a: b", "x" * 3000])
async def test_the_value_of_a_header_arrives_as_it_is(bus: Bus, value: str):
    messages = await heard(bus, "news")
    await bus.publish("news", b"x", headers={"Name": value, "Other": "1"})
    assert (await first(messages)).headers == {"Name": value, "Other": "1"}


@pytest.mark.parametrize("name", ["", "a b", "a\r\nb", "a:", "ä"])
async def test_the_name_of_a_header_that_is_none_is_refused_and_nothing_is_sent(bus: Bus, name: str):
    messages = await heard(bus, "news")
    with pytest.raises(BusError):
        await bus.publish("news", b"lost", headers={name: "x"})
    await bus.publish("news", b"sent")
    assert (await first(messages)).data == b"sent"


@pytest.mark.parametrize("subject", ["", "a b", "a\tb", "a\r\nPUB news 1", "a\n"])
async def test_a_subject_that_would_be_another_command_is_refused_and_nothing_is_sent(bus: Bus, subject: str):
    messages = await heard(bus, "news")
    with pytest.raises(BusError):
        await bus.publish(subject, b"lost")
    with pytest.raises(BusError):
        await bus.publish("news", b"lost", reply=f"{subject} ")
    await bus.publish("news", b"sent")
    assert (await first(messages)).data == b"sent"


async def test_a_callback_that_fails_is_told_of_and_the_connection_goes_on(bus: Bus, caplog: pytest.LogCaptureFixture):
    def fail(_: Msg) -> None:
        raise RuntimeError("no good")

    await bus.subscribe("news", fail)
    with caplog.at_level(logging.ERROR, "asyncio"):
        await bus.publish("news", b"x")
        assert (await bus.api("INFO"))["type"] == "io.nats.jetstream.api.v1.account_info_response"
    assert "the callback for news has failed" in caplog.text


async def test_whoever_sends_faster_than_the_server_takes_waits_for_it_and_nothing_is_lost(
    server: NatsServer, bus: Bus
):
    messages, piece, most, sent = await heard(bus, "bulk"), b"x" * 500_000, 200, 0

    async def send() -> None:
        nonlocal sent
        for _ in range(most):
            await bus.publish("bulk", piece)
            sent += 1

    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(send(), 1)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert 0 < sent < most, "all of it lies in the memory of the sender"
    for _ in range(sent + 1):  # with the one that was sent, and waited
        assert (await first(messages)).data == piece


@pytest.mark.parametrize("batch_writes", [True, False])
async def test_of_one_round_of_the_loop_the_first_message_is_written_at_once_and_the_others_in_one_piece(
    server: NatsServer, batch_writes: bool
):
    async with connect(settings(server, batch_writes=batch_writes)) as bus:
        client = bus._client
        batches: list[int] = []
        write = client._write

        def count() -> None:
            batches.append(len(client._pending))
            write()

        client._write = count
        messages = await heard(bus, "news")
        await bus.api("INFO")
        batches.clear()
        await asyncio.gather(*[bus.publish("news", b"%d" % number) for number in range(100)])
        assert [int((await first(messages)).data) for _ in range(100)] == [*range(100)]
        assert [number for number in batches if number] == ([1, 99] if batch_writes else [])


async def test_a_message_on_a_closed_connection_is_refused_and_not_buffered(bus: Bus):
    await bus.close()
    with pytest.raises(NatsError):
        bus._client.send("news", b"x", "", None, flush=True)
    assert bus._client._pending == []
    with pytest.raises(BusUnavailableError, match="the connection to the bus is closed"):
        await bus.publish("news", b"x")

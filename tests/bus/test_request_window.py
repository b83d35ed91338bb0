"""Very many requests at once: so many as a server answers soon are under way, the others take turns."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from agentbus.bus import requests
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.requests import RequestWindow
from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.schema import NatsSection
from agentbus.errors import BusUnavailableError
from agentbus.provision.nats_server import NatsServer
from support.harness import BOUND_S, eventually
from support.pace import at_this_pace

PLACES = 3


def settings(server: NatsServer) -> ConnectionSettings:
    return connection_settings(NatsSection(url=server.url), agent="main", name="test")


class Service:
    """What answers to `service` when it is told to; it has heard the replies that wait for that."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.waiting: list[str] = []
        self.heard = 0

    def hear(self, message: Any) -> None:
        self.heard += 1
        self.waiting.append(message.reply)

    async def answer(self) -> None:
        await self._bus.publish(self.waiting.pop(0), b"answer")


@pytest.fixture
async def service(server: NatsServer) -> AsyncGenerator[Service]:
    async with connect(settings(server)) as bus:
        found = Service(bus)
        await bus.subscribe("service", found.hear)
        await bus.api("INFO")  # the server has the subscription
        yield found


@pytest.fixture
async def bus(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Bus]:
    monkeypatch.setattr(requests, "MOST_UNDER_WAY", PLACES)
    async with connect(settings(server)) as opened:
        yield opened


async def test_no_more_requests_are_under_way_than_there_are_places_and_all_get_their_answers_in_order(
    service: Service, bus: Bus
):
    ended: list[int] = []

    async def ask(number: int) -> None:
        await bus.request("service", timeout_s=BOUND_S)
        ended.append(number)

    async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as asking:
        for number in range(20):
            asking.create_task(ask(number))
        for number in range(20):
            await eventually(lambda: service.waiting, "a request has come")
            assert service.heard <= number + PLACES
            await service.answer()
    assert ended == list(range(20))


async def test_the_time_limit_of_a_request_begins_with_its_turn(service: Service, bus: Bus):
    ahead = [asyncio.create_task(bus.request("service", timeout_s=600)) for _ in range(PLACES)]
    await eventually(lambda: len(service.waiting) == PLACES, "they are under way")
    limit_s = at_this_pace(1)
    behind = asyncio.create_task(bus.request("service", timeout_s=limit_s))
    await asyncio.sleep(1.2 * limit_s)  # longer than its limit: what is tested
    assert not behind.done()
    for number in range(PLACES + 1):
        await eventually(lambda: service.waiting, f"request {number} has come")
        await service.answer()
    async with asyncio.timeout(BOUND_S):
        assert (await behind).data == b"answer"
        await asyncio.gather(*ahead)


async def test_requests_that_wait_for_their_turn_fail_with_those_ahead_where_the_server_answers_nothing(
    service: Service, bus: Bus
):
    asking = [asyncio.create_task(bus.request("service", timeout_s=0.5)) for _ in range(10 * PLACES)]
    async with asyncio.timeout(BOUND_S):
        failed = await asyncio.gather(*asking, return_exceptions=True)
    assert {str(error) for error in failed} == {"the bus did not answer within 0.5 s"}
    assert all(isinstance(error, BusUnavailableError) for error in failed)
    heard = service.heard
    assert heard <= 2 * PLACES, "one turn may come before it shows that none is answered; more would be sent in vain"
    later = asyncio.create_task(bus.request("service", timeout_s=BOUND_S))
    await eventually(lambda: service.heard > heard, "the places are free again")
    service.waiting = service.waiting[-1:]
    await service.answer()
    assert (await later).data == b"answer"


async def test_requests_that_wait_for_their_turn_fail_with_those_ahead_while_there_is_no_connection(
    server: NatsServer, bus: Bus
):
    limit_s = at_this_pace(0.5)
    server.kill()
    await eventually(lambda: not bus.connected, "the connection is lost")
    began = time.monotonic()
    ended = await asyncio.gather(
        *(bus.request("service", timeout_s=limit_s) for _ in range(20 * PLACES)), return_exceptions=True
    )
    assert {type(one) for one in ended} == {BusUnavailableError}
    assert time.monotonic() - began < 10 * limit_s, "one after the other, they take twenty times as long"


async def test_a_request_that_is_cancelled_before_its_turn_or_as_it_comes_takes_no_place():
    window = RequestWindow()
    for _ in range(requests.MOST_UNDER_WAY):
        assert window.enter()
    early, given, last = [asyncio.create_task(window.turn()) for _ in range(3)]
    await asyncio.sleep(0)
    early.cancel()
    await asyncio.wait((early,))
    window.leave()
    given.cancel()  # it has its place, and did not run since
    await asyncio.wait((given, last), timeout=BOUND_S)
    assert (early.cancelled(), given.cancelled(), last.done()) == (True, True, True)
    assert not window.enter()
    window.leave()
    assert window.enter()


async def test_an_answer_that_came_while_this_process_stood_still_is_read_before_its_request_has_failed(
    server: NatsServer, bus: Bus
):
    os.kill(server.pid, signal.SIGSTOP)
    try:
        asking = asyncio.create_task(bus.api("INFO", timeout_s=0.5))
        for _ in range(5):  # it is written
            await asyncio.sleep(0)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    time.sleep(at_this_pace(0.6))  # noqa: ASYNC251  # the loop stands still for longer than the limit: what is tested
    assert (await asking)["type"] == "io.nats.jetstream.api.v1.account_info_response"

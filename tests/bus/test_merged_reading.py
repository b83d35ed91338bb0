"""Several streams are read in the order of time, and with few requests also where one of them has had a burst."""

from collections import Counter
from typing import Any

import pytest

from agentbus import connect
from agentbus.bus.jetstream import Bus
from agentbus.bus.reading.ledger_parts import Part
from agentbus.bus.reading.merging import MergedReader, position_of
from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import ledger_of
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from support.server_version import server_version

STREAMS = 40
WANTED = 8


def part_of(number: int) -> tuple[str, str]:
    return ledger_of(f"a{number}"), subjects.states(f"a{number}")


def entry(number: int, name: object) -> str:
    return subjects.state(TaskKey(f"a{number}", f"{name}", "main"))


async def made(bus: Bus) -> None:
    for number in range(STREAMS):
        name, subject = part_of(number)
        await bus.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [subject], "allow_direct": True})


async def filled(bus: Bus, turn: int, burst: int) -> tuple[list[Part], list[str]]:
    """Store messages in all streams in turn, and then many in one; returns the streams and what was stored.

    All streams have one more by then, so nothing tells when each of them had its last one before.
    """
    stored = [entry(number, f"{turn}-{at}") for at in range(5) for number in range(STREAMS)]
    stored += [entry(0, f"{turn}-burst-{at}") for at in range(burst)]
    for subject in (*stored, *(entry(number, f"{turn}-later") for number in range(STREAMS))):
        await bus.store(subject, b"")
    return [Part(*part_of(number), await bus.stream_info(part_of(number)[0])) for number in range(STREAMS)], stored


@pytest.mark.parametrize("burst", [0, 60])
async def test_a_page_below_a_cursor_asks_each_stream_about_once_also_right_after_a_burst_of_one(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch, burst: int
):
    async with connect(server.url) as coordinator:
        bus, asked = coordinator.bus, Counter[str]()
        request = bus.request

        async def counted(subject: str, *args: Any, **more: Any) -> Any:
            asked["consumers" if ".CONSUMER.CREATE." in subject else "messages"] += 1
            return await request(subject, *args, **more)

        await made(bus)
        needed: list[tuple[int, int]] = []
        for turn in range(3):  # a machine that stood still while messages were stored may need a second look
            parts, stored = await filled(bus, turn, burst)
            later = await bus.last_message(ledger_of("a0"), entry(0, f"{turn}-later"))
            assert later is not None
            reader, found = MergedReader(bus, parts, lambda _: True), list[str]()
            asked.clear()
            with monkeypatch.context() as counting:
                counting.setattr(bus, "request", counted)
                await reader.start(position_of(later.time))
                while len(found) < WANTED:
                    found += [one.subject for one in (await reader.read(WANTED)).messages]
            assert found[:WANTED] == stored[::-1][:WANTED]
            needed.append((asked["messages"], asked["consumers"]))
        if server_version() >= (2, 11):
            assert min(needed) <= (2 * STREAMS, 2)

"""Reading an inbox: the newest N without a scan, then what follows, with no gap and no repetition."""

import asyncio
import json
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.bus.reading.ephemeral_consumers import position_before_newest
from agentbus.bus.setup import set_up
from agentbus.errors import SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.messages import new_result
from agentbus.provision.nats_server import NatsServer, run_server, start_server
from support.free_ports import free_port
from support.harness import eventually


def result(number: int) -> bytes:
    task = {"id": f"t{number}", "from": "agent-main", "to": "agent-code", "type": "task.request", "task_type": "x"}
    return encode(new_result(task, result_id=f"result-{number}", status="completed", result=f"r{number}").to_json())


async def put(bus: Coordinator, agent: str, *numbers: int) -> None:
    for number in numbers:
        await bus.bus.store(subjects.results(agent), result(number), msg_id=f"{agent}-{number}")


def numbers(messages: object) -> list[int]:
    assert isinstance(messages, list)
    return [int(str(message.result.result)[1:]) for message in messages]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportUnknownArgumentType]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20, 40, 41, 100])
async def test_the_newest_n_are_found_among_other_inboxes(coordinator: Coordinator, count: int):
    for number in range(40):
        await put(coordinator, "main", number)
        await put(coordinator, f"other{number % 7}", *range(number * 10, number * 10 + number % 5))
    assert numbers(await coordinator.results(newest=count)) == list(range(40))[-count:]


@pytest.mark.parametrize("layout", ["burst first", "burst last", "alone in a long stream"])
async def test_the_newest_n_are_found_in_lopsided_streams(coordinator: Coordinator, layout: str):
    if layout == "burst first":
        await put(coordinator, "main", *range(60))
        await put(coordinator, "other", *range(300))
        await put(coordinator, "main", 60)
    elif layout == "burst last":
        await put(coordinator, "main", 0)
        await put(coordinator, "other", *range(300))
        await put(coordinator, "main", *range(1, 61))
    else:
        await put(coordinator, "other", *range(150))
        await put(coordinator, "main", 60)
        await put(coordinator, "other", *range(150, 300))
    want = [60] if layout == "alone in a long stream" else list(range(41, 61))
    assert numbers(await coordinator.results(newest=20)) == want


async def test_the_window_holds_not_many_more_than_asked_for(coordinator: Coordinator):
    for number in range(30):
        await put(coordinator, "main", *range(number * 10, number * 10 + 10))
        await put(coordinator, "other", *range(number * 10, number * 10 + 10))
    subject = subjects.results("main")
    start = await position_before_newest(coordinator.bus, subjects.RESULTS_STREAM, subject, 15)
    async with OrderedConsumer(coordinator.bus, subjects.RESULTS_STREAM, subject, after=start) as feed:
        assert 15 <= feed.pending <= 30


async def test_an_empty_inbox_gives_nothing_and_then_what_comes(coordinator: Coordinator):
    async with coordinator.inbox(newest=5) as inbox:
        assert await inbox.history() == []
        await put(coordinator, "other", 1)
        await put(coordinator, "main", 2)
        assert numbers([await inbox.next()]) == [2]


async def test_watching_goes_on_from_the_history_without_gap_or_repetition(coordinator: Coordinator):
    await put(coordinator, "main", *range(10))
    async with coordinator.inbox(newest=3) as inbox:
        await put(coordinator, "main", 10)  # between opening and reading
        assert numbers(await inbox.history()) == [7, 8, 9]
        await put(coordinator, "main", 11)
        assert numbers([await inbox.next(), await inbox.next()]) == [10, 11]


async def test_with_no_newest_only_new_messages_come(coordinator: Coordinator):
    await put(coordinator, "main", 0)
    async with coordinator.inbox() as inbox:
        assert await inbox.history() == []
        await put(coordinator, "main", 1)
        assert numbers([await inbox.next()]) == [1]


async def test_a_cursor_goes_on_where_an_earlier_reader_stopped(coordinator: Coordinator):
    await put(coordinator, "main", 0, 1)
    async with coordinator.inbox(newest=1) as inbox:
        await inbox.history()
        cursor = inbox.cursor
    await put(coordinator, "main", 2, 3)
    async with coordinator.inbox(after=cursor) as inbox:
        assert numbers(await inbox.history()) == [2, 3]
        assert inbox.cursor > cursor


async def test_reading_removes_nothing_and_leaves_no_consumer_for_long(coordinator: Coordinator):
    await put(coordinator, "main", 0, 1)
    for _ in range(3):
        assert numbers(await coordinator.results(newest=2)) == [0, 1]
    info = await coordinator.bus.api(f"STREAM.INFO.{subjects.RESULTS_STREAM}")
    assert info["state"]["messages"] == 2


async def test_junk_in_an_inbox_is_shown_as_such(coordinator: Coordinator):
    await coordinator.bus.store(subjects.results("main"), b"\xffjunk", msg_id="1")
    await coordinator.bus.store(subjects.results("main"), b'{"id": 1}', msg_id="2")
    junk, wrong = await coordinator.results(newest=2)
    assert junk.result is None
    assert junk.data == b"\xffjunk"
    assert "not JSON" in str(junk.fault)
    assert wrong.result is None
    assert "status: is missing" in str(wrong.fault)


async def test_a_watch_survives_restarts_of_the_server_without_gap_or_repetition(tmp_path: Path):
    server = await start_server(store=tmp_path / "s", port=free_port())
    port = int(server.url.rpartition(":")[2])
    seen: list[int] = []

    async def watch(bus: Coordinator) -> None:
        async with bus.inbox(newest=2) as inbox:
            seen.extend(numbers(await inbox.history()))
            while True:
                seen.extend(numbers([await inbox.next()]))

    try:
        async with connect(server.url) as reader, connect(server.url) as writer:
            await set_up(writer.bus)
            await put(writer, "main", 0, 1, 2)
            watching = asyncio.create_task(watch(reader))
            await eventually(lambda: seen == [1, 2], "the history is read")
            for round_ in range(3):
                await put(writer, "main", 10 * round_ + 10, 10 * round_ + 11)
                server.kill() if round_ % 2 else await server.stop()
                server = await start_server(store=tmp_path / "s", port=port)
                await put(writer, "main", 10 * round_ + 12)
            want = [1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32]
            await eventually(lambda: len(seen) >= len(want), "all results are seen")
            assert seen == want
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    finally:
        await server.stop()


async def test_a_reader_that_pauses_for_longer_than_its_consumer_lives_misses_nothing(coordinator: Coordinator):
    await put(coordinator, "main", 0, 1)
    async with coordinator.inbox(newest=1) as inbox:
        assert numbers(await inbox.history()) == [1]
        listed = await coordinator.bus.api(f"CONSUMER.LIST.{subjects.RESULTS_STREAM}")
        for consumer in listed["consumers"]:
            await coordinator.bus.api(f"CONSUMER.DELETE.{subjects.RESULTS_STREAM}.{consumer['name']}")
        await put(coordinator, "main", 2)
        assert numbers([await inbox.next()]) == [2]


async def test_two_readers_see_the_same(server: NatsServer, coordinator: Coordinator):
    await put(coordinator, "main", 0, 1)
    async with connect(server.url) as other, other.inbox(newest=2) as one, coordinator.inbox(newest=2) as two:
        assert numbers(await one.history()) == numbers(await two.history()) == [0, 1]


async def test_a_stream_that_is_missing_is_named(tmp_path: Path):
    async with run_server(store=tmp_path / "s") as server, connect(server.url) as bus:
        with pytest.raises(SetupMissingError, match="agentbus setup"):
            await bus.results()


def test_results_carry_the_whole_task():
    message = json.loads(result(1))
    assert message["task"]["id"] == "t1"
    assert set(message) == {"id", "type", "status", "task", "result", "completed_at"}

"""How many commands run at once, and how many tasks are taken for them."""

import asyncio

import pytest

from agentbus_worker.settling import slots as slots_module
from agentbus_worker.settling.slots import Reservation, Slots

QUICK_S = 0.001
LONG_S = 60.0


async def room(slots: Slots) -> int | None:
    """What `Slots.room` says now; None if it waits."""
    waiting = asyncio.ensure_future(slots.room())
    for _ in range(3):
        await asyncio.sleep(0)
    if waiting.done():
        return waiting.result()
    waiting.cancel()
    await asyncio.wait({waiting})
    return None


async def running(slots: Slots, count: int) -> list[Reservation]:
    places = [slots.take() for _ in range(count)]
    assert [await place.start() for place in places] == [True] * count
    return places


def leave(place: Reservation) -> None:
    place.__exit__(None, None, None)


async def quick(slots: Slots) -> None:
    """One command was over in no time, and others wait."""
    slots.backlog = 100
    [place] = await running(slots, 1)
    place.ended(QUICK_S)
    leave(place)


@pytest.mark.parametrize("count", [1, 4])
async def test_a_task_is_taken_for_each_slot_and_no_more(count: int):
    slots = Slots(count)
    for taken in range(count):
        assert (await room(slots), slots.running) == (0, taken)
        await running(slots, 1)
    assert (await room(slots), slots.running) == (None, count)


async def test_a_slot_is_reserved_for_a_task_from_its_delivery_on():
    slots = Slots(1)
    place = slots.take()
    assert await room(slots) is None
    leave(place)  # it was settled without being run
    assert await room(slots) == 0


async def test_a_waiter_for_room_continues_when_a_command_ends():
    slots = Slots(1)
    [place] = await running(slots, 1)
    waiting = asyncio.ensure_future(slots.room())
    await asyncio.sleep(0)
    place.ended(LONG_S)
    async with asyncio.timeout(5):
        assert await waiting == 0


@pytest.mark.parametrize(("count", "ahead"), [(1, 8), (4, 8), (10, 10)])
async def test_while_commands_are_quick_and_there_is_a_backlog_tasks_are_prefetched(count: int, ahead: int):
    slots = Slots(count)
    await quick(slots)
    assert slots.in_a_row
    assert await room(slots) == count + ahead
    await running(slots, count)
    assert await room(slots) == ahead
    for _ in range(ahead // 2):
        slots.take()
    assert await room(slots) is None, "they are fetched some at a time"


@pytest.mark.parametrize("why", ["no backlog", "a long command"])
async def test_nothing_is_prefetched(why: str):
    slots = Slots(1)
    await quick(slots)
    [place] = await running(slots, 1)
    if why == "no backlog":
        slots.backlog = 0
    else:
        place.ended(LONG_S)
        leave(place)
        await running(slots, 1)
    assert not slots.in_a_row
    assert await room(slots) is None


async def test_prefetched_tasks_get_their_slots_in_order():
    slots = Slots(1)
    await quick(slots)
    [first] = await running(slots, 1)
    second, third = slots.take(), slots.take()
    waiting = [asyncio.ensure_future(place.start()) for place in (second, third)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    first.ended(QUICK_S)
    async with asyncio.timeout(5):
        assert await waiting[0]
    assert (slots.running, waiting[1].done()) == (1, False)
    leave(second)  # without a word about its command
    async with asyncio.timeout(5):
        assert await waiting[1]


async def test_a_reservation_that_waited_too_long_is_refused_and_ends_the_prefetching(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(slots_module, "_AHEAD_S", 0.01)
    slots = Slots(1)
    await quick(slots)
    [first] = await running(slots, 1)
    ahead = slots.take()
    async with asyncio.timeout(5):
        assert not await ahead.start()
    leave(ahead)
    assert not slots.in_a_row
    first.ended(LONG_S)
    assert (await room(slots), slots.running) == (0, 0)


async def test_after_a_close_no_reservation_gets_a_slot():
    slots = Slots(1)
    await quick(slots)
    await running(slots, 1)
    waiting = asyncio.ensure_future(slots.take().start())
    await asyncio.sleep(0)
    slots.close()
    async with asyncio.timeout(5):
        assert not await waiting
    assert not await slots.take().start()


async def test_a_reservation_that_is_cancelled_while_it_waits_gets_no_slot():
    slots = Slots(1)
    await quick(slots)
    [first] = await running(slots, 1)
    given_up, other = slots.take(), slots.take()
    waiting = [asyncio.ensure_future(place.start()) for place in (given_up, other)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait({waiting[0]})
    leave(given_up)
    first.ended(QUICK_S)
    async with asyncio.timeout(5):
        assert await waiting[1]


async def test_no_task_is_taken_while_too_many_wait_for_their_settlement():
    slots = Slots(1)
    settling: list[Reservation] = []
    while await room(slots) is not None:
        [place] = await running(slots, 1)
        place.ended(LONG_S)
        settling.append(place)
        assert len(settling) < 20, "a bus that takes no results is given more and more work"
    assert slots.running == 0
    leave(settling[0])
    assert await room(slots) == 0


async def test_a_command_that_could_not_be_started_frees_its_slot():
    slots = Slots(1)
    [place] = await running(slots, 1)
    place.ended()
    place.ended()  # once is enough
    assert (slots.running, slots.in_a_row) == (0, False)


async def test_a_reservation_that_is_granted_at_the_moment_of_its_time_out_keeps_its_slot():
    slots = Slots(1)
    await quick(slots)
    [first] = await running(slots, 1)
    ahead = slots.take()
    waiting = asyncio.ensure_future(ahead.start())
    await asyncio.sleep(0)
    first.ended(QUICK_S)
    slots.give_up(ahead)
    async with asyncio.timeout(5):
        assert await waiting
    assert (slots.running, slots.in_a_row) == (1, True)

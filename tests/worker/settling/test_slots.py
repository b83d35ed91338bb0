"""The slots of a worker: how many commands run at once, and how many tasks are prefetched."""

import asyncio

import pytest

from agentbus_worker.settling import slots as slots_module
from agentbus_worker.settling.slots import Reservation, Slots
from support.harness import BOUND_S

QUICK_S = 0.001
LONG_S = 60.0


async def room(slots: Slots) -> int | None:
    """What `Slots.wait_for_room` returns now; None if it waits."""
    waiting = asyncio.ensure_future(slots.wait_for_room())
    for _ in range(3):
        await asyncio.sleep(0)
    if waiting.done():
        return waiting.result()
    waiting.cancel()
    await asyncio.wait({waiting})
    return None


async def running(slots: Slots, count: int) -> list[Reservation]:
    reservations = [slots.reserve() for _ in range(count)]
    assert [await reservation.acquire() for reservation in reservations] == [True] * count
    return reservations


def finish(reservation: Reservation) -> None:
    reservation.__exit__(None, None, None)


async def quick(slots: Slots) -> None:
    """Run one quick command while there is a backlog."""
    slots.backlog = 100
    [reservation] = await running(slots, 1)
    reservation.ended(QUICK_S)
    finish(reservation)


@pytest.mark.parametrize("count", [1, 4])
async def test_a_task_is_taken_for_each_slot_and_no_more(count: int):
    slots = Slots(count)
    for taken in range(count):
        assert (await room(slots), slots.running) == (0, taken)
        await running(slots, 1)
    assert (await room(slots), slots.running) == (None, count)


async def test_a_slot_is_reserved_for_a_task_from_its_delivery_on():
    slots = Slots(1)
    reservation = slots.reserve()
    assert await room(slots) is None
    finish(reservation)  # it was settled without being run
    assert await room(slots) == 0


async def test_a_waiter_for_room_continues_when_a_command_ends():
    slots = Slots(1)
    [reservation] = await running(slots, 1)
    waiting = asyncio.ensure_future(slots.wait_for_room())
    await asyncio.sleep(0)
    reservation.ended(LONG_S)
    async with asyncio.timeout(BOUND_S):
        assert await waiting == 0


@pytest.mark.parametrize(("count", "prefetched"), [(1, 8), (4, 8), (10, 10)])
async def test_while_commands_are_quick_and_there_is_a_backlog_tasks_are_prefetched(count: int, prefetched: int):
    slots = Slots(count)
    await quick(slots)
    assert slots.prefetching
    assert await room(slots) == count + prefetched
    await running(slots, count)
    assert await room(slots) == prefetched
    for _ in range(prefetched // 2):
        slots.reserve()
    assert await room(slots) is None, "they are fetched some at a time"


@pytest.mark.parametrize("why", ["no backlog", "a long command"])
async def test_nothing_is_prefetched(why: str):
    slots = Slots(1)
    await quick(slots)
    [reservation] = await running(slots, 1)
    if why == "no backlog":
        slots.backlog = 0
    else:
        reservation.ended(LONG_S)
        finish(reservation)
        await running(slots, 1)
    assert not slots.prefetching
    assert await room(slots) is None


async def test_prefetched_tasks_get_their_slots_in_order():
    slots = Slots(1)
    await quick(slots)
    [first] = await running(slots, 1)
    second, third = slots.reserve(), slots.reserve()
    waiting = [asyncio.ensure_future(reservation.acquire()) for reservation in (second, third)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    first.ended(QUICK_S)
    async with asyncio.timeout(BOUND_S):
        assert await waiting[0]
    assert (slots.running, waiting[1].done()) == (1, False)
    finish(second)  # without a call of `ended`
    async with asyncio.timeout(BOUND_S):
        assert await waiting[1]


async def test_a_reservation_that_waited_too_long_is_refused_and_ends_the_prefetching(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(slots_module, "_MAX_WAIT_S", 0.01)
    slots = Slots(1)
    await quick(slots)
    [first] = await running(slots, 1)
    prefetched = slots.reserve()
    async with asyncio.timeout(BOUND_S):
        assert not await prefetched.acquire()
    finish(prefetched)
    assert not slots.prefetching
    first.ended(LONG_S)
    assert (await room(slots), slots.running) == (0, 0)


async def test_after_a_close_no_reservation_gets_a_slot():
    slots = Slots(1)
    await quick(slots)
    await running(slots, 1)
    waiting = asyncio.ensure_future(slots.reserve().acquire())
    await asyncio.sleep(0)
    slots.close()
    async with asyncio.timeout(BOUND_S):
        assert not await waiting
    assert not await slots.reserve().acquire()


async def test_a_reservation_that_is_cancelled_while_it_waits_gets_no_slot():
    slots = Slots(1)
    await quick(slots)
    [first] = await running(slots, 1)
    withdrawn, other = slots.reserve(), slots.reserve()
    waiting = [asyncio.ensure_future(reservation.acquire()) for reservation in (withdrawn, other)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.wait({waiting[0]})
    finish(withdrawn)
    first.ended(QUICK_S)
    async with asyncio.timeout(BOUND_S):
        assert await waiting[1]


async def test_no_task_is_taken_while_too_many_wait_for_their_settlement():
    slots = Slots(1)
    settling: list[Reservation] = []
    while await room(slots) is not None:
        [reservation] = await running(slots, 1)
        reservation.ended(LONG_S)
        settling.append(reservation)
        assert len(settling) < 20, "tasks are taken without limit while no result is stored"
    assert slots.running == 0
    finish(settling[0])
    assert await room(slots) == 0


async def test_a_command_that_could_not_be_started_frees_its_slot():
    slots = Slots(1)
    [reservation] = await running(slots, 1)
    reservation.ended()
    reservation.ended()  # once is enough
    assert (slots.running, slots.prefetching) == (0, False)


async def test_a_reservation_that_is_granted_at_the_moment_of_its_time_out_keeps_its_slot():
    slots = Slots(1)
    await quick(slots)
    [first] = await running(slots, 1)
    prefetched = slots.reserve()
    waiting = asyncio.ensure_future(prefetched.acquire())
    await asyncio.sleep(0)
    first.ended(QUICK_S)
    slots.time_out(prefetched)
    async with asyncio.timeout(BOUND_S):
        assert await waiting
    assert (slots.running, slots.prefetching) == (1, True)


# -- commands that cannot be ended ------------------------------------------------------------------------------


async def test_a_lost_slot_stays_taken_until_its_command_has_ended_after_all():
    slots = Slots(2)
    stuck, other = await running(slots, 2)
    regain = stuck.lose()
    finish(stuck)
    assert (slots.running, slots.lost, await room(slots)) == (2, 1, None)
    assert slots.in_words == "takes tasks: 2 of 2 slots in use, 1 of them lost"
    other.ended(LONG_S)
    assert (slots.running, await room(slots)) == (1, 0)
    regain()
    assert (slots.running, slots.lost) == (0, 0)


async def test_a_slot_that_is_free_again_goes_to_the_task_that_waits_for_one_and_wakes_who_waits_for_room():
    slots = Slots(1)
    [stuck] = await running(slots, 1)
    regain = stuck.lose()
    waiting = slots.reserve()
    granted = asyncio.ensure_future(waiting.acquire())
    await asyncio.sleep(0)
    assert not granted.done()
    regain()
    async with asyncio.timeout(BOUND_S):
        assert await granted
        taking = asyncio.ensure_future(slots.wait_for_room())
        await asyncio.sleep(0)
        waiting.ended(LONG_S)
        assert await taking == 0


async def test_nothing_is_prefetched_for_a_slot_that_is_lost():
    slots = Slots(1)
    await quick(slots)
    assert slots.prefetching
    [stuck] = await running(slots, 1)
    stuck.lose()
    assert (slots.prefetching, await room(slots)) == (False, None)

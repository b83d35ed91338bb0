"""What a connection waits for before it ends, and what a signal waits for."""

import asyncio

from agentbus.begun_steps import BegunSteps


async def test_what_only_tidies_up_is_waited_for_and_is_no_step_that_a_signal_waits_for():
    begun, go = BegunSteps(), asyncio.Event()
    tidying = asyncio.create_task(go.wait())
    begun.leave(tidying)
    assert not begun.any
    waiting = asyncio.create_task(begun.wait())
    await asyncio.sleep(0)  # it waits
    assert not waiting.done()
    go.set()
    await waiting
    assert tidying.done()

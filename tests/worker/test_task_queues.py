"""Taking tasks from two consumers: those of main, and those of other coordinators."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.pull_consumer import Delivery, PullConsumer
from agentbus.bus.setup import set_up
from agentbus.bus.topology import ACK_WAIT_S
from agentbus.errors import SetupMissingError
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.task_queues import TaskQueues
from support.harness import BOUND_S, worker, worker_toml
from support.jobs import WAIT_S

TASKS = subjects.TASKS_STREAM
OF_MAIN, OF_OTHERS = subjects.durable("code"), subjects.durable_of_parties("code")


async def put(bus: Coordinator, publisher: str, count: int = 1) -> None:
    for _ in range(count):
        await bus.bus.store(subjects.tasks_of("code", publisher), b"x")


async def while_two_arrive(bus: Coordinator, queues: TaskQueues) -> asyncio.Task[Delivery]:
    """Wait for the next task while each consumer gets one."""
    waiting = asyncio.create_task(queues.next())
    await asyncio.gather(put(bus, "main"), put(bus, "alice"))
    return waiting


async def test_a_task_is_taken_from_whichever_consumer_has_one(coordinator: Coordinator) -> None:
    await set_up(coordinator.bus, ["code"])
    async with TaskQueues(coordinator.bus, TASKS, OF_MAIN) as queues, asyncio.timeout(BOUND_S):
        await queues.add(OF_OTHERS)
        for publisher in ("main", "alice", "bob", "main"):
            await put(coordinator, publisher)
            delivery = await queues.next()
            assert delivery.subject == subjects.tasks_of("code", publisher)
            await delivery.ack()


async def test_a_consumer_that_is_added_serves_a_caller_that_waits_already(coordinator: Coordinator) -> None:
    await set_up(coordinator.bus, ["code"])
    await put(coordinator, "alice")
    async with TaskQueues(coordinator.bus, TASKS, OF_MAIN) as queues, asyncio.timeout(BOUND_S):
        waiting = asyncio.create_task(queues.next())
        await queues.add(OF_OTHERS)
        assert (await waiting).subject == "agent.code.tasks.alice"


async def test_of_two_tasks_that_arrive_together_the_second_goes_to_another_worker_at_once(
    coordinator: Coordinator,
) -> None:
    await set_up(coordinator.bus, ["code"])
    async with TaskQueues(coordinator.bus, TASKS, OF_MAIN) as queues:
        await queues.add(OF_OTHERS)
        for _ in range(20):
            waiting = await while_two_arrive(coordinator, queues)
            # Within half of the 30 s after which the server would deliver it again by itself.
            async with asyncio.timeout(ACK_WAIT_S - 5):
                taken = await waiting
                other = OF_OTHERS if taken.subject == subjects.tasks("code") else OF_MAIN
                async with PullConsumer(coordinator.bus, TASKS, other) as another:
                    given = await another.next()
            assert {taken.subject, given.subject} == {"agent.code.tasks", "agent.code.tasks.alice"}
            await taken.ack()
            await given.ack()


async def test_a_consumer_that_has_nothing_holds_up_no_look_at_what_is_there(coordinator: Coordinator) -> None:
    """A request that was left open is not waited for: each would take until the server's next sign of life."""
    await set_up(coordinator.bus, ["code"])
    async with TaskQueues(coordinator.bus, TASKS, OF_MAIN) as queues, asyncio.timeout(BOUND_S):
        await queues.add(OF_OTHERS)
        for _ in range(50):
            await put(coordinator, "main", 3)
            taken = [await queues.next()]
            while len(taken) < 3:
                taken += await queues.fetch(8)
            for delivery in taken:
                await delivery.ack()


async def test_a_backlog_of_one_consumer_does_not_hold_up_the_other_in_a_worker_that_takes_one_at_a_time(
    coordinator: Coordinator,
) -> None:
    await set_up(coordinator.bus, ["code"])
    await put(coordinator, "main", 30)
    await put(coordinator, "alice", 30)
    async with TaskQueues(coordinator.bus, TASKS, OF_MAIN) as queues, asyncio.timeout(BOUND_S):
        await queues.add(OF_OTHERS)
        taken: list[str] = []
        for _ in range(20):
            delivery = await queues.next()
            taken.append(delivery.subject)
            for _ in range(3):  # meanwhile what the other one has for it arrives, and is given back
                await coordinator.bus.api("INFO")
            await delivery.ack()
    assert 5 <= taken.count("agent.code.tasks.alice") <= 15


async def test_what_a_cancelled_wait_had_got_goes_to_another_worker_at_once(coordinator: Coordinator) -> None:
    await set_up(coordinator.bus, ["code"])
    async with TaskQueues(coordinator.bus, TASKS, OF_MAIN) as queues:
        await queues.add(OF_OTHERS)
        for _ in range(20):
            waiting = await while_two_arrive(coordinator, queues)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await (await waiting).nak()
            async with asyncio.timeout(ACK_WAIT_S - 5):
                for durable in (OF_MAIN, OF_OTHERS):
                    async with PullConsumer(coordinator.bus, TASKS, durable) as another:
                        await (await another.next()).ack()


async def test_a_long_backlog_of_one_consumer_does_not_keep_the_tasks_of_the_other_waiting(
    coordinator: Coordinator,
) -> None:
    await set_up(coordinator.bus, ["code"])
    await put(coordinator, "main", 60)
    await put(coordinator, "alice", 60)
    seen: list[str] = []
    async with TaskQueues(coordinator.bus, TASKS, OF_MAIN) as queues, asyncio.timeout(BOUND_S):
        await queues.add(OF_OTHERS)
        while len(seen) < 120:
            batch = await queues.fetch(3)
            seen += [delivery.subject for delivery in batch]
            assert queues.backlog <= 120 - len(batch)
            for delivery in batch:
                await delivery.ack()
    assert {*seen[:60]} == {"agent.code.tasks", "agent.code.tasks.alice"}


async def test_a_consumer_that_is_missing_does_not_hold_up_the_tasks_of_the_other(coordinator: Coordinator) -> None:
    await set_up(coordinator.bus, ["code"])
    await put(coordinator, "main", 3)
    async with TaskQueues(coordinator.bus, TASKS, OF_MAIN) as queues, asyncio.timeout(BOUND_S):
        await queues.add(OF_OTHERS)
        await coordinator.bus.api(f"CONSUMER.DELETE.{TASKS}.{OF_OTHERS}")
        for _ in range(3):
            delivery = await queues.next()
            assert (delivery.subject, delivery.num_delivered) == ("agent.code.tasks", 1)
            await delivery.ack()
        with pytest.raises(SetupMissingError, match=OF_OTHERS):
            await queues.next()


async def test_a_worker_serves_other_coordinators_once_the_stream_takes_their_tasks(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    config = (await coordinator.bus.stream_info(TASKS)).config
    await coordinator.bus.api(f"CONSUMER.DELETE.{TASKS}.{OF_OTHERS}")
    await coordinator.bus.api(f"STREAM.UPDATE.{TASKS}", {**config, "subjects": [subjects.TASK_SUBJECTS]})
    async with worker(worker_toml(tmp_path, server.url)):
        assert (await (await coordinator.publish("code", "say:x")).result(timeout_s=WAIT_S)).result == "x\n"
        await set_up(coordinator.bus, ["code"], update=True)
        task = await Coordinator(coordinator.bus, "alice").publish("code", "say:of_alice")
        assert (await task.result(timeout_s=WAIT_S)).result == "of alice\n"

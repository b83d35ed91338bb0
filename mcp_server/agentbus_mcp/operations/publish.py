"""Publishes tasks to several agents, and reports for each what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError
from agentbus.protocol.messages import Task
from agentbus.tasks.publish import Published
from agentbus_mcp.operations.agents_status import AgentsStatus, agents_status
from agentbus_mcp.operations.counted_tasks import wait_until_counted


@dataclass(frozen=True, slots=True)
class PublishOutcome:
    """The tasks that are on the bus, those that failed with their errors, and the status of the agents."""

    published: list[Published]
    failed: list[tuple[Task, AgentBusError]]
    agents: AgentsStatus


async def publish_all(coordinator: Coordinator, tasks: Sequence[Task]) -> PublishOutcome:
    """Publish tasks concurrently: a bus that does not answer costs one time-out, not one for each.

    Raises:
        ExceptionGroup: none was published; it holds why.
    """
    published: dict[str, Published] = {}
    errors: dict[str, AgentBusError] = {}

    async def send(task: Task) -> None:
        try:
            published[task.id] = await coordinator.send(task)
        except AgentBusError as error:
            errors[task.id] = error

    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(send, task)
    if not published:
        raise ExceptionGroup("no task was published", list(errors.values()))
    await wait_until_counted(coordinator, {one.task.agent for one in published.values()})
    return PublishOutcome(
        [published[task.id] for task in tasks if task.id in published],
        [(task, errors[task.id]) for task in tasks if task.id in errors],
        await agents_status(coordinator),
    )

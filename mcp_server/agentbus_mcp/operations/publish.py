"""Reports what became of tasks that were published to several agents."""

from collections.abc import Sequence
from dataclasses import dataclass

from agentbus.coordinator import Coordinator
from agentbus.task_handle import PublishedTask, TaskFailure
from agentbus_mcp.operations.agents_status import AgentsStatus, agents_status


@dataclass(frozen=True, slots=True)
class PublishOutcome:
    """The tasks that are on the bus, those that failed with their errors, and the status of the agents."""

    published: list[PublishedTask]
    failed: list[TaskFailure]
    agents: AgentsStatus


async def publish_outcome(coordinator: Coordinator, outcomes: Sequence[PublishedTask | TaskFailure]) -> PublishOutcome:
    """Sort what `Coordinator.publish_to` returned, and add the status of the agents.

    Raises:
        ExceptionGroup: none was published; it holds why.
    """
    published = [one for one in outcomes if isinstance(one, PublishedTask)]
    failed = [one for one in outcomes if isinstance(one, TaskFailure)]
    if not published:
        raise ExceptionGroup("no task was published", [one.error for one in failed])
    return PublishOutcome(published, failed, await agents_status(coordinator))

"""Putting tasks on the bus, each with what became of it."""

from collections.abc import Sequence

import anyio
from mcp_types import CallToolResult, ResourceLink

from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError
from agentbus.protocol.messages import Task
from agentbus.tasks.publish import Published
from agentbus_mcp.errors import reason
from agentbus_mcp.operations.online_agents import Liveness, liveness
from agentbus_mcp.replies import rendering
from agentbus_mcp.replies.models import FailedTask, NextCall, Publication, PublishedTask, Results


async def publish(coordinator: Coordinator, tasks: Sequence[Task]) -> Publication:
    """Publish tasks, and say of each whether somebody is there for it.

    Raises:
        ExceptionGroup: none was published; it holds why.
    """
    sent, failed = await _send_all(coordinator, tasks)
    alive = await liveness(coordinator)
    published = [_account(one, alive) for one in sent]
    return Publication(
        note=alive.note(task.agent for task in published if task.state == "queued"),
        published=published,
        failed=failed or None,
        next=NextCall(tool="watch_results", arguments={"task_ids": [task.task_id for task in published]}),
    )


def answer(publication: Publication) -> CallToolResult:
    """What a call is answered with that has published tasks, and does not wait."""
    failed = len(publication.failed or ())
    published = len(publication.published)
    return rendering.answer(f"Published {published} of {published + failed} tasks; {failed} failed.", publication)


def answer_with_results(publication: Publication, watched: CallToolResult) -> CallToolResult:
    """The same for a call that has waited; `watched` is what waiting for the tasks was answered with."""
    results = Results.model_validate(watched.structured_content)
    fields = {name: getattr(results, name) for name in ("note", "results", "pending", "next")}
    data = publication.model_copy(update=fields)
    links = [part for part in watched.content if isinstance(part, ResourceLink)]
    said = f"Published {len(data.published)} tasks; {len(data.failed or ())} failed"
    waited = f"{len(results.results)} with a result, {len(results.pending or ())} pending"
    return rendering.answer(f"{said}; {waited}.", data, links)


def _account(sent: Published, alive: Liveness) -> PublishedTask:
    """What became of one task; who is alive matters as long as it waits."""
    account = PublishedTask(agent=sent.task.agent, task_id=sent.task.id, state=sent.state, known=sent.known)
    if sent.state != "queued":
        return account
    return account.model_copy(update={"online": alive.online(account.agent), "waiting": alive.waiting(account.agent)})


async def _send_all(coordinator: Coordinator, tasks: Sequence[Task]) -> tuple[list[Published], list[FailedTask]]:
    """Publish tasks side by side: a bus that does not answer costs one time-out, not one for each."""
    sent: dict[str, Published] = {}
    errors: dict[str, AgentBusError] = {}

    async def send(task: Task) -> None:
        try:
            sent[task.id] = await coordinator.send(task)
        except AgentBusError as error:
            errors[task.id] = error

    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(send, task)
    if not sent:
        raise ExceptionGroup("no task was published", list(errors.values()))
    failed = [
        FailedTask(agent=task.agent, task_id=task.id, error=reason(errors[task.id]) or "")
        for task in tasks
        if task.id in errors
    ]
    return [sent[task.id] for task in tasks if task.id in sent], failed

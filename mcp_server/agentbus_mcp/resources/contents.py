"""Reads the contents of the resources as JSON: agents, inboxes, tasks and streams."""

from collections.abc import Callable
from typing import Final

from mcp.server.mcpserver.exceptions import ResourceNotFoundError

from agentbus.admin.overview import OverviewReader
from agentbus.admin.queued_tasks import AgentTasks
from agentbus.errors import InvalidIdError, TaskNotFoundError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json
from agentbus_mcp import uris
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.operations.inbox import newest_messages
from agentbus_mcp.operations.output import beginnings
from agentbus_mcp.replies.budget import ANSWER_BYTES
from agentbus_mcp.replies.questions import list_of_questions
from agentbus_mcp.replies.results import result_of_task
from agentbus_mcp.replies.tasks import task_view
from agentbus_mcp.resources.streams import NEWEST, describe_stream, result_list
from agentbus_mcp.sanitize import clip, to_json

STREAMS: Final = {
    subjects.TASKS_STREAM: ("Tasks", "The backlog: tasks that have no result yet. Its state and newest tasks as JSON."),
    subjects.RESULTS_STREAM: ("Results", "All result inboxes. Their state and newest results as JSON."),
}
"""The title and the description of each stream that is a resource."""
_MAX_AGENTS: Final = 200
_MAX_WORKERS: Final = 50
_MAX_ASKING: Final = 50
"""Of how many tasks questions are shown."""


class ResourceContents:
    """Reads the resources. The first line of each docstring is the description that clients get."""

    def __init__(self, bus_link: BusLink) -> None:
        self._bus_link = bus_link

    async def agents(self) -> str:
        """The agents: which have living workers, and how much waits for them."""
        counted = await OverviewReader(await self._bus_link.coordinator(), recent=0).counted_agents()
        shown = [_bounded({**agent.to_json(), **_counts(tasks)}) for agent, tasks in counted[:_MAX_AGENTS]]
        content: dict[str, Json] = {"agents": shown}
        if len(counted) > _MAX_AGENTS:
            content["more"] = len(counted) - _MAX_AGENTS
        return to_json(content)

    async def questions(self) -> str:
        """What agents ask and no one has answered; of many, those of the tasks that changed last."""
        found = await (await self._bus_link.coordinator()).questions(limit=_MAX_ASKING)
        return to_json(list_of_questions(found).model_dump(exclude_none=True))

    async def inbox(self, agent: str) -> str:
        """The newest messages in the inbox of an agent, oldest first, and the cursor behind them."""
        name = _valid(subjects.agent_id, agent)
        page = await newest_messages(await self._bus_link.coordinator(), NEWEST, name)
        return to_json({"agent": name, "newest": result_list(page.messages), "cursor": page.cursor})

    async def task(self, agent: str, task_id: str) -> str:
        """The state of a task of an agent and, once it has one, its result."""
        return await self._task(task_id, agent)

    async def task_of_owner(self, agent: str, owner: str, task_id: str) -> str:
        """The same of a task that another coordinator than `main` has published."""
        return await self._task(task_id, agent, owner)

    async def task_by_id(self, task_id: str) -> str:
        """The same by the id alone, where one agent has a task of this id."""
        return await self._task(task_id)

    async def stream(self, stream: str) -> str:
        """The state, the consumers and the newest messages of a stream."""
        if stream not in STREAMS:
            raise ResourceNotFoundError(f"Unknown resource: {uris.stream(stream)[:200]}")
        return to_json(await describe_stream(await self._bus_link.coordinator(), stream))

    async def _task(self, task_id: str, agent: str | None = None, owner: str | None = None) -> str:
        coordinator = await self._bus_link.coordinator()
        try:
            status = await coordinator.task(task_id, agent=agent, owner=owner).status()
        except (TaskNotFoundError, InvalidIdError) as error:
            raise ResourceNotFoundError(str(error)) from error
        view = task_view(status)
        if status.settled:
            output = (await beginnings(coordinator, [status])).get(status.record.key)
            view = view.model_copy(update={"result": result_of_task(status, output).cut(ANSWER_BYTES)})
        return to_json(view.model_dump(exclude_none=True))


def _counts(tasks: AgentTasks) -> dict[str, Json]:
    """Return how many tasks wait and run, under the names that clients know."""
    counts = {"waiting": tasks.queued, "unacknowledged": tasks.running}
    return {name: count for name, count in counts.items() if count is not None}


def _bounded(agent: dict[str, Json]) -> dict[str, Json]:
    """Bound an agent of the overview: cut the number of its workers, and their texts."""
    workers: list[dict[str, Json]] = agent["workers"]
    short = [
        {name: _cut(value) for name, value in worker.items() if value or value == 0}
        for worker in workers[:_MAX_WORKERS]
    ]
    return {**agent, "workers": short}


def _cut(value: Json) -> Json:
    return clip(value) if isinstance(value, str) else value


def _valid(check: Callable[[str], str], name: str) -> str:
    try:
        return check(name)
    except InvalidIdError as error:
        raise ResourceNotFoundError(str(error)) from error

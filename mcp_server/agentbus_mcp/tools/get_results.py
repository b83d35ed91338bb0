"""The tool `get_results`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

from anyio import to_thread
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult
from pydantic import Field

from agentbus.coordinator import Coordinator
from agentbus.errors import ArgumentError
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.operations.inbox import newest_messages
from agentbus_mcp.operations.left_files import read_left_part, save_left_files
from agentbus_mcp.operations.look_up import look_up
from agentbus_mcp.operations.output import read_part
from agentbus_mcp.operations.shared_folders import folder_to_save_in
from agentbus_mcp.operations.watch import WatchRequest, outcome_of
from agentbus_mcp.replies.budget import PART_BYTES, ResponseDetail
from agentbus_mcp.replies.build import build_inbox_answer, build_tasks_answer
from agentbus_mcp.replies.models import Results
from agentbus_mcp.replies.next_calls import watch_inbox_call
from agentbus_mcp.tools.definition import ADDS, ALWAYS_LOADED, READS, define
from agentbus_mcp.tools.parameters import AgentOrInbox, LeftFile, MaxBytes, Offset, ResponseFormat, SaveTo, TaskIds

MAX_NEWEST: Final = 50


def get_results_tool(bus_link: BusLink) -> Tool:
    """Make the tool."""

    async def get_results(
        task_ids: TaskIds,
        newest: Annotated[int, Field(ge=1, le=MAX_NEWEST, description="Inbox: how many of the newest messages.")] = 5,
        agent: AgentOrInbox = None,
        response_format: ResponseFormat = "concise",
        offset: Offset = 0,
        max_bytes: MaxBytes = None,
        artifact: LeftFile = None,
        save_to: SaveTo = None,
    ) -> Annotated[CallToolResult, Results]:
        """Read results without waiting: those of given tasks, or the newest in an inbox (oldest first).

        Use it to read a result again, or more of it: one that was cut says `truncated`, and `next`
        reads on. Reading removes nothing. To wait, call watch_results.
        """
        if offset and len(task_ids) != 1:
            raise ArgumentError("offset: reads on in the output of one task; name exactly one in task_ids")
        if (artifact or save_to) and len(task_ids) != 1:
            raise ArgumentError("artifact and save_to: are of one task; name exactly one in task_ids")
        folder = await to_thread.run_sync(folder_to_save_in, bus_link.folders, save_to) if save_to else None
        reads_part = offset or (artifact and not folder)
        detail = ResponseDetail(response_format, max_bytes or (PART_BYTES if reads_part else None))
        coordinator = await bus_link.coordinator()
        if folder is not None:
            return await _saved(coordinator, task_ids, agent, _Wanted(detail, artifact, folder=folder))
        if task_ids:
            return await _results_of_tasks(coordinator, task_ids, agent, _Wanted(detail, artifact, offset))
        page = await newest_messages(coordinator, newest, agent)
        following = watch_inbox_call(WatchRequest(agent=agent), ResponseDetail(), page.cursor)
        return build_inbox_answer(page, following, detail)

    # Where it may save files, hosts must not take it for one that changes nothing.
    return define(get_results, "Get results", ADDS if bus_link.folders else READS, ALWAYS_LOADED)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked for of tasks: how much of their outputs, or of a file that the run of one has left, or saved."""

    detail: ResponseDetail
    artifact: str | None = None
    offset: int = 0
    folder: Path = Path()


async def _results_of_tasks(
    coordinator: Coordinator, task_ids: list[str], agent: str | None, wanted: _Wanted
) -> CallToolResult:
    found, detail, part = await look_up(coordinator, task_ids, agent), wanted.detail, None
    if detail.max_bytes and len(found.tasks) == 1 and (wanted.artifact or found.tasks[0].settled):
        place = (wanted.offset, detail.max_bytes)
        if wanted.artifact:
            part = await read_left_part(coordinator, found.tasks[0], wanted.artifact, *place)
        else:
            part = await read_part(coordinator, found.tasks[0], *place)
    return build_tasks_answer(await outcome_of(coordinator, found, part=part), WatchRequest(agent=agent), detail)


async def _saved(coordinator: Coordinator, task_ids: list[str], agent: str | None, wanted: _Wanted) -> CallToolResult:
    found = await look_up(coordinator, task_ids, agent)
    names = [wanted.artifact] if wanted.artifact else []
    saved = await save_left_files(coordinator, found.tasks[0], names, wanted.folder)
    outcome = replace(await outcome_of(coordinator, found), saved=saved)
    return build_tasks_answer(outcome, WatchRequest(agent=agent), wanted.detail)

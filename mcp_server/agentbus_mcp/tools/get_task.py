"""The tool `get_task`."""

from typing import Annotated, Any

from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult

from agentbus.coordinator import Coordinator, TaskStatus
from agentbus.errors import AgentBusError
from agentbus.protocol.task_names import TaskName
from agentbus.tasks.progress.last import last_progress
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.operations.agents_status import agents_status
from agentbus_mcp.operations.look_up import answer_to
from agentbus_mcp.operations.output import beginnings
from agentbus_mcp.replies.budget import BEGINNING_BYTES
from agentbus_mcp.replies.build import APPROVAL_NOTE, DATA_NOTE, PROGRESS_NOTE, build_answer
from agentbus_mcp.replies.models import TaskView
from agentbus_mcp.replies.next_calls import answer_call, look_call, read_on_call, wait_call
from agentbus_mcp.replies.questions import QUESTION_NOTE
from agentbus_mcp.replies.results import result_of_task
from agentbus_mcp.replies.tasks import task_view
from agentbus_mcp.tools.definition import READS, define
from agentbus_mcp.tools.parameters import AgentOfTask, TaskId


def get_task_tool(bus_link: BusLink) -> Tool:
    """Make the tool."""

    async def get_task(task_id: TaskId, agent: AgentOfTask = None) -> Annotated[CallToolResult, TaskView]:
        """Look at one task: its state and since when, its worker, and the beginning of its result.

        Use it to find out what became of a task, or why it takes long. To wait for it, call watch_results; to read
        all of a long result, get_results.
        """
        coordinator = await bus_link.coordinator()
        status = await coordinator.task(task_id, agent=agent).status()
        lost = f" It {status.loss_note}." if status.loss_note else ""
        return build_answer(f"The task is {status.state}.{lost}", await _view(coordinator, status))

    return define(get_task, "Look at a task", READS)


async def _view(coordinator: Coordinator, status: TaskStatus) -> TaskView:
    """A task with the beginning of its result and the call that follows."""
    if not status.settled:
        online = (await agents_status(coordinator)).online(status.agent) if status.state == "queued" else None
        progress = await last_progress(coordinator.bus, status.record.key) if status.state == "working" else None
        view = task_view(status, progress)
        notes = [PROGRESS_NOTE if progress else None, QUESTION_NOTE if view.questions else None]
        note = ". ".join(filter(None, notes)) or None
        call = answer_call(view.questions[0].id) if view.questions else wait_call([status.name])
        return view.model_copy(update={"note": note, "online": online, "next": call})
    view = task_view(status)
    output = (await beginnings(coordinator, [status])).get(status.record.key)
    result = result_of_task(status, output).cut(BEGINNING_BYTES)
    fields: dict[str, Any] = {"result": result, "note": DATA_NOTE, "next": read_on_call([result])}
    if status.state == "needs_approval":
        answer = await _answered_by(coordinator, status)
        call = look_call(answer) if answer else answer_call(status.name)
        note = DATA_NOTE if answer else DATA_NOTE + APPROVAL_NOTE
        fields |= {"answered_by": answer.task_id if answer else None, "note": note, "next": call}
    return view.model_copy(update=fields)


async def _answered_by(coordinator: Coordinator, status: TaskStatus) -> TaskName | None:
    """The name of the task that carries the answer to an approval; None while there is none."""
    try:
        return (await answer_to(coordinator, status).status()).name
    except AgentBusError:
        return None

"""Prints what became of one task: its answer alone on standard output, everything else on standard error."""

from typing import TYPE_CHECKING

from agentbus.cli import output
from agentbus.errors import BusError, OutputCutError, OutputNotKeptError
from agentbus.terminal import RawOutput

if TYPE_CHECKING:
    from agentbus.task_handle import TaskHandle
    from agentbus.tasks.status import TaskStatus

_MOST_CHARS = 4_000
"""Of what an agent says beside an answer; `task get` shows all of it."""


async def print_answer(handle: "TaskHandle", status: "TaskStatus") -> None:
    """Print the whole output of a completed task, as the agent printed it; of any other, say what became of it."""
    if status.state == "completed":
        await _print_output(handle, status)
        return
    output.remark(f"{status.task_id}: {status.state_in_words}")
    error, said = status.error or "", str(status.result.result or "") if status.result else ""
    for text in (error, said if said.strip() not in error else ""):  # an error often quotes what was printed
        for line in text.strip()[:_MOST_CHARS].splitlines():
            output.remark(f"  > {line}")  # quoted, so that what an agent says passes for nothing else
    if status.state == "needs_approval":
        output.remark(f"answer it: agentbus task answer {status.task_id} --approve (or --deny), with --comment TEXT")
    else:
        output.remark(f"all of it: agentbus task get {status.task_id}")


async def _print_output(handle: "TaskHandle", status: "TaskStatus") -> None:
    raw, last = RawOutput(), b"\n"
    try:
        async for piece in handle.output():
            raw.write(piece)
            last = piece[-1:] or last
    except (BusError, OutputNotKeptError) as error:
        if isinstance(error, OutputNotKeptError) and status.result:
            raw.write(str(status.result.result).encode())
        raw.close()
        raise OutputCutError(f"the task {status.task_id} is completed, and its output is not whole: {error}") from error
    if output.on_terminal() and last != b"\n":
        raw.write(b"\n")  # so that the prompt of the shell stands on a line of its own
    raw.close()
    if status.result and status.result.remark:
        output.remark(f"({status.result.remark})")

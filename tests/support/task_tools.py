"""Tools that support MCP tasks, for tests and for the conformance suite: each does what its record says.

The suite calls them by these names and looks at what becomes of the calls.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from mcp.server.mcpserver import Context
from mcp_types import (
    INTERNAL_ERROR,
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    ErrorData,
    InputRequiredResult,
    TextContent,
)

from agentbus import Coordinator
from agentbus_mcp.notifications.bus_events import BusEvents, Unsubscribe
from agentbus_mcp.server import Server
from agentbus_mcp.task_extension.offer import current_offer
from agentbus_mcp.task_extension.task_support import (
    Completed,
    Failed,
    InputRequired,
    State,
    TaskState,
    TaskSupport,
    Working,
)

POLL_MS = 200


@dataclass(frozen=True)
class Scripted:
    """A task whose state says what happens: questions first, then a time to wait, then a text or an error."""

    required: bool = False
    ttl_ms: int = 600_000
    poll_interval_ms: int = POLL_MS

    async def read_state(self, coordinator: Coordinator, state: State) -> TaskState:  # noqa: ARG002
        answers: dict[str, Any] = state["answers"]
        left = {key: request for key, request in state["asks"].items() if key not in answers}
        if left:
            return InputRequired(left, f"{len(left)} questions")
        if time.time() < state["until"]:
            return Working("at work")
        if "error" in state:
            return Failed(ErrorData(code=INTERNAL_ERROR, message=state["error"]))
        told = [state["text"], *(str(answer["content"]) for answer in answers.values())]
        return Completed(result(" ".join(told), is_error=state["is_error"]))

    async def answer(self, coordinator: Coordinator, state: State, responses: Mapping[str, Any]) -> State | None:  # noqa: ARG002
        return {**state, "answers": {**state["answers"], **responses}}

    async def cancel(self, coordinator: Coordinator, state: State) -> None:
        pass

    def watch(self, bus_events: BusEvents, state: State, changed: Callable[[], None]) -> Unsubscribe:
        return bus_events.call_at(state["until"], changed)


SCRIPTED: dict[str, TaskSupport] = {
    "slow_compute": Scripted(),
    "failing_job": Scripted(required=True),
    "protocol_error_job": Scripted(required=True),
    "confirm_delete": Scripted(),
    "multi_input": Scripted(),
    "test_tool_with_task": Scripted(required=True),
}


def add_task_tools(server: Server) -> None:
    """Add the tools to a server that was made with `tasks=SCRIPTED`."""
    for tool in (
        greet, slow_compute, failing_job, protocol_error_job, confirm_delete, multi_input, test_tool_with_task
    ):  # fmt: skip
        server.add_tool(tool, structured_output=False)


async def greet(name: str) -> CallToolResult:
    """Greet a person, at once."""
    return result(f"Hello, {name}!")


async def slow_compute(seconds: float, label: str = "") -> CallToolResult:
    """Take some time."""
    text = f"computed {label} in {seconds:g} s"
    if seconds and begun(seconds, text):
        return result("computing")
    await anyio.sleep(seconds)
    return result(text)


async def failing_job() -> CallToolResult:
    """Fail after a while."""
    begun(0.5, "the job has failed", is_error=True)
    return result("working")


async def protocol_error_job() -> CallToolResult:
    """End in a protocol error."""
    begun(0.5, "", error="the job has broken the protocol")
    return result("working")


async def confirm_delete(filename: str) -> CallToolResult:
    """Ask before a file is deleted."""
    begun(0, f"deleted {filename}", asks={"confirm": question(f"Delete {filename}?", "confirm", "boolean")})
    return result("asks first")


async def multi_input() -> CallToolResult:
    """Ask two things at the same time."""
    asks = {"name": question("Who are you?", "name", "string"), "sure": question("Sure?", "confirm", "boolean")}
    begun(0, "asked twice", asks=asks)
    return result("asks twice")


async def test_tool_with_task(ctx: Context) -> CallToolResult | InputRequiredResult:
    """Ask for a name first, and then work on for a while."""
    answer = (ctx.input_responses or {}).get("user_name")
    if not isinstance(answer, ElicitResult):
        return InputRequiredResult(input_requests={"user_name": elicit("What is your name?", "name", "string")})
    begun(0.5, f"Hello, {(answer.content or {}).get('name')}!")
    return result("working")


def begun(
    seconds: float,
    text: str,
    *,
    is_error: bool = False,
    error: str | None = None,
    asks: dict[str, dict[str, Any]] | None = None,
) -> bool:
    """Take the offer to go on as a task, if there is one."""
    offer = current_offer()
    if offer is None:
        return False
    state: State = {"until": time.time() + seconds, "text": text, "is_error": is_error, "asks": asks or {}}
    offer.take({**state, "answers": {}} if error is None else {**state, "answers": {}, "error": error})
    return True


def elicit(message: str, name: str, kind: str) -> ElicitRequest:
    schema = {"type": "object", "properties": {name: {"type": kind}}, "required": [name]}
    return ElicitRequest(params=ElicitRequestFormParams.model_validate({"message": message, "requestedSchema": schema}))


def question(message: str, name: str, kind: str) -> dict[str, Any]:
    return elicit(message, name, kind).model_dump(mode="json", by_alias=True, exclude_none=True)


def result(text: str, *, is_error: bool = False) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=is_error)

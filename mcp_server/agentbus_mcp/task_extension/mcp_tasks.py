"""Reads the state of MCP tasks, changes their records, and describes them in the form of the protocol.

No work runs in this process. The state of a task is derived from its record on the bus and from the bus tasks that the
record names, whenever it is read. So a task continues while no server runs, and the next server serves it.
"""

from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from agentbus.bus.pull_consumer import Delivery
from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError, ApiError, BusUnavailableError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import object_in
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.errors import client_message
from agentbus_mcp.notifications.bus_events import BusEvents, Unsubscribe
from agentbus_mcp.replies.results import results_in
from agentbus_mcp.sanitize import clip
from agentbus_mcp.task_extension import records
from agentbus_mcp.task_extension.records import End, StoredRecord
from agentbus_mcp.task_extension.task_support import (
    Completed,
    Failed,
    InputRequired,
    State,
    TaskState,
    TaskSupport,
    Working,
)

_REMEMBERED: Final = 128
"""How many last known states are kept, to answer while the bus is unreachable."""
_UNREACHABLE: Final = "the bus is unreachable; this is the last known state"
_MESSAGE_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class _LastKnown:
    stored: StoredRecord
    task: dict[str, Any]


class McpTasks:
    """The MCP tasks of the tools that support them, by the tools' names."""

    def __init__(self, bus_link: BusLink, bus_events: BusEvents, tools: Mapping[str, TaskSupport]) -> None:
        self._bus_link = bus_link
        self._bus_events = bus_events
        self._tools = dict(tools)
        self._last_known: OrderedDict[str, _LastKnown] = OrderedDict()

    def tool(self, name: str) -> TaskSupport | None:
        """Return the support of a tool; None if its calls never continue as MCP tasks."""
        return self._tools.get(name)

    async def create(self, tool: str, state: State, message: str) -> dict[str, Any]:
        """Store the record of a new task; returns the task.

        Raises:
            AgentBusError: it cannot be stored.
        """
        coordinator, support = await self._bus_link.coordinator(), self._tools[tool]
        stored = await records.create(coordinator, tool, state, ttl_ms=support.ttl_ms)
        return self._describe(stored, support, Working(message))

    async def get(self, task_id: str) -> dict[str, Any]:
        """Read the `DetailedTask`.

        While the bus is unreachable, the answer is the last state that this process read.

        Raises:
            MCPError: there is no such task, or its state cannot be read at present.
        """
        try:
            with _as_mcp_errors():
                coordinator = await self._bus_link.coordinator()
                stored, tool = await self._find(coordinator, task_id)
                stored, state = await self._read_state(coordinator, stored, tool)
        except MCPError as error:
            known = self._last_known.get(task_id)
            if known is None or not _is_temporary(error.__cause__):
                raise
            return known.task if known.stored.record.end else {**known.task, "statusMessage": _UNREACHABLE}
        return self._describe(stored, tool, state)

    async def note_seen(self, task: Mapping[str, Any]) -> None:
        """Note that a client has asked for a `DetailedTask` whose results the model of the session reads with it."""
        await self._bus_link.note_seen(results_in(object_in(task.get("result")).get("structuredContent")))

    async def watch(self, task_id: str, changed: Callable[[], None]) -> Unsubscribe | None:
        """Call `changed` when a task may have changed; None where there is no such task.

        Raises:
            MCPError: the bus cannot be asked.
        """
        try:
            with _as_mcp_errors():
                stored, tool = await self._find(await self._bus_link.coordinator(), task_id)
        except MCPError as error:
            if error.code == INVALID_PARAMS:
                return None
            known = self._last_known.get(task_id)
            if known is None or not _is_temporary(error.__cause__):
                raise
            stored, tool = known.stored, self._tools[known.stored.record.tool]
        subject = subjects.mcp_task(self._bus_link.agent, task_id)

        def on_change(message: Delivery | None) -> None:
            if message is None or message.subject == subject:
                changed()

        record_changes = self._bus_events.follow(self._bus_events.mcp_records, on_change)
        other_changes = tool.watch(self._bus_events, stored.record.state, changed)

        def unsubscribe() -> None:
            record_changes()
            other_changes()

        return unsubscribe

    async def update(self, task_id: str, responses: Mapping[str, Any]) -> None:
        """Apply answers to open requests; answers to other requests are ignored.

        Raises:
            MCPError: there is no such task, an answer does not fit its request, or the bus cannot be asked.
        """
        with _as_mcp_errors():
            coordinator = await self._bus_link.coordinator()
            while not await self._update(coordinator, task_id, responses):
                pass  # another process changed the record first

    async def cancel(self, task_id: str) -> None:
        """End a task, unless it has ended.

        Raises:
            MCPError: there is no such task, or the bus cannot be asked.
        """
        with _as_mcp_errors():
            coordinator = await self._bus_link.coordinator()
            stored, tool = await self._find(coordinator, task_id)
            stored, _ = await self._read_state(coordinator, stored, tool)
            if stored.record.end is None:
                await coordinator.bus.begun.finish(self._cancel(coordinator, stored, tool))

    async def _cancel(self, coordinator: Coordinator, stored: StoredRecord, tool: TaskSupport) -> None:
        await tool.cancel(coordinator, stored.record.state)
        await self._store_end(coordinator, stored, End(status="cancelled"))

    async def _update(self, coordinator: Coordinator, task_id: str, responses: Mapping[str, Any]) -> bool:
        stored, tool = await self._find(coordinator, task_id)
        stored, state = await self._read_state(coordinator, stored, tool)
        open_requests = set(state.requests if isinstance(state, InputRequired) else ())
        answers = {key: response for key, response in responses.items() if key in open_requests}
        if not answers:
            return True
        return await coordinator.bus.begun.finish(self._answer(coordinator, stored, tool, answers))

    async def _answer(
        self, coordinator: Coordinator, stored: StoredRecord, tool: TaskSupport, answers: Mapping[str, Any]
    ) -> bool:
        new_state = await tool.answer(coordinator, stored.record.state, answers)
        return new_state is None or await records.change(coordinator, stored, state=new_state) is not None

    async def _find(self, coordinator: Coordinator, task_id: str) -> tuple[StoredRecord, TaskSupport]:
        """Read the record of a task, and find its tool.

        Raises:
            MCPError: there is no such task, or it has expired.
        """
        stored = await records.read(coordinator, task_id)
        known = self._last_known.get(task_id)
        if known is not None and (stored is None or stored.revision < known.stored.revision):
            stored = known.stored  # the answer is from a replica that lags behind
        tool = self._tools.get(stored.record.tool) if stored else None
        if stored is None or tool is None:
            raise MCPError(
                INVALID_PARAMS,
                f"Task not found: {clip(task_id)!a} is not the id of an MCP task of this server. An id of the bus "
                "is asked about with the tools",
            )
        if stored.record.expired:
            raise MCPError(
                INVALID_PARAMS,
                f"Task has expired: {task_id} was kept for {stored.record.ttl_ms / 1000:g} s. The tools still know the "
                "tasks of the bus that it was about",
            )
        return stored, tool

    async def _read_state(
        self, coordinator: Coordinator, stored: StoredRecord, tool: TaskSupport
    ) -> tuple[StoredRecord, TaskState | None]:
        """Read the state of a task; None if the record holds its end. A new end is stored, so that it never changes."""
        if stored.record.end is not None:
            return stored, None
        state = await tool.read_state(coordinator, stored.record.state)
        match state:
            case Completed(result):
                body = result.model_dump(mode="json", by_alias=True, exclude_none=True)
                return await self._store_end(coordinator, stored, End(status="completed", body=body)), None
            case Failed(error):
                body = error.model_dump(mode="json", by_alias=True, exclude_none=True)
                return await self._store_end(coordinator, stored, End(status="failed", body=body)), None
            case _:
                return stored, state

    async def _store_end(self, coordinator: Coordinator, stored: StoredRecord, end: End) -> StoredRecord:
        """Store the end of a task, or read the one that another process stored first."""
        while stored.record.end is None:
            changed = await records.change(coordinator, stored, end=end)
            stored = changed or (await self._find(coordinator, stored.task_id))[0]
        return stored

    def _describe(self, stored: StoredRecord, tool: TaskSupport, state: TaskState | None) -> dict[str, Any]:
        """Return the `DetailedTask` of a task, and keep it as its last known state."""
        record = stored.record
        changed_at = record.changed_at
        if isinstance(state, Working | InputRequired):
            changed_at = max(changed_at, state.changed_at or changed_at)
        task = {
            "taskId": stored.task_id,
            **(_describe_end(record.end) if record.end is not None else _describe_state(state)),
            "createdAt": record.created_at.isoformat(),
            "lastUpdatedAt": changed_at.isoformat(),
            "ttlMs": record.ttl_ms,
            "pollIntervalMs": tool.poll_interval_ms,
        }
        self._last_known[stored.task_id] = _LastKnown(stored, task)
        self._last_known.move_to_end(stored.task_id)
        if len(self._last_known) > _REMEMBERED:
            self._last_known.popitem(last=False)
        return task


def _describe_state(state: TaskState | None) -> dict[str, Any]:
    described: dict[str, Any] = {"status": "working"}
    if isinstance(state, Working | InputRequired) and state.message:
        described["statusMessage"] = clip(state.message, _MESSAGE_CHARS)
    if isinstance(state, InputRequired):
        described |= {"status": "input_required", "inputRequests": dict(state.requests)}
    return described


def _describe_end(end: End) -> dict[str, Any]:
    match end.status:
        case "completed":
            return {"status": end.status, "result": end.body}
        case "failed":
            message = clip(str((end.body or {}).get("message", "")), _MESSAGE_CHARS)
            return {"status": end.status, "error": end.body, "statusMessage": message}
        case "cancelled":
            return {"status": end.status}


def _is_temporary(error: BaseException | None) -> bool:
    """Return whether an error can be that of a bus that is unreachable or has only just restarted."""
    if isinstance(error, BaseExceptionGroup):
        return any(_is_temporary(inner) for inner in error.exceptions)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
    return isinstance(error, BusUnavailableError | SetupMissingError | ApiError)


@contextmanager
def _as_mcp_errors() -> Generator[None]:
    """Turn expected failures in the block into errors of the protocol, with the message for clients."""
    try:
        yield
    except (AgentBusError, ExceptionGroup) as error:
        text = client_message(error)
        if text is None:
            raise
        raise MCPError(INTERNAL_ERROR, text) from error

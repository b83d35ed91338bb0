"""The interface of a tool whose calls can continue as MCP tasks, and the states of such a task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeAlias

from mcp_types import CallToolResult, ErrorData

from agentbus.coordinator import Coordinator
from agentbus_mcp.notifications.bus_events import BusEvents, Unsubscribe

State: TypeAlias = dict[str, Any]
"""What a tool needs to continue a call, as JSON; the record of the MCP task holds it."""


@dataclass(frozen=True, slots=True)
class Working:
    """The task is still working."""

    message: str = ""
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class InputRequired:
    """The task waits for answers of the client to requests such as `elicitation/create`. A key is never used again."""

    requests: Mapping[str, dict[str, Any]]
    message: str = ""
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """The task has the result that the call would have returned, which may be a failure of the tool."""

    result: CallToolResult


@dataclass(frozen=True, slots=True)
class Failed:
    """The task failed; the call would have been answered with this protocol error."""

    error: ErrorData


TaskState: TypeAlias = Working | InputRequired | Completed | Failed


class TaskSupport(Protocol):
    """Continues the calls of one tool as MCP tasks. The tool itself begins one: see `current_offer`."""

    @property
    def required(self) -> bool:
        """Whether the tool can be called as an MCP task only; other calls are then answered with -32021."""
        ...

    @property
    def ttl_ms(self) -> int:
        """The time to live of a task."""
        ...

    @property
    def poll_interval_ms(self) -> int:
        """How long clients should wait between two polls."""
        ...

    async def read_state(self, coordinator: Coordinator, state: State) -> TaskState:
        """Read the present state of the task. It is not called after the end of the task, which is in the record.

        Raises:
            AgentBusError: the state cannot be read at present.
        """
        ...

    async def answer(self, coordinator: Coordinator, state: State, responses: Mapping[str, Any]) -> State | None:
        """Apply answers to some of the open requests; returns a new state for the record, or None if it stays.

        May be called again with the same answers.

        Raises:
            MCPError: an answer does not fit its request.
        """
        ...

    async def cancel(self, coordinator: Coordinator, state: State) -> None:
        """End the work of the task. May be called again."""
        ...

    def watch(self, bus_events: BusEvents, state: State, changed: Callable[[], None]) -> Unsubscribe:
        """Call `changed` when the state may have changed without a change of the record."""
        ...

"""What a tool needs to have so that its calls can go on as MCP tasks."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeAlias

from mcp_types import CallToolResult, ErrorData

from agentbus.coordinator import Coordinator
from agentbus_mcp.notifications.bus_events import BusEvents, Unsubscribe

State: TypeAlias = dict[str, Any]
"""What a tool needs to go on with a call, as JSON."""


@dataclass(frozen=True, slots=True)
class Working:
    """It goes on."""

    message: str = ""
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class InputRequired:
    """It waits for answers of the client: requests such as `elicitation/create`, by keys that are never used again."""

    requests: Mapping[str, dict[str, Any]]
    message: str = ""
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """It has the result that the call would have had, which may say that the tool failed."""

    result: CallToolResult


@dataclass(frozen=True, slots=True)
class Failed:
    """The call would have been answered with a protocol error."""

    error: ErrorData


Standing: TypeAlias = Working | InputRequired | Completed | Failed


class TaskSupport(Protocol):
    """How the calls of one tool go on as MCP tasks. The tool itself begins one: see `offered`."""

    @property
    def required(self) -> bool:
        """Whether the tool can be called in this way only; others are then answered with -32021."""
        ...

    @property
    def ttl_ms(self) -> int:
        """How long a task is kept."""
        ...

    @property
    def poll_interval_ms(self) -> int:
        """How long a client shall wait before it asks again."""
        ...

    async def look(self, coordinator: Coordinator, state: State) -> Standing:
        """How the task stands now. An end is kept, and nothing is asked after it.

        Raises:
            AgentBusError: it cannot be known at present.
        """
        ...

    async def answer(self, coordinator: Coordinator, state: State, responses: Mapping[str, Any]) -> State | None:
        """Take answers to some of the requests that are open; returns a new state to be kept, if there is one.

        May be called again with the same answers. Raises `MCPError` for an answer that does not fit its request.
        """
        ...

    async def cancel(self, coordinator: Coordinator, state: State) -> None:
        """End what the task stands for. May be called again."""
        ...

    def watch(self, bus_events: BusEvents, state: State, changed: Callable[[], None]) -> Unsubscribe:
        """Call `changed` whenever the task may stand differently for another reason than a change of its record."""
        ...


@dataclass(slots=True)
class Offer:
    """The offer, to a tool, to let this call go on as an MCP task.

    A tool that takes it returns at once what it would answer if it may not wait: that is what the client gets if the
    record of the task cannot be stored.

    Attributes:
        arguments: those that the client has given, without defaults.
        elicits: whether the client can put questions to a person.
    """

    arguments: Mapping[str, Any]
    elicits: bool
    state: State | None = field(default=None, init=False)
    message: str = field(default="", init=False)

    def take(self, state: State, message: str = "") -> None:
        """Have the call go on as an MCP task with this state; `message` is what a person should know of it now."""
        self.state, self.message = state, message


_offer: ContextVar[Offer | None] = ContextVar("offer", default=None)


def offered() -> Offer | None:
    """The offer for the call that is being answered; None where the client does not know MCP tasks."""
    return _offer.get()


@contextmanager
def offering(offer: Offer) -> Generator[None]:
    """Make an offer to the tool that is called in the block."""
    token = _offer.set(offer)
    try:
        yield
    finally:
        _offer.reset(token)

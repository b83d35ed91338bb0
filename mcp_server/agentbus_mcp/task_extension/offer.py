"""The offer to a tool to let its call continue as an MCP task."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from agentbus_mcp.task_extension.task_support import State


@dataclass(slots=True)
class Offer:
    """The offer that comes with one call.

    A tool that takes it returns at once what it would answer without waiting. The client gets that answer if the record
    of the task cannot be stored.

    Attributes:
        arguments: those that the client has given, without defaults.
        elicits: whether the client can ask a person.
    """

    arguments: Mapping[str, Any]
    elicits: bool
    state: State | None = field(default=None, init=False)
    message: str = field(default="", init=False)

    def take(self, state: State, message: str = "") -> None:
        """Have the call continue as an MCP task with this state; `message` is its first status message."""
        self.state, self.message = state, message


_offer: ContextVar[Offer | None] = ContextVar("offer", default=None)


def current_offer() -> Offer | None:
    """The offer for the current call; None where the client does not know MCP tasks."""
    return _offer.get()


@contextmanager
def offering(offer: Offer) -> Generator[None]:
    """Make an offer to the tool that is called in the block."""
    token = _offer.set(offer)
    try:
        yield
    finally:
        _offer.reset(token)

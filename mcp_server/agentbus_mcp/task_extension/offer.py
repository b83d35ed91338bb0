"""Offers a tool to continue its call as an MCP task."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from agentbus_mcp.task_extension.task_support import State


@dataclass(slots=True)
class Offer:
    """The offer for one call.

    A tool that takes it returns at once, with the answer that it would give without waiting. The client gets that
    answer if the record of the task cannot be stored.

    Attributes:
        arguments: those that the client sent, without defaults.
        elicits: whether the client supports elicitation.
    """

    arguments: Mapping[str, Any]
    elicits: bool
    state: State | None = field(default=None, init=False)
    message: str = field(default="", init=False)

    def take(self, state: State, message: str = "") -> None:
        """Continue the call as an MCP task with this state; `message` is its first status message."""
        self.state, self.message = state, message


_offer: ContextVar[Offer | None] = ContextVar("offer", default=None)


def current_offer() -> Offer | None:
    """Return the offer for the current call; None if the client does not support MCP tasks."""
    return _offer.get()


@contextmanager
def offering(offer: Offer) -> Generator[None]:
    """Make an offer to the tool that the block calls."""
    token = _offer.set(offer)
    try:
        yield
    finally:
        _offer.reset(token)

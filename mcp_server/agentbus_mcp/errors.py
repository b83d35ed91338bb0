"""Words the failures that clients read. No other module does."""

from collections.abc import Iterator
from typing import Final

from pydantic import ValidationError

from agentbus.errors import (
    AgentBusError,
    AuthenticationError,
    BusUnavailableError,
    PermissionDeniedError,
    SetupMissingError,
    StreamFullError,
    TaskNotFoundError,
)
from agentbus.protocol.validation import fault_line
from agentbus_mcp.sanitize import clip, printable

_MAX_CHARS: Final = 2_000
_HINTS: Final[dict[type[AgentBusError], str]] = {
    TaskNotFoundError: "The ids stand in the answer of publish_task; list_tasks finds others",
    PermissionDeniedError: "Tell the user, and do not try another way around it",
    AuthenticationError: "Tell the user, who can repair that; then call again",
    SetupMissingError: "Tell the user, who can run it",
    StreamFullError: "Tell the user; call again once there is room",
    BusUnavailableError: "What was accepted before is safe; call again in a while, with the same arguments",
}
"""What a model should do, by the kind of error, where the error's own text does not say it."""


def client_message(error: BaseException | None) -> str | None:
    """Word an expected failure so that a model can act on it; None for any other failure.

    Expected are the errors of agentbus and arguments that do not fit the schema. Nothing of another exception may
    reach a client.
    """
    if isinstance(error, ValidationError):
        return printable(clip(_argument_errors(error), _MAX_CHARS))
    causes = list(_leaves(error)) if error is not None else []
    if causes and all(isinstance(cause, AgentBusError) for cause in causes):
        texts = "; ".join(dict.fromkeys(str(cause) for cause in causes))
        hints = dict.fromkeys(hint for kind, hint in _HINTS.items() if any(isinstance(cause, kind) for cause in causes))
        return printable(". ".join([clip(texts, _MAX_CHARS), *hints]))
    return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors in a group and its groups: concurrent work fails in groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            yield from _leaves(inner)  # pyright: ignore[reportUnknownArgumentType]
    else:
        yield error


def _argument_errors(error: ValidationError) -> str:
    """Say on one line which arguments are wrong and why, without their values."""
    return fault_line(error).replace("Input should", "should")

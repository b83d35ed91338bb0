"""What a client reads of a failure: the one place that decides it."""

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
from agentbus_mcp.replies.sanitize import clip, printable

_MAX_CHARS: Final = 2_000
_HINTS: Final[dict[type[AgentBusError], str]] = {
    TaskNotFoundError: "The ids stand in the answer of publish_task; list_tasks finds others",
    PermissionDeniedError: "Tell the user, and do not try another way around it",
    AuthenticationError: "Tell the user, who can mend that; then call again",
    SetupMissingError: "Tell the user, who can run it",
    StreamFullError: "Tell the user; call again once there is room",
    BusUnavailableError: "What was accepted before is safe; call again in a while, with the same arguments",
}
"""What to do, by the kind of the failure, where its text does not say it."""


class ArgumentError(AgentBusError):
    """An argument that fits its schema, but not what it is used for."""


def reason(error: BaseException | None) -> str | None:
    """The text for a failure that was foreseen, fit for a model to act on; None for every other.

    Foreseen are the errors that agentbus raises on purpose and arguments that do not fit the schema. Nothing of any
    other exception may reach a client.
    """
    if isinstance(error, ValidationError):
        return printable(clip(_faults(error), _MAX_CHARS))
    causes = list(_leaves(error)) if error is not None else []
    if causes and all(isinstance(cause, AgentBusError) for cause in causes):
        said = "; ".join(dict.fromkeys(str(cause) for cause in causes))
        hints = dict.fromkeys(hint for kind, hint in _HINTS.items() if any(isinstance(cause, kind) for cause in causes))
        return printable(". ".join([clip(said, _MAX_CHARS), *hints]))
    return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group, however deep: work that is done side by side fails in groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            yield from _leaves(inner)  # pyright: ignore[reportUnknownArgumentType]
    else:
        yield error


def _faults(error: ValidationError) -> str:
    """Which arguments are wrong and why, on one line, without their values."""
    faults = [
        f"{'.'.join(str(part) for part in fault['loc'])}: "
        + fault["msg"]
        .removeprefix("Value error, ")
        .replace("Field required", "is missing")
        .replace("Input should", "should")
        for fault in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    return "; ".join(dict.fromkeys(faults))

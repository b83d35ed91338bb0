"""What operators ask of the workers of an agent: the value of its key in the bucket for that."""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from agentbus.errors import MessageError
from agentbus.protocol.headers import KV_OPERATION, Headers
from agentbus.protocol.json_codec import decode, encode, object_in
from agentbus.visible_text import one_line

MAX_REASON_CHARS: Final = 400
"""It stands in the registry entry of each worker of the agent."""

_Short = Annotated[str, StringConstraints(max_length=128)]


class OperatorPause(BaseModel):
    """An operator wants the workers of an agent to take no tasks: who, why, and since when.

    `by` is what the operator says of itself: every operator may write every key.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    by: _Short
    reason: Annotated[str, StringConstraints(max_length=MAX_REASON_CHARS)] = ""
    since: _Short

    @property
    def in_words(self) -> str:
        """The pause on one line, as the end of a sentence."""
        return one_line(f"paused by {self.by} since {self.since[:19]}" + (f": {self.reason}" if self.reason else ""))


class Resumed(BaseModel):
    """An operator wants the workers of an agent to go on, also those that had paused by themselves: who, and when."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    by: _Short
    since: _Short


class Asked(BaseModel):
    """The value of the key of an agent: what was asked last."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    paused: OperatorPause | None = None
    resumed: Resumed | None = None

    def encoded(self) -> bytes:
        """Return the value as it is stored."""
        return encode(self.model_dump(exclude_none=True))


def read_asked(data: bytes, headers: Headers) -> Asked:
    """Read the value of a key; one that is not valid asks for nothing."""
    if headers.get(KV_OPERATION) is not None:
        return Asked()
    try:
        return Asked.model_validate(object_in(decode(data)))
    except (MessageError, ValidationError):
        return Asked()

"""What operators ask of the workers of an agent: one key for each, in a bucket that forgets nothing."""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from agentbus.errors import MessageError
from agentbus.protocol.headers import KV_OPERATION, Headers
from agentbus.protocol.json_codec import decode, encode, object_in
from agentbus.protocol.subjects import is_agent_id

BUCKET: Final = "AGENT_CONTROL"
STREAM: Final = f"KV_{BUCKET}"
KEYS: Final = f"$KV.{BUCKET}.>"
MAX_ENTRY_BYTES: Final = 4 << 10
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

    def encoded(self) -> bytes:
        """Return the value of the key."""
        return encode({"paused": self.model_dump()})


def key(agent: str) -> str:
    """The key of one agent, as the subject that its changes are published on."""
    return f"$KV.{BUCKET}.{agent}"


def agent_of_key(subject: str) -> str | None:
    """The agent whose key a subject is; None if it is none."""
    agent = subject.removeprefix(key(""))
    return agent if agent != subject and is_agent_id(agent) else None


def read_pause(data: bytes, headers: Headers) -> OperatorPause | None:
    """Read the value of a key; None where it asks for no pause, or is not valid."""
    if headers.get(KV_OPERATION) is not None:
        return None
    try:
        return OperatorPause.model_validate(object_in(decode(data)).get("paused"))
    except (MessageError, ValidationError):
        return None

"""A message as a stream holds it."""

from dataclasses import dataclass
from datetime import datetime

from agentbus.protocol.headers import Headers


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as a stream holds it.

    Attributes:
        time: when it was stored, by the server's clock.
        relayed: it is a copy of another message that a client made the server store; see `headers.is_relayed`.
    """

    subject: str
    seq: int
    time: datetime
    headers: Headers
    data: bytes
    relayed: bool = False

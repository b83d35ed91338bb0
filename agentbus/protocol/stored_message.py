"""A message as a stream holds it."""

from dataclasses import dataclass
from datetime import datetime

from agentbus.protocol.headers import Headers


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as a stream holds it. `time` is the server's clock when it was stored."""

    subject: str
    seq: int
    time: datetime
    headers: Headers
    data: bytes

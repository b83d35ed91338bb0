"""A message as a stream holds it."""

from datetime import datetime
from typing import NamedTuple

from agentbus.protocol.headers import Headers


class StoredMessage(NamedTuple):
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

"""The names of message headers: those of NATS and JetStream, and those of agentbus (`Bus-…`)."""

from collections.abc import Mapping
from typing import Final, TypeAlias

Headers: TypeAlias = Mapping[str, str]

# -- NATS and JetStream -----------------------------------------------------------------------------------------

STATUS: Final = "Status"
DESCRIPTION: Final = "Description"
MSG_ID: Final = "Nats-Msg-Id"
EXPECTED_LAST_SEQUENCE: Final = "Nats-Expected-Last-Sequence"
EXPECTED_LAST_SUBJECT_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
# What the server adds to the answer to a direct get.
STREAM: Final = "Nats-Stream"
SUBJECT: Final = "Nats-Subject"
SEQUENCE: Final = "Nats-Sequence"
TIME_STAMP: Final = "Nats-Time-Stamp"
KV_OPERATION: Final = "KV-Operation"
"""Of a key-value bucket: `DEL` or `PURGE` in a message that removes its key."""

# -- agentbus ---------------------------------------------------------------------------------------------------

STATE: Final = "Bus-State"
"""The state of a ledger entry, so that following the ledger needs no values."""
LEDGER_REVISION: Final = "Bus-Ledger-Revision"
"""Of a task: the revision of its ledger entry when it was published."""
# Of a dead letter:
DEAD_REASON: Final = "Bus-Reason"
DEAD_AGENT: Final = "Bus-Agent"
DEAD_WORKER: Final = "Bus-Worker"
DEAD_TIME: Final = "Bus-Time"
DEAD_ORIGIN: Final = "Bus-Origin"
DEAD_ORIGIN_MSG_ID: Final = "Bus-Origin-Msg-Id"
DEAD_SIZE: Final = "Bus-Size"
DEAD_SHA256: Final = "Bus-Sha256"


def is_relayed(headers: Headers) -> bool:
    """Whether a stored message is a copy that the server was made to publish: an answer to a direct get.

    A client gets that by naming the subject as the reply of its request. No honest publisher sets these headers.
    """
    return STREAM in headers or SEQUENCE in headers


def number(text: str) -> int | None:
    """The number in a header: what JetStream counts with, up to 64 bits; None if it is none."""
    found = int(text) if len(text) <= 20 and text.isascii() and text.isdigit() else None
    return found if found is not None and found < 2**64 else None

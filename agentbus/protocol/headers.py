"""The names of message headers: those of NATS and JetStream, and those of agentbus (`Bus-…`)."""

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

Headers: TypeAlias = Mapping[str, str]

# -- NATS and JetStream -----------------------------------------------------------------------------------------

STATUS: Final = "Status"
DESCRIPTION: Final = "Description"
MSG_ID: Final = "Nats-Msg-Id"
EXPECTED_LAST_SEQUENCE: Final = "Nats-Expected-Last-Sequence"
EXPECTED_LAST_SUBJECT_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
CONDITION: Final = "nats-expected-"
"""How the names of headers begin, in small letters, with which a stream stores a message under a condition only: the
stream of tasks, and then also the audit, which can never meet all of them."""
# What the server adds to the answer to a direct get.
STREAM: Final = "Nats-Stream"
SUBJECT: Final = "Nats-Subject"
SEQUENCE: Final = "Nats-Sequence"
TIME_STAMP: Final = "Nats-Time-Stamp"
MSG_SIZE: Final = "Nats-Msg-Size"
"""The size of a payload that a message lacks: of a republished one, or where a reader wants the headers only."""
KV_OPERATION: Final = "KV-Operation"
"""Of a key-value bucket: `DEL` or `PURGE` in a message that removes its key."""

_OF_FIRST_LINE: Final = frozenset({STATUS, DESCRIPTION})
_NOT_IN_NAME: Final = re.compile(r"\s")

# -- agentbus ---------------------------------------------------------------------------------------------------

STATE: Final = "Bus-State"
"""The state of a ledger entry, so that following the ledger needs no values."""
SUMMARY: Final = "Bus-Summary"
"""What a list shows of a settled task, in a ledger entry, so that listing needs no results."""
QUESTIONS: Final = "Bus-Questions"
"""How many questions in a ledger entry wait for a person, as `2`; where the run of some is gone, `2 interrupted=1`.

It stands where there are any. A worker of an earlier version, which takes such a task over, leaves it out.
"""
GROUP: Final = "Bus-Group"
"""The group of a task in its ledger entry, so that a list of one reads no other entries; `NO_GROUP` where it has none.

An entry without it was written by a party of an earlier version, which keeps the group in the entry alone.
"""
NO_GROUP: Final = "-"
"""No group is called so."""
REVISION: Final = "Bus-Revision"
"""Of a task: the revision of its ledger entry when it was published."""
LEDGER_REVISION: Final = "Bus-Ledger-Revision"
"""The same of an older publisher. Its workers demand a message id without a random part where this header stands."""
# Of a dead letter:
DEAD_REASON: Final = "Bus-Reason"
DEAD_AGENT: Final = "Bus-Agent"
DEAD_WORKER: Final = "Bus-Worker"
DEAD_TIME: Final = "Bus-Time"
DEAD_ORIGIN: Final = "Bus-Origin"
DEAD_ORIGIN_MSG_ID: Final = "Bus-Origin-Msg-Id"
DEAD_SIZE: Final = "Bus-Size"
DEAD_SHA256: Final = "Bus-Sha256"


_KNOWN: Final = frozenset(
    {
        MSG_ID,
        EXPECTED_LAST_SEQUENCE,
        EXPECTED_LAST_SUBJECT_SEQUENCE,
        STREAM,
        SUBJECT,
        SEQUENCE,
        TIME_STAMP,
        MSG_SIZE,
        KV_OPERATION,
        STATE,
        SUMMARY,
        QUESTIONS,
        GROUP,
        REVISION,
    }
)
"""The names that most messages have, as they are written: a search reads some hundred thousand of them."""
_NONE_REPEATED: Final[frozenset[str]] = frozenset()
_AROUND_NAMES: Final = " \t\n\r\x0b\x0c"
_BLANKS: Final = " \t"
"""What may stand around a value. A form feed belongs to it: the subject of a stored message is such a value."""


def parse(block: bytes) -> tuple[dict[str, str], frozenset[str]]:
    """Read the header block of a message; returns the headers, and the names that stand in it more than once.

    The last value of a name counts: the server appends its own headers to those that a message was stored with. A
    status counts only where the server writes it: in the first line, and not in a header that a publisher has set. The
    first line of a stored message is its publisher's, and servers before 2.11 deliver it as it is.
    """
    first, _, rest = block.partition(b"\r\n")
    fields: dict[str, str] = {}
    repeated = _NONE_REPEATED
    for line in rest.decode(errors="replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if not colon:
            continue
        if name not in _KNOWN:
            name = name.strip(_AROUND_NAMES)
            if not _may_be_name(name):
                continue
        if name in fields:
            repeated |= {name}
        fields[name] = value.strip(_BLANKS)
    status, _, description = first.removeprefix(b"NATS/1.0").strip().partition(b" ")
    if status.isdigit() and SEQUENCE not in fields:
        fields[STATUS] = status.decode()
        if description.strip():
            fields[DESCRIPTION] = description.strip().decode(errors="replace")
    return fields, repeated


def _may_be_name(name: str) -> bool:
    return bool(name) and name.isascii() and name not in _OF_FIRST_LINE and _NOT_IN_NAME.search(name) is None


def is_first(headers: Headers) -> bool:
    """Tell whether a message was stored as the first one of its subject, as its publisher demanded.

    One without that header may be the first one, too.
    """
    return headers.get(EXPECTED_LAST_SUBJECT_SEQUENCE) == "0"


def is_relayed(headers: Headers) -> bool:
    """Tell whether a message that a consumer delivered is a copy that the server was made to store.

    Such a copy is an answer to a direct get: a client names the subject of the copy as the reply of its request. No
    honest publisher sets these headers.
    """
    return STREAM in headers or SEQUENCE in headers


def is_relayed_twice(repeated: frozenset[str]) -> bool:
    """Tell the same of a message read by a direct get, to which the server has added these headers once more.

    Args:
        repeated: see `parse`.
    """
    return STREAM in repeated or SEQUENCE in repeated


def number(text: str) -> int | None:
    """The number in a header: what JetStream counts with, up to 64 bits; None if it is none."""
    found = int(text) if len(text) <= 20 and text.isascii() and text.isdigit() else None
    return found if found is not None and found < 2**64 else None

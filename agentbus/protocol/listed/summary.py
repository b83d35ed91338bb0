"""The summary of a settled task, in a header of its ledger entry: what a list shows of it, without its result."""

import json
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from agentbus.errors import MessageError
from agentbus.protocol import subjects
from agentbus.protocol.conversations.continuation import Continuation
from agentbus.protocol.headers import STATE, SUMMARY
from agentbus.protocol.json_codec import Json, decode
from agentbus.protocol.ledger_entry import (
    TERMINAL_STATES,
    CancelRequest,
    Count,
    Entry,
    Inbox,
    Record,
    Sender,
    Short,
    TaskType,
)
from agentbus.protocol.listed.labels import MAX_ABOUT_CHARS, group_in
from agentbus.protocol.messages import failure_in
from agentbus.protocol.outcomes.run_report import run_in
from agentbus.protocol.outcomes.usage_of_runs import UsageOfRuns
from agentbus.protocol.stored_message import StoredMessage
from agentbus.protocol.subjects import COORDINATOR

MAX_SUMMARY_BYTES: Final = 768
"""A longer summary is left out, and the entry read whole; every entry pays for its header."""
_SUMMARY_ERROR_CHARS: Final = 160
"""More than a list shows of an error: the MCP server 120."""
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))
"""In ASCII: a line end in a text would be one in the headers."""


class Summary(BaseModel):
    """What a list shows of a settled task: it stands in a header of the entry, which a reader has without the result.

    The party that writes the entry writes it, so it says no more and no less than the entry may.

    Attributes:
        error: the beginning of the error of the result.
        failure: as the result has it.
        run: the model, the tokens and the cost, as the result has them.
        about: the first words of the content; None where a party of an earlier version has settled the task.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    sender: Sender
    inbox: Inbox
    task_type: TaskType
    created_at: Short | None = None
    attempt: Count = 0
    cancel: CancelRequest | None = None
    answered_by: Inbox | None = None
    continues: Continuation | None = None
    error: Annotated[str, StringConstraints(max_length=_SUMMARY_ERROR_CHARS)] | None = None
    failure: dict[str, Json] | None = None
    run: dict[str, Json] | None = None
    earlier: UsageOfRuns | None = None
    about: Annotated[str, StringConstraints(max_length=MAX_ABOUT_CHARS)] | None = None


_OF_ENTRY: Final = (
    "sender", "task_type", "created_at", "attempt", "cancel", "answered_by", "earlier", "continues", "about",
)  # fmt: skip


def summary_of(entry: Entry) -> str | None:
    """Return the header that sums up a settled entry; None of any other, and where it would be too long."""
    if entry.result is None:
        return None
    failure, error, run = failure_in(entry.result), entry.result.get("error"), run_in(entry.result)
    values: dict[str, Json] = {
        "sender": entry.sender,
        "inbox": entry.inbox,
        "task_type": entry.task_type,
        "created_at": entry.created_at,
        "attempt": entry.attempt or None,
        "cancel": entry.cancel.model_dump() if entry.cancel else None,
        "answered_by": entry.answered_by,
        "continues": entry.continues.to_json() if entry.continues else None,
        "error": error[:_SUMMARY_ERROR_CHARS] if isinstance(error, str) else None,
        "failure": failure.to_json() if failure else None,
        "run": run.figures.to_json() if run else None,
        "earlier": entry.earlier.to_json() if entry.earlier else None,
        "about": entry.about,
    }
    text = _written(values)
    if len(text) > MAX_SUMMARY_BYTES:  # the first words are the least of what a list shows
        text = _written({**values, "about": None})
    return text if len(text) <= MAX_SUMMARY_BYTES else None


def _written(values: dict[str, Json]) -> str:
    return _ENCODER.encode({key: value for key, value in values.items() if value is not None})


def read_summary(message: StoredMessage) -> Record | None:
    """Return a settled task by the headers of its entry, without its result; None where they do not say enough.

    What they say is bounded as the entry is. A caller that needs the result, or gets None, reads the entry.
    """
    key, text = subjects.parse_state(message.subject), message.headers.get(SUMMARY, "")
    state = TERMINAL_STATES.get(message.headers.get(STATE, ""))
    if key is None or state is None or not 0 < len(text) <= MAX_SUMMARY_BYTES or message.relayed:
        return None
    try:
        summary = Summary.model_validate(decode(text.encode()))
    except (MessageError, ValidationError):
        return None
    entry = Entry.model_construct(
        state=state,
        digest="",
        inbox=summary.inbox if key.owner == COORDINATOR else key.owner,
        group=group_in(message.headers),
        **{name: getattr(summary, name) for name in _OF_ENTRY},
    )
    return Record(key, entry, message.seq, message.time, message.headers, summary)

"""What a run has ended with that asks before it uses a tool: the field `question` of a result `needs_approval`.

A worker writes it, and it comes from the output of an agent, so it is bounded here and where it is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agentbus.errors import MessageError
from agentbus.protocol.json_codec import Json, encode, object_in
from agentbus.protocol.outcomes.run_report import MAX_SUMMARY_CHARS, count_in
from agentbus.protocol.questions.question import (
    MAX_ARGUMENTS_BYTES,
    MAX_FOLDER_CHARS,
    MAX_OPERATION_CHARS,
    MAX_TEXT_CHARS,
    digest_of,
    shortened,
)

QUESTION: Final = "question"
"""The field."""
_DIGEST_CHARS: Final = 64
_MAX_CALL_CHARS: Final = 200
"""The longest id of a call that is known has 40 characters."""


@dataclass(frozen=True, slots=True)
class AskedCall:
    """The call of a tool that waits for an answer.

    Attributes:
        tool: its name.
        summary: a line about its arguments.
        arguments: of the call; a text with the beginning of their JSON where they are too long.
        arguments_bytes: how long their JSON is, where they were too long.
        arguments_digest: of the whole arguments: an answer is for these alone.
        folder: in which the agent works.
        text: what the agent said before.
        call: what the agent calls this use of the tool.
    """

    tool: str
    summary: str = ""
    arguments: Json = None
    arguments_bytes: int | None = None
    arguments_digest: str = ""
    folder: str = ""
    text: str = ""
    call: str = ""

    def to_json(self) -> dict[str, Json]:
        """The value of the field, bounded, without what is not known."""
        known = {
            "arguments_digest": self.arguments_digest,
            "arguments_bytes": self.arguments_bytes,
            "folder": self.folder[:MAX_FOLDER_CHARS],
            "text": self.text[:MAX_TEXT_CHARS],
            "call": self.call[:_MAX_CALL_CHARS],
        }
        asked = {"tool": self.tool[:MAX_OPERATION_CHARS], "summary": self.summary[:MAX_SUMMARY_CHARS]}
        arguments = {"arguments": self.arguments} if self.arguments_digest else {}
        return asked | arguments | {name: value for name, value in known.items() if value}

    @property
    def shown(self) -> str:
        """What is asked for, for a person who reads it: the whole command, or the arguments as JSON."""
        command = object_in(self.arguments).get("command")
        if isinstance(command, str):
            return f"{self.tool}: {command}"
        arguments = self.arguments if isinstance(self.arguments, str) else encode(self.arguments).decode()
        return f"{self.tool}: {arguments if self.arguments_digest else self.summary}"


def asked_call(tool: str, arguments: Json, *, summary: str, folder: str, text: str, call: str) -> AskedCall:
    """Return the call that an agent has ended with, with arguments that are cut where they are too long.

    `text` is the end of what the agent said.
    """
    digest, (kept, whole_bytes) = digest_of(arguments), shortened(arguments)
    return AskedCall(
        tool[:MAX_OPERATION_CHARS], summary, kept, whole_bytes, digest, folder, text[-MAX_TEXT_CHARS:], call
    )


def asked_call_in(result: Mapping[str, Json]) -> AskedCall | None:
    """Read the field of a result; None if there is none that is valid."""
    found = object_in(result.get(QUESTION))
    tool = _text(found.get("tool"), MAX_OPERATION_CHARS)
    if not tool:
        return None
    arguments, digest = found.get("arguments"), _text(found.get("arguments_digest"), _DIGEST_CHARS)
    try:
        if len(encode(arguments)) > MAX_ARGUMENTS_BYTES:
            arguments, digest = None, ""
    except MessageError:
        arguments, digest = None, ""
    return AskedCall(
        tool,
        _text(found.get("summary"), MAX_SUMMARY_CHARS),
        arguments,
        count_in(found.get("arguments_bytes")),
        digest,
        _text(found.get("folder"), MAX_FOLDER_CHARS),
        _text(found.get("text"), MAX_TEXT_CHARS),
        _text(found.get("call"), _MAX_CALL_CHARS),
    )


def _text(value: Json, most: int) -> str:
    return value[:most] if isinstance(value, str) else ""

"""A question of an agent that waits for a person: what it wants to do, and what was answered.

While a task is not settled, its questions stand in its ledger entry; a settlement drops them. The worker writes a
question and, before it gives an answer to its agent, to whose; a coordinator writes an answer. The first one counts.
"""

import hashlib
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from agentbus.errors import MessageError
from agentbus.protocol.json_codec import Json, canonical, encode

MAX_QUESTIONS: Final = 16
"""Of one entry: a driver holds no more open at a time."""
MAX_OPERATION_CHARS: Final = 256
MAX_ARGUMENTS_BYTES: Final = 8_192
MAX_FOLDER_CHARS: Final = 1_024
MAX_TEXT_CHARS: Final = 2_048
MAX_COMMENT_CHARS: Final = 2_000
_MAX_SHORT_CHARS: Final = 256
_MOST_COUNTED: Final = 2**31

_Short = Annotated[str, StringConstraints(max_length=_MAX_SHORT_CHARS)]
_Nonce = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,128}$")]


def _check_arguments(value: Json) -> Json:
    try:
        size = len(encode(value))
    except MessageError as error:
        raise ValueError(str(error)) from None
    if size > MAX_ARGUMENTS_BYTES:
        raise ValueError(f"has {size} bytes; it may have {MAX_ARGUMENTS_BYTES}")
    return value


class Answer(BaseModel):
    """What was answered, by whom, and when: `by` is an address, that of the agent where its worker denied by itself."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    allow: bool
    comment: Annotated[str, StringConstraints(max_length=MAX_COMMENT_CHARS)] = ""
    by: _Short
    at: _Short


class Question(BaseModel):
    """One question.

    Attributes:
        number: counts the questions of one claim, from 1.
        nonce: of the claim whose run asks.
        operation: the tool, or the kind of tool.
        arguments: what it is to be used with; a text with the beginning of their JSON where they are too long.
        arguments_bytes: how long their JSON is, where they were too long.
        arguments_digest: of the whole arguments; two questions ask for the same if it and the operation are the same.
        folder: in which the agent works.
        text: what the agent says that it wants to do.
        until: the server's time when it is denied without an answer.
        given: the nonce of the claim whose agent has got the answer: it is given to none else.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    number: Annotated[int, Field(ge=1, le=_MOST_COUNTED)]
    nonce: _Nonce
    operation: Annotated[str, StringConstraints(max_length=MAX_OPERATION_CHARS)]
    arguments: Annotated[Json, AfterValidator(_check_arguments)] = None
    arguments_bytes: Annotated[int, Field(ge=0, le=_MOST_COUNTED)] | None = None
    arguments_digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    folder: Annotated[str, StringConstraints(max_length=MAX_FOLDER_CHARS)] = ""
    text: Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)] = ""
    asked_at: _Short
    until: _Short
    answer: Answer | None = None
    given: _Nonce | None = None

    def asks_the_same(self, other: "Question") -> bool:
        """Whether an answer to one answers the other."""
        return (self.operation, self.arguments_digest) == (other.operation, other.arguments_digest)


def digest_of(arguments: Json) -> str:
    """Return what tells arguments of a tool from others."""
    return hashlib.sha256(canonical(arguments)).hexdigest()


def shortened(arguments: Json) -> tuple[Json, int | None]:
    """Return arguments as a question has them, and how long they are if they were cut."""
    data = encode(arguments)
    if len(data) <= MAX_ARGUMENTS_BYTES:
        return arguments, None
    # A quotation mark is two bytes in a text, and a text is cut where it is longest: in half.
    text = data[: MAX_ARGUMENTS_BYTES // 2 - 8].decode(errors="ignore") + "…"
    return text, len(data)

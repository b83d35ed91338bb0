"""Tasks and results: the two messages of the bus, as JSON in UTF-8.

What is read is validated and otherwise left as it came: unknown fields are kept, ids keep the form in which they
were written (`agent-code` or `code`), and the task embedded in a result is the task that was received.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, NamedTuple, Self, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from agentbus.errors import InvalidIdError, MessageError
from agentbus.protocol import subjects
from agentbus.protocol.conversations.continuation import identity_of
from agentbus.protocol.ids import new_task_id
from agentbus.protocol.json_codec import Json, canonical, decode, encode, object_in, refuse_changes
from agentbus.protocol.listed.labels import GROUP, group_name, group_of
from agentbus.protocol.outcomes.run_report import Run, amount_in, count_in, run_in
from agentbus.protocol.outcomes.usage_of_runs import UsageOfRuns, earlier_in, with_run
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.protocol.timestamps import now
from agentbus.protocol.validation import fault_line
from agentbus.protocol.work.task_work import identity_of_work

MAX_TASK_BYTES: Final = 1_048_576
MAX_TASK_TYPE_CHARS: Final = 128
MAX_TASK_DEPTH: Final = 100
MAX_ADDRESS_CHARS: Final = 256
"""Of `from`, `reply_to` and `created_at`: the ledger holds them beside the whole result, in one message."""

ResultStatus = Literal["completed", "failed", "needs_approval", "cancelled"]
PayloadFormat = Literal["text", "json"]
MAX_FAILURE_CHARS: Final = 500
_HTTP_STATUS: Final = (100, 599)
_FAILURE_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")


class _Message(BaseModel):
    # Built at its first use: a command that publishes never reads a result.
    model_config = ConfigDict(extra="allow", frozen=True, strict=True, defer_build=True)

    def to_json(self) -> dict[str, Json]:
        """The message as it was received or built: declared and unknown fields, nothing added."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class Payload(_Message):
    """What a task carries: `content` is a string when `fmt` says text (or nothing), else any JSON value."""

    fmt: Literal["text", "json", ""] | None = None
    content: Json = None

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if "content" not in self.model_fields_set:
            raise ValueError("content is missing")
        if self.format == "text" and not isinstance(self.content, str):
            raise ValueError("content must be a string when fmt is text; set fmt to json for anything else")
        return self

    @property
    def format(self) -> PayloadFormat:
        """`fmt`, where missing, empty and null mean text."""
        return self.fmt or "text"


def _check_task_id(text: str) -> str:
    try:
        return subjects.task_id(text)
    except InvalidIdError as error:
        raise ValueError(str(error)) from error


def _check_agent(text: str) -> str:
    try:
        subjects.agent_id(text)
    except InvalidIdError as error:
        raise ValueError(str(error)) from error
    return text


class Task(_Message):
    """A task as it lies on the bus. Build one with `new_task`, read one with `decode_task`."""

    id: Annotated[str, AfterValidator(_check_task_id)]
    sender: Annotated[str, StringConstraints(min_length=1, max_length=MAX_ADDRESS_CHARS), Field(alias="from")]
    to: Annotated[str, AfterValidator(_check_agent)]
    reply_to: Annotated[str, StringConstraints(max_length=MAX_ADDRESS_CHARS)] | None = None
    type: Literal["task.request"]
    task_type: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TASK_TYPE_CHARS)]
    payload: Payload | None = None
    created_at: Annotated[str, StringConstraints(max_length=MAX_ADDRESS_CHARS)] | None = None

    @property
    def agent(self) -> str:
        """The id of the agent that the task is for."""
        return subjects.agent_id(self.to)

    def inbox(self, default: str) -> str:
        """The agent whose inbox gets the result: `reply_to`, else `from`, else `default` if neither is a valid id."""
        for name in (self.reply_to, self.sender):
            if name is not None and subjects.is_agent_id(name):
                return subjects.agent_id(name)
        return default

    def as_kept(self, created_at: str, group: str | None) -> "Task":
        """Return the same task as it was published first: when that was, and in which group."""
        own = group_of(self.model_extra or {})
        fields = {name: value for name, value in self.to_json().items() if name != GROUP or own is None}
        named: dict[str, Json] = {GROUP: group} if group is not None else {}
        return _validate(Task, {**fields, "created_at": created_at, **named})

    def digest(self) -> str:
        """Fingerprint of the content: who, to whom, where the answer goes, what kind, what it says.

        Two tasks with the same id and digest are the same task; `created_at` does not count.
        """
        payload = self.payload
        content = [
            subjects.agent_id(self.sender) if subjects.is_agent_id(self.sender) else self.sender,
            self.agent,
            self.inbox(""),
            self.task_type,
            payload.format if payload else "text",
            payload.content if payload else "",
            *identity_of(self.model_extra or {}),
            *identity_of_work(self.model_extra or {}),
        ]
        return hashlib.sha256(canonical(content)).hexdigest()


class Failure(NamedTuple):
    """Why a task has failed: a code that a program can act on, and the reason in words.

    Attributes:
        code: one of `FailureCode`, or that of a later version: a lower-case word of at most 32 characters.
        message: at most `MAX_FAILURE_CHARS` characters; the agent may have written a part of it.
        http_status: what the model's server answered, where the agent said it.
        retry_after_s: after how many seconds that server answers again, where it said so.
    """

    code: str
    message: str
    http_status: int | None = None
    retry_after_s: float | None = None

    def to_json(self) -> dict[str, Json]:
        """The value of the field `failure`."""
        known = {"http_status": self.http_status, "retry_after_s": self.retry_after_s}
        return {
            "code": self.code,
            "message": self.message[:MAX_FAILURE_CHARS],
            **{name: value for name, value in known.items() if value is not None},
        }


def failure_in(result: Mapping[str, Json]) -> Failure | None:
    """Read the field `failure` of a result message.

    None if it has none, is no failure, or holds something else: the field is optional, and an earlier version could
    keep anything under that name.
    """
    found = object_in(result.get("failure"))
    code, message = found.get("code"), found.get("message")
    if result.get("status") != "failed" or not isinstance(code, str) or not _FAILURE_CODE.fullmatch(code):
        return None
    status = count_in(found.get("http_status"))
    return Failure(
        code,
        message[:MAX_FAILURE_CHARS] if isinstance(message, str) else "",
        status if status is not None and _HTTP_STATUS[0] <= status <= _HTTP_STATUS[1] else None,
        amount_in(found.get("retry_after_s")),
    )


class Result(_Message):
    """A result as it lies in an inbox: the execution record of one task. Read one with `decode_result`."""

    id: str
    type: Literal["task.result"]
    status: ResultStatus
    task: dict[str, Json]
    result: Json = None
    error: str | None = None
    completed_at: str | None = None

    @property
    def output_note(self) -> dict[str, Json]:
        """What it says of output that it holds only in part: `bytes`, `kept`, `sha256`, `file`."""
        return object_in((self.model_extra or {}).get("output"))

    @property
    def failure(self) -> Failure | None:
        """Why it has failed, as a code; None if it does not say."""
        return failure_in({"status": self.status, **(self.model_extra or {})})

    @property
    def run(self) -> Run | None:
        """What it says of the run of the agent; None if it says nothing."""
        return run_in(self.model_extra or {})

    @property
    def usage(self) -> UsageOfRuns | None:
        """What all runs of the task used and cost, as far as their agents told it; None if none did."""
        return with_run(earlier_in(self.model_extra or {}), self.run)

    @property
    def remark(self) -> str | None:
        """What is easily overlooked in it, for the one who reads it; None if there is nothing of the kind."""
        return "the command printed nothing" if self.status == "completed" and self.result == "" else None

    def to_json(self) -> dict[str, Json]:
        """The message as it was received or built, in the order of its fields; the values are not copied."""
        known = {name: value for name, value in self.__dict__.items() if name in self.model_fields_set}
        return {**known, **(self.model_extra or {})}

    @property
    def task_id(self) -> str:
        """The id of the task, or an empty string if the embedded task has none."""
        found = self.task.get("id")
        return found if isinstance(found, str) else ""

    @property
    def agent(self) -> str:
        """The id of the agent that the task was sent to, or an empty string if that cannot be read."""
        to = self.task.get("to")
        return subjects.agent_id(to) if isinstance(to, str) and subjects.is_agent_id(to) else ""

    @property
    def key(self) -> TaskKey | None:
        """The task that it says it is the result of; None if it names none."""
        if not self.agent or not subjects.is_task_id(self.task_id):
            return None
        owner = (self.model_extra or {}).get("owner", COORDINATOR)
        return TaskKey(self.agent, self.task_id, subjects.agent_id(owner)) if subjects.is_agent_id(owner) else None


def new_task(
    *,
    to: str,
    content: Json,
    task_type: str,
    payload_format: PayloadFormat = "text",
    sender: str = subjects.COORDINATOR,
    reply_to: str | None = None,
    task_id: str | None = None,
    group: str | None = None,
) -> Task:
    """Build a valid task; agent ids may come with or without the prefix.

    Raises:
        InvalidIdError: if an id is not valid.
        MessageError: if the task type is empty or too long, or the content does not fit the format, or a reader would
            get other content.
    """
    fields: dict[str, Json] = {
        "id": subjects.task_id(task_id) if task_id is not None else new_task_id(),
        "from": subjects.address(subjects.agent_id(sender)),
        "to": subjects.address(subjects.agent_id(to)),
        "reply_to": subjects.address(subjects.agent_id(reply_to if reply_to is not None else sender)),
        "type": "task.request",
        "task_type": task_type,
        "payload": {"fmt": payload_format, "content": content},
        "created_at": now(),
        **({GROUP: group_name(group)} if group is not None else {}),
    }
    data = encode(fields)
    if isinstance(content, str):  # what was encoded is read as it was
        task = _validate(Task, fields)
    else:
        task = decode_task(data)  # as a reader will see it: what cannot be carried fails here, not on the bus
        refuse_changes(data)  # keys that are not strings become such, and may be equal then
    if any(not char.isprintable() for char in task_type):
        raise MessageError("task_type must not hold control characters")
    return task


def new_result(
    task: Mapping[str, Json],
    *,
    result_id: str,
    status: ResultStatus,
    result: Json = "",
    error: str | None = None,
    failure: Failure | None = None,
    extra: Mapping[str, Json] | None = None,
) -> Result:
    """Build the result of `task`, which is embedded as it stands. `extra` adds further fields.

    Nothing is validated: the task may be a message that is no valid task, whose sender is told so.
    """
    fields: dict[str, Json] = {
        "id": result_id,
        "type": "task.result",
        "status": status,
        "task": dict(task),
        "result": result,
        **({"error": error} if error is not None else {}),
        **({"failure": failure.to_json()} if failure is not None else {}),
        "completed_at": now(),
        **(extra or {}),
    }
    return Result.model_construct(_fields_set=set(fields), **fields)


def decode_task(data: bytes) -> Task:
    """Read a task.

    Raises:
        MessageError: if it is not JSON, not an object, or not a task; says which field and why.
    """
    fields = _object(decode(data))
    _check_carriable(fields)
    return _validate(Task, fields)


def decode_result(data: bytes) -> Result:
    """Read a result.

    Raises:
        MessageError: if it is not JSON, not an object, or not a result; says which field and why.
    """
    result = _validate(Result, _object(decode(data)))
    if not result.id:  # made here only, for a task that was cancelled before a worker started it
        raise MessageError("id: is empty")
    return result


def _object(value: Json) -> dict[str, Json]:
    if isinstance(value, dict):
        return cast("dict[str, Json]", value)
    names: dict[type[object], str] = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    kind = next((name for type_, name in names.items() if isinstance(value, type_)), "a number")
    raise MessageError(f"a JSON object is needed, this is {kind}")


def _check_carriable(value: Json, levels: int = MAX_TASK_DEPTH) -> None:
    """Refuse what cannot be written again: numbers beyond a double, and nesting that a reader would refuse.

    Readers stop at a depth of 200; a result embeds the task, and the ledger embeds the result.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise MessageError("not a valid task: a number is too large")
    if isinstance(value, dict | list):
        if levels == 0:
            raise MessageError(f"not a valid task: nested deeper than {MAX_TASK_DEPTH} levels")
        inner = cast("dict[str, Json]", value).values() if isinstance(value, dict) else cast("list[Json]", value)
        for item in inner:
            if not isinstance(item, str):  # as most are, in each task that is read
                _check_carriable(item, levels - 1)


_M = TypeVar("_M", bound=BaseModel)


def _validate(model: type[_M], fields: Mapping[str, Json]) -> _M:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise MessageError(f"not a valid {model.__name__.lower()}: {fault_line(error, 'message')}") from None

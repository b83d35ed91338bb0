"""Defines the parameters that tools share: their bounds, and the variants that models write in their place."""

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema

from agentbus.errors import MessageError
from agentbus.protocol.json_codec import Json, decode, refuse_changes
from agentbus.protocol.listed.labels import MAX_GROUP_CHARS, is_group_name
from agentbus.protocol.messages import MAX_TASK_TYPE_CHARS
from agentbus.protocol.work.task_work import ref_fault
from agentbus_mcp.left_out import NULLS
from agentbus_mcp.replies.budget import ANSWER_BYTES, DetailLevel

MAX_TASKS: Final = 32
MAX_WAIT_S: Final = 240
"""Hosts give up on a call after four to five minutes."""
_MAX_INTEGER: Final = (1 << 53) - 1
"""The largest that every JSON reader keeps."""


def _as_list(value: Any) -> Any:
    """Take one id for a list of one: models write that now and then."""
    return [value] if isinstance(value, str) else value


def _as_given(value: Any) -> Any:
    """Leave out of the ids what models write where they have none, after a list that came as text was parsed."""
    ids = _as_list(value)
    return [one for one in ids if one not in NULLS] if isinstance(ids, list) else ids  # pyright: ignore[reportUnknownVariableType]


def _is_named(value: str) -> str:
    if value in NULLS:
        raise ValueError(f"{value!r} names nothing; leave an argument out that you have no value for")
    return value


# A string alone: some hosts refuse all tools where a schema has an object without properties, or an array without the
# type of its items. Any value is taken.
_ANY_JSON: Final[dict[str, Json]] = {"type": "string"}
if TYPE_CHECKING:
    Content = Json
else:
    # Declared as a string because the SDK parses as JSON what comes as a string for any other type, and a text that
    # happens to be JSON must arrive as it was written. The validator takes any value.
    Content = Annotated[str, PlainValidator(lambda value: value), WithJsonSchema(_ANY_JSON)]


def parse_content(content: Json) -> Json:
    """Decode a string that holds a JSON object or list: some hosts pass these as strings.

    Raises:
        MessageError: a reader would get something else.
    """
    if not isinstance(content, str):
        return content
    data = content.encode(errors="replace")
    try:
        value = decode(data)
    except MessageError:
        return content
    if not isinstance(value, dict | list):
        return content
    refuse_changes(data)
    return value  # pyright: ignore[reportUnknownVariableType]


_Name = Annotated[str, Field(max_length=70), AfterValidator(_is_named)]
_TaskId = Annotated[str, Field(max_length=128)]
_TaskName = Annotated[str, Field(max_length=200), AfterValidator(_is_named)]
"""An id, or an agent and an id; the tools take both, and `next` has the second."""
Targets = Annotated[
    list[_Name],
    BeforeValidator(_as_list),
    Field(min_length=1, max_length=MAX_TASKS, description="Ids of agents, e.g. ['code', 'doc']."),
]
TaskType = Annotated[
    str, Field(min_length=1, max_length=MAX_TASK_TYPE_CHARS, description="A short name of the kind, e.g. 'review_pr'.")
]
Inbox = Annotated[_Name | None, Field(description="Whose inbox gets the results; default: your own.")]
AgentFilter = Annotated[_Name | None, Field(description="Only this agent.")]
AgentOfTask = Annotated[_Name | None, Field(description="Its agent, if several have this id.")]
AgentOrInbox = Annotated[
    _Name | None,
    Field(description="Whose inbox, if not your own; or whose tasks."),
]
NewTaskId = Annotated[
    _TaskId | None,
    Field(description="An id of your own makes the call repeatable; for several agents it becomes <task_id>-<agent>."),
]
ContinuedTask = Annotated[
    _TaskName | None,
    Field(description="Go on with the conversation of this task of the same agent: in its session and folder."),
]
_Path = Annotated[str, Field(max_length=1_000)]


def _check_ref(value: str) -> str:
    if (fault := ref_fault(value)) is not None:
        raise ValueError(f"is no name of a branch, tag or commit: {fault}")
    return value


def _check_group(value: str) -> str:
    if not is_group_name(value):
        raise ValueError("is no name of a group: letters, digits, _ - and single dots inside")
    return value


_Ref = Annotated[str, Field(max_length=250), AfterValidator(_check_ref)]
Files = Annotated[
    list[_Path],
    BeforeValidator(_as_given),
    Field(max_length=MAX_TASKS, default_factory=list, description="Local paths to send."),
]
Base = Annotated[_Ref | None, Field(description="Commit or branch to start from.")]
Branch = Annotated[_Ref | None, Field(description="Branch to work on.")]
LeftFile = Annotated[
    Annotated[str, Field(max_length=512)] | None,
    Field(description="Read this one of `artifacts`."),
]
SaveTo = Annotated[_Path | None, Field(description="Local folder: save the artifact, or all, there.")]
Fresh = Annotated[
    bool,
    Field(description="If that session is gone, begin a new one with that task and its result."),
]
QuestionId = Annotated[
    Annotated[str, Field(max_length=230), AfterValidator(_is_named)],
    Field(description="The id of the question; for needs_approval that of the task."),
]
TaskId = Annotated[_TaskName, Field(description="The task: its id, or agent/id.")]
SomeTaskIds = Annotated[
    list[_TaskName],
    BeforeValidator(_as_list),
    Field(min_length=1, max_length=MAX_TASKS, description="The tasks: ids, or agent/id."),
]
TaskIds = Annotated[
    list[_TaskName],
    BeforeValidator(_as_given),
    Field(
        max_length=MAX_TASKS, default_factory=list, description="The tasks: ids, or agent/id. Without any: the inbox."
    ),
]
Cursor = Annotated[
    int | None,
    Field(ge=0, le=_MAX_INTEGER, description="Inbox: only what is behind this cursor."),
]
_Group = Annotated[str, Field(max_length=MAX_GROUP_CHARS), AfterValidator(_is_named), AfterValidator(_check_group)]
NewGroup = Annotated[_Group | None, Field(description="Name of the job, for watch_results.")]
Group = Annotated[_Group | None, Field(description="All tasks of this group.")]
ListCursor = Annotated[
    int | None, Field(ge=1, le=_MAX_INTEGER, description="Of an earlier answer: go on with older tasks.")
]
Text = Annotated[str, Field(max_length=2_000)]
ResponseFormat = Annotated[
    DetailLevel,
    Field(description="concise: 4 KB in all. detailed: more of each, with worker, attempt, times."),
]
MaxBytes = Annotated[
    int | None,
    Field(ge=100, le=ANSWER_BYTES, description="How much of each output; many results share 64 KiB."),
]
Offset = Annotated[
    int,
    Field(ge=0, le=_MAX_INTEGER, description="Of one task: read on from this byte (next_offset)."),
]
PayloadFormat = Annotated[
    Literal["text", "json"] | None,
    Field(description="Left out: text for a string, json for any other content."),
]
Timeout = Annotated[float, Field(ge=0, le=MAX_WAIT_S, description="Seconds to wait; 0 only looks.")]
WatchUntil = Annotated[
    Literal["any", "all"], Field(description="Return when all tasks have a result, or as soon as any has.")
]

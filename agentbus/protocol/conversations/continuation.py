"""The fields of a task that goes on with the conversation of an earlier one: `continue`, and `needs`.

Both are optional. A publisher that does not know them may have anything under their names, so they count only where
`needs` says so, and only in tasks of the second form, which workers of earlier versions never get.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Final, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from agentbus.errors import InvalidIdError, MessageError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json, object_in
from agentbus.protocol.outcomes.run_report import run_in
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.protocol.validation import fault_line

CONTINUE: Final = "continue"
"""The field, and the word in `needs`, of a task that goes on with a conversation."""
NEEDS: Final = "needs"
MAX_NEEDS: Final = 16
"""How many things one task may need: three are planned."""
MAX_SESSION_CHARS: Final = 200
"""The longest id of a session that is known has 60 characters."""
LONGEST_WAIT_S: Final = 6 * 86_400.0
"""The stream of tasks keeps a message for seven days: a task must have its result before it is gone."""
_MAX_NEED_CHARS: Final = 32
_PLACE: Final = "[0-9a-f]{16}-[0-9a-f]{8}"


def is_session_id(text: object) -> bool:
    """Whether a text may be the id of a session in the arguments of a command.

    It comes from the output of an agent: it must be no option, and hold nothing that a terminal or a shell acts on.
    """
    return (
        isinstance(text, str)
        and 0 < len(text) <= MAX_SESSION_CHARS
        and text.isascii()
        and text.isprintable()
        and not any(char in " \"'`$\\;&|<>*?(){}[]!#" for char in text)
        and not text.startswith(("-", "/", ".", "~"))
    )


def _check_session(text: str) -> str:
    if not is_session_id(text):
        raise ValueError("is no id of a session")
    return text


def _check_task(text: str) -> str:
    try:
        return subjects.task_id(text)
    except InvalidIdError as error:
        raise ValueError(str(error)) from None


def _check_owner(text: str) -> str:
    if not subjects.is_agent_id(text) or subjects.agent_id(text) != text:
        raise ValueError("is not the id of a coordinator")
    return text


class Continuation(BaseModel):
    """What the field `continue` of a task says.

    Attributes:
        task: the id of the task whose conversation goes on; one of the same agent.
        owner: the coordinator that published that one.
        session: of the agent, as the result of that task names it; None if it had no result at the publication.
        place: where that session is, likewise.
        fresh: whether a new conversation, which gets the earlier task and its result, is begun where that one is gone.
        wait_s: for how long to wait while no worker of the place is alive; None for what the worker's configuration
            says.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, defer_build=True)

    task: Annotated[str, AfterValidator(_check_task)]
    owner: Annotated[str, AfterValidator(_check_owner)] = COORDINATOR
    session: Annotated[str, AfterValidator(_check_session)] | None = None
    place: Annotated[str, StringConstraints(pattern=rf"^{_PLACE}$")] | None = None
    fresh: bool = False
    wait_s: Annotated[float, Field(ge=0, le=LONGEST_WAIT_S, allow_inf_nan=False)] | None = None

    def earlier(self, agent: str) -> TaskKey:
        """The task whose conversation goes on."""
        return TaskKey(agent, self.task, self.owner)

    def to_json(self) -> dict[str, Json]:
        """The value of the field, without what is not known."""
        found = self.model_dump(exclude_defaults=True)
        return {"task": self.task, **found}


def session_in(result: Mapping[str, Json]) -> tuple[str | None, str | None]:
    """Return the session that the run of a result has left, and its place; None twice if it has left none."""
    run = run_in(result)
    if run is None or not is_session_id(run.session) or re.fullmatch(_PLACE, run.place or "") is None:
        return None, None
    return run.session, run.place


def needs_of(fields: Mapping[str, Json]) -> tuple[str, ...]:
    """Return what the fields of a task say that it needs; nothing where the field holds something else."""
    found = fields.get(NEEDS)
    if not isinstance(found, list):
        return ()  # as nearly all tasks; each is asked three times
    listed = cast("list[Json]", found)
    words = [one for one in listed if isinstance(one, str) and 0 < len(one) <= _MAX_NEED_CHARS]
    return tuple(dict.fromkeys(words)) if len(words) == len(listed) <= MAX_NEEDS else ()


def continuation_of(fields: Mapping[str, Json]) -> Continuation | None:
    """Return what the fields of a task say of the conversation with which it goes on; None if it needs none.

    Raises:
        MessageError: it needs one, and does not say which.
    """
    if CONTINUE not in needs_of(fields):
        return None
    try:
        return Continuation.model_validate(object_in(fields.get(CONTINUE)))
    except ValidationError as error:
        raise MessageError(f"not a valid task: {CONTINUE}.{fault_line(error, 'the whole')}") from None


def identity_of(fields: Mapping[str, Json]) -> list[Json]:
    """Return what these fields add to the identity of a task: nothing where they do not stand.

    Session and place are not part of it: the same task that is published again may know them by then.
    """
    if not (needs := needs_of(fields)):
        return []
    said = object_in(fields.get(CONTINUE)) if CONTINUE in needs else {}
    return [{NEEDS: sorted(needs), CONTINUE: [said.get(name) for name in ("task", "owner", "fresh", "wait_s")]}]

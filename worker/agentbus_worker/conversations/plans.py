"""What a run goes on with, as it was found out before the claim; what its agent and its followers are told of that."""

import json
from dataclasses import dataclass
from typing import Final, TypeAlias

from agentbus.protocol.json_codec import object_in
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.outcomes.failure_codes import FailureCode
from agentbus_worker.conversations.sessions import Session, SessionLock

_MAX_EARLIER_CHARS: Final = 32_768
"""Of an earlier task, and of its result: what is given to an agent that knows neither. Both fit into one argument."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """A new session for a task that was to go on with one that is gone; `earlier` is the task that it went on from."""

    why: str
    earlier: Record | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The task can go on with nothing."""

    why: str
    code: FailureCode


@dataclass(frozen=True, slots=True)
class Resumption:
    """A session that the task goes on with, which this process has the lock of.

    Attributes:
        task: the task whose conversation goes on.
        fresh: whether a new session is begun where the agent no longer has it.
        interrupted: whether the last run in the session was one of this task, and did not end by itself.
    """

    session: Session
    lock: SessionLock
    task: str
    fresh: bool
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Repetition:
    """A run after an earlier one of the same task, with nothing of that but what lies in the working folder."""

    why: str


Plan: TypeAlias = Beginning | Refusal | Resumption | Repetition


def preface_of(plan: Plan | None) -> str:
    """Return what the prompt says of the conversation; nothing where a task goes on with none."""
    match plan:
        case Resumption(interrupted=True):
            return (
                "You have begun this task before, in this conversation, and that run was ended before you were done. "
                "Go on from where it stopped. What you did last may be done, in part or not at all: look before you "
                "do it again."
            )
        case Resumption(task=task):
            return (
                f"It goes on with the conversation that you have had about the task {task}: you know what was said "
                "and done there."
            )
        case Beginning():
            return _without_conversation(plan)
        case _:
            return ""


def _without_conversation(plan: Beginning) -> str:
    start = "It goes on with an earlier task, and the conversation about that is gone: you know nothing of it"
    if plan.earlier is None:
        return f"{start}."
    result = plan.earlier.entry.result or {}
    asked, answered = object_in(result.get("task")).get("payload"), result.get("result")
    said = answered if isinstance(answered, str) else json.dumps(answered, ensure_ascii=False)
    return "\n\n".join(
        (
            f"{start} but what follows.",
            f"The earlier task, as JSON:\n{_shortened(json.dumps(asked, ensure_ascii=False))}",
            f"What came of it ({result.get('status')}):\n{_shortened(said)}",
        )
    )


def told_of(plan: Plan | None) -> str:
    """Return what a log, and those who follow the run, are told of an earlier run of its task; nothing of the first."""
    match plan:
        case Resumption(interrupted=True):
            return "goes on in the session of its last run, which was interrupted"
        case Repetition(why):
            return f"begins anew: {why}"
        case _:
            return ""


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_EARLIER_CHARS else text[:_MAX_EARLIER_CHARS] + " … (shortened)"

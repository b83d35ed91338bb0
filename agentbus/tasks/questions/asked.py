"""Questions of agents as coordinators see them: those of a run that goes on, and tasks that ended with a request."""

from dataclasses import dataclass
from typing import Literal

from agentbus.protocol.json_codec import Json
from agentbus.protocol.questions.asked_call import AskedCall, asked_call_in
from agentbus.protocol.questions.question import Question
from agentbus.protocol.questions.question_ids import question_id
from agentbus.protocol.questions.questions_of_entries import QuestionState, state_of
from agentbus.tasks import approvals
from agentbus.tasks.listing.task_list import Searched
from agentbus.tasks.questions.describe import question_json, still_asked
from agentbus.tasks.status import TaskStatus

QuestionKind = Literal["permission", "approval"]


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question that waits for a person. The agent has written its texts: they are data, never instructions.

    Attributes:
        status: the task that asks.
        question: what the run of a task asks that goes on; None of a task that has ended as `needs_approval`.
    """

    status: TaskStatus
    question: Question | None = None

    @property
    def id(self) -> str:
        """The id that an answer names: `code/job-1#1a2b3c4d-1`, or `code/job-1` of a task that has ended."""
        return question_id(self.status.name, self.question)

    @property
    def kind(self) -> QuestionKind:
        """`permission`: a run is held up, or was interrupted. `approval`: the answer starts a follow-up task."""
        return "approval" if self.question is None else "permission"

    @property
    def state(self) -> QuestionState:
        """`open`, or `interrupted`: an answer is kept for the next attempt, if that asks for the same."""
        return "open" if self.question is None else state_of(self.status.record.entry, self.question)

    @property
    def _call(self) -> Question | AskedCall | None:
        """What tells of the operation; of a task that has ended, the call before which it did, if it says one."""
        if self.question is not None:
            return self.question
        result = self.status.result
        call = None if result is None else asked_call_in(result.model_extra or {})
        return call if call is not None and call.arguments_digest else None

    @property
    def operation(self) -> str:
        """The tool, or the kind of tool; empty where only the text says what the agent wants to do."""
        match self._call:
            case Question(operation=name) | AskedCall(tool=name):
                return name
            case None:
                return ""

    @property
    def arguments(self) -> Json:
        """What it is to be used with; a text with the beginning of their JSON where `arguments_bytes` is not None."""
        return self._call.arguments if self._call is not None else None

    @property
    def arguments_bytes(self) -> int | None:
        """How long the JSON of the arguments is, where it was too long to be kept."""
        return self._call.arguments_bytes if self._call is not None else None

    @property
    def folder(self) -> str:
        """In which the agent works."""
        return self._call.folder if self._call is not None else ""

    @property
    def until(self) -> str | None:
        """When it is denied without an answer, by the server's clock; None of a task that has ended."""
        return self.question.until if self.question is not None else None

    @property
    def text(self) -> str:
        """What the agent says that it wants to do."""
        if self.question is not None:
            return self.question.text
        result = self.status.result
        return "" if result is None else approvals.question(result.result)

    @property
    def asked_at(self) -> str:
        """When it was asked: by the clock of its worker, or when the task ended by that of the server."""
        return self.status.record.changed_at.isoformat() if self.question is None else self.question.asked_at

    def to_json(self) -> dict[str, Json]:
        """Return a plain object; what is not known is left out."""
        status = self.status
        task: dict[str, Json] = {"task_id": status.task_id, "agent": status.agent, "owner": status.owner}
        task |= {"task_type": status.record.entry.task_type, "kind": self.kind}
        if self.question is not None:
            return {**question_json(status.record.entry, status.name, self.question), **task}
        known: dict[str, Json] = {
            "operation": self.operation or None,
            "arguments": self.arguments,
            "arguments_bytes": self.arguments_bytes,
            "folder": self.folder or None,
        }
        found: dict[str, Json] = {"id": self.id, "state": self.state, "text": self.text, "asked_at": self.asked_at}
        return {**found, **task, **{name: value for name, value in known.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class QuestionList(Searched):
    """Questions that wait for a person, those of the task that changed last first.

    How far the search came: see `agentbus.tasks.listing.task_list.Searched`.
    """

    questions: list[AskedQuestion]


def asked_by(status: TaskStatus) -> list[AskedQuestion]:
    """Return what the run of an unsettled task asks; see `still_asked`."""
    return [AskedQuestion(status, question) for question in still_asked(status.record.entry)]

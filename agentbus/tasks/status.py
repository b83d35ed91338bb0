"""The status of a task as coordinators see it, read from its ledger entry."""

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Final

from agentbus.errors import CorruptEntryError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json, encode, object_in
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.listed.labels import about_result, group_in
from agentbus.protocol.messages import Failure, Result, decode_result, failure_in
from agentbus.protocol.outcomes.run_report import Run, run_in
from agentbus.protocol.outcomes.usage_of_runs import UsageOfRuns
from agentbus.protocol.subjects import COORDINATOR
from agentbus.protocol.task_names import TaskName, name_for
from agentbus.tasks.questions.describe import questions_json, still_asked

if TYPE_CHECKING:
    from agentbus.tasks.presence import PausedWorker


class Loss(Enum):
    """How sure it is that the queue has no message of a queued task, so that no worker will get it."""

    PROVED = "is lost: the queue does not hold it, so no worker will get it; publish it again with its id, or cancel it"
    POSSIBLE = "may be lost: the queue holds less than is queued; publish it again with its id, or ask an operator"


_SETTLED_AS_LOST: Final = "was lost: the queue did not hold it, and it is settled; publish it as a new task"


@dataclass(frozen=True)  # without slots: the parsed result is kept in the instance
class TaskStatus:
    """One task as its ledger entry describes it.

    Attributes:
        asker: the coordinator that looks at it, for `name`.
        loss: whether the task is lost, as far as was looked for; None where it is not.
    """

    record: Record
    asker: str = COORDINATOR
    loss: Loss | None = None

    @property
    def task_id(self) -> str:
        """The id of the task."""
        return self.record.task_id

    @property
    def agent(self) -> str:
        """The id of the agent that the task was sent to."""
        return self.record.agent

    @property
    def group(self) -> str | None:
        """The group that the task was published in; None if in none."""
        return self.record.entry.group or group_in(self.record.headers)

    @property
    def about(self) -> str:
        """The first words of its content, as far as they are known."""
        entry = self.record.entry
        return entry.about or (about_result(entry.result) if entry.result else "")

    @property
    def name(self) -> TaskName:
        """The name by which the coordinator that looks finds the task again; see `name_for`."""
        return name_for(self.asker, self.record.key)

    @property
    def owner(self) -> str:
        """The id of the coordinator that published the task; `main` for publishers that are not agentbus, too."""
        return self.record.owner

    @property
    def state(self) -> str:
        """queued, working, completed, failed, needs_approval or cancelled.

        A queued task with a cancel request is cancelled: no worker starts it. Its result message is written when a
        worker receives it.
        """
        entry = self.record.entry
        return "cancelled" if entry.state == "queued" and entry.cancel is not None else entry.state

    @property
    def continues(self) -> str | None:
        """The task whose conversation this one goes on with, by its name; None of one that began its own."""
        said = self.record.entry.continues
        return str(name_for(self.asker, said.earlier(self.agent))) if said else None

    @property
    def waits_for(self) -> str | None:
        """What a queued task waits for that not every worker of its agent has: the `place` of its conversation."""
        return "place" if self.state == "queued" and self.record.entry.continues is not None else None

    @property
    def failure(self) -> Failure | None:
        """Why it has failed, as a code; None if it has not, or if its result does not say."""
        return failure_in(self._of_result)

    @property
    def error(self) -> str | None:
        """The error of its result, or the beginning of it in a list without results."""
        error = self._of_result.get("error")
        return error if isinstance(error, str) else None

    @property
    def _of_result(self) -> dict[str, Json]:
        """The result message, or what a summary says of it."""
        summary = self.record.summary
        if summary is None:
            return self.record.entry.result or {}
        found = {"error": summary.error, "failure": summary.failure, "run": summary.run}
        return {"status": self.record.entry.state, **found}

    @property
    def run(self) -> Run | None:
        """What its result says of the run of the agent; None if it says nothing, or if there is none.

        In a list without results it has the model, the tokens and the cost, and nothing else of it.
        """
        return run_in(self._of_result)

    @property
    def usage(self) -> UsageOfRuns | None:
        """What all runs of the task used and cost, as far as their agents have told it; None if none has."""
        return self.record.entry.earlier_with(self.run)

    @property
    def cost_usd(self) -> float | None:
        """What all runs of the task cost; None if no agent has told any."""
        return self.usage.cost_usd if self.usage and self.usage.with_cost else None

    @property
    def state_in_words(self) -> str:
        """The state for people, with the code of a failure, as `failed (not_ended)`, or with what it waits for."""
        waits = f"waits for its {self.waits_for}" if self.waits_for else ""
        more = self.failure.code if self.failure else "asks for an answer" if self.asks else waits
        return f"{self.state} ({more})" if more else self.state

    @property
    def asks(self) -> bool:
        """Whether its run, or one that was interrupted, waits for a person; see `Coordinator.questions`."""
        return bool(still_asked(self.record.entry))

    @property
    def settled(self) -> bool:
        """Whether the task is at its end: it has its result, or was cancelled before it started."""
        return self.record.entry.terminal or self.state == "cancelled"

    @property
    def loss_note(self) -> str | None:
        """What a person can do about a lost task; None of any other, and of one that a worker has got after all."""
        if self.loss is None or self.record.entry.state == "working":
            return None
        return _SETTLED_AS_LOST if self.settled else self.loss.value

    @cached_property
    def result(self) -> Result | None:
        """The result; None while the task has none, and in a list without results. Parsed once."""
        message = self.record.entry.result
        return None if message is None else decode_result(encode(message))

    @property
    def output_note(self) -> dict[str, Json]:
        """How the result describes an output that it holds only in part: `bytes`, `kept`, `sha256`, `file`."""
        return object_in((self.record.entry.result or {}).get("output"))

    def _summary(self) -> dict[str, Json]:
        """What a result says in a few words."""
        failure, run = self.failure, self.run.figures if self.run else None
        return {"failure": failure.to_json() if failure else None, "run": run.to_json() if run else None}

    def to_json(self, *, with_result: bool = True) -> dict[str, Json]:
        """Return a plain object: state, times, attempt, worker, and the result if there is one.

        Without the result, it still has the `failure` of one, and of the `run` the model, the tokens and the cost.
        """
        entry = self.record.entry
        claim = entry.claim if entry.state == "working" else None
        account: dict[str, Json] = {
            "id": self.task_id,
            "agent": self.agent,
            "owner": self.owner,
            "group": self.group,
            "about": self.about or None,
            "state": self.state,
            "waits_for": self.waits_for,
            "task_type": entry.task_type,
            "from": entry.sender,
            "reply_to": subjects.address(entry.inbox),
            "created_at": entry.created_at,
            "attempt": entry.attempt or None,
            "worker": claim.worker if claim else None,
            "working_since": claim.since if claim else None,
            "changed_at": self.record.changed_at.isoformat(),
            "questions": questions_json(entry, self.name),
            "answered_by": entry.answered_by,
            "continues": self.continues,
            "cancel": entry.cancel.model_dump() if entry.cancel else None,
            "setbacks": entry.setbacks.model_dump() if entry.setbacks else None,
            "lost": self.loss_note,
            "earlier_runs": entry.earlier.to_json() if entry.earlier else None,
            **({"result": entry.result} if with_result else self._summary()),
        }
        return {key: value for key, value in account.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Waited:
    """The outcome of a wait, by task id; where several of the tasks have the same id, by their names, as `code/job-1`.

    Attributes:
        settled: the tasks that have their result, or were cancelled before they started.
        pending: the others; of one whose entry became unreadable meanwhile, the state that was seen last.
        unreadable: why the present state of a task cannot be read. A wait does not go on for such tasks alone.
        current: whether the bus answered at the end. If not, the states are those seen last.
        paused: the agents of queued tasks that no worker takes now, because all its living workers are paused, and why;
            as far as this user may see workers, and as they were seen last.
    """

    settled: dict[str, TaskStatus]
    pending: dict[str, TaskStatus]
    current: bool = True
    unreadable: dict[str, CorruptEntryError] = field(default_factory=dict[str, CorruptEntryError])
    paused: "dict[str, PausedWorker]" = field(default_factory=dict[str, "PausedWorker"])

"""The part of the Python API that lists what waits for a person, and answers it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentbus.bus.jetstream import Bus
from agentbus.protocol.roles import Role, default_role
from agentbus.task_handle import PublishedTask, TaskHandle
from agentbus.tasks.status import TaskStatus

if TYPE_CHECKING:
    from agentbus.tasks.questions.asked import QuestionList


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """An answer that is on the bus.

    Attributes:
        id: that of the question.
        approve: what was answered.
        task: the task that goes on: the one that asks or, where that has ended as `needs_approval`, its follow-up.
        known: whether the same answer had been given before.
        status: the task that asks, as it was then; None where there is a follow-up.
        follow_up: `task`, where it is one.
    """

    id: str
    approve: bool
    task: TaskHandle
    known: bool
    status: TaskStatus | None = None
    follow_up: PublishedTask | None = None


class CoordinatorQuestions:
    """A coordinator, as far as questions need one."""

    def __init__(self, bus: Bus, agent: str, role: Role | None) -> None:
        """See `Coordinator`."""
        self.bus = bus
        self.agent = agent
        self.role: Role = role or default_role(agent)

    def _owner(self, owner: str | None) -> str | None:
        """Return whose tasks to look for: a member sees its own only."""
        return self.agent if owner is None and self.role == "member" else owner

    async def questions(
        self,
        *,
        agent: str | None = None,
        limit: int = 50,
        cursor: int | None = None,
        search_s: float = 2.0,
        group: str | None = None,
        task_type: str | None = None,
        text: str | None = None,
    ) -> "QuestionList":
        """List what waits for a person: questions of runs, and tasks that ended as `needs_approval` without an answer.

        Their texts are the agents': data, never instructions. A member sees those of its own tasks.

        Args:
            limit: of how many tasks; each asks up to 16 questions at a time.
            cursor: that of an earlier list, which this one continues towards older tasks. A running task moves to the
                front with each renewal of its lease.
            search_s: about how long to search; see `QuestionList.partial`.
            group, task_type: only questions of tasks of this group, or of this type.
            text: only questions with this in their id, in what they ask, or in the first words of their task.

        Raises:
            InvalidIdError, MessageError: `agent` or `group` is not an id, or `limit` is not from 1 to 200.
        """
        from agentbus.tasks.listing.wanted import Wanted
        from agentbus.tasks.questions.question_list import list_questions

        wanted = Wanted.of(self, agent, group=group, task_type=task_type, text=text)
        return await list_questions(self.bus, wanted, limit=limit, cursor=cursor, search_s=search_s)

    async def answer_question(
        self, question_id: str, *, approve: bool, comment: str = "", agent: str | None = None
    ) -> AnsweredQuestion:
        """Approve or deny what an agent asks for. The first answer counts; repeating the same one is harmless.

        A run that waits goes on with it, and learns of a denial. If the run was interrupted, the answer is kept for the
        next attempt, and given if that asks for the same operation with the same arguments. A task that has ended as
        `needs_approval` is answered by a follow-up; see `TaskHandle.answer`.

        Args:
            question_id: that of a list, such as `code/job-1#1a2b3c4d-1`; for a task that has ended, that of the task.
            agent: the agent of the task, where the id does not name it and several have one of this id.

        Raises:
            QuestionAnsweredError: it has another answer, or that of another party, which the message names.
            NoApprovalPendingError, NoQuestionError: this is not asked, or not any more.
            InvalidIdError, TaskNotFoundError: there is no such task.
        """
        from agentbus.protocol.questions.question_ids import parse_question_id
        from agentbus.tasks.questions.answers import answer

        wanted = parse_question_id(question_id)
        name = wanted.task.of(agent)
        owner = self._owner(name.owner)
        task = TaskHandle(self.bus, name.task_id, name.agent, coordinator=self.agent, owner=owner)
        if wanted.part is None:
            sent = await task.answer(approve=approve, comment=comment)
            return AnsweredQuestion(question_id, approve, sent, sent.known, follow_up=sent)
        given = await answer(self.bus, task.query, wanted.part, by=self.agent, allow=approve, comment=comment)
        status = given.asked.status
        task = TaskHandle(self.bus, status.task_id, status.agent, coordinator=self.agent, owner=status.owner)
        return AnsweredQuestion(given.asked.id, approve, task, given.known, status)

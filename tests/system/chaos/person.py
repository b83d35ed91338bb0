"""The person of a storm, who answers what agents ask; and whether each answer had its effect once, and no other one."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

from agentbus import Coordinator
from agentbus.errors import BusUnavailableError, NoQuestionError, QuestionAnsweredError
from agentbus.tasks.questions.asked import AskedQuestion
from system.chaos.fleet import Events
from system.chaos.plan import ASKER, PlannedTask

Insist: TypeAlias = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]

_LOOK_S: Final = 0.3
_SLOW_S: Final = 3.0
"""The longest time that an answer takes: its worker may die meanwhile, or its task be cancelled."""
_TWICE: Final = 0.3
"""The share of the questions that two people answer at once, in opposite ways."""


class Person:
    """Answers questions, each by chance."""

    def __init__(self, coordinator: Coordinator, events: Events, seed: int, insist: Insist) -> None:
        """`insist` repeats a step while the bus is away."""
        self._coordinator = coordinator
        self._events = events
        self._rng = random.Random(seed)
        self._insist = insist
        self._begun: set[str] = set()
        self._unsure: set[tuple[str, bool]] = set()  # the bus went away while these were given
        self._counted: dict[str, list[tuple[str, bool]]] = {}  # of each task: which questions were answered, and how
        self._perhaps: dict[str, list[tuple[str, bool]]] = {}  # the same, where the end of the task came first

    async def run(self) -> None:
        """Answer what is asked, until this is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                with suppress(BusUnavailableError):
                    for question in (await self._coordinator.questions(agent=ASKER)).questions:
                        if question.id not in self._begun:
                            self._begun.add(question.id)
                            group.create_task(self._answer(question))
                await asyncio.sleep(_LOOK_S)

    async def _answer(self, question: AskedQuestion) -> None:
        approve, twice = self._rng.random() < 0.6, self._rng.random() < _TWICE
        await asyncio.sleep(self._rng.uniform(0, _SLOW_S))
        ways = (approve, not approve) if twice else (approve,)
        await asyncio.gather(*(self._insist(lambda way=way: self._answer_once(question, way)) for way in ways))

    async def _answer_once(self, question: AskedQuestion, approve: bool) -> None:
        comment = "" if approve else "not in a storm"
        try:
            await self._coordinator.answer_question(question.id, approve=approve, comment=comment)
        except BusUnavailableError:
            self._unsure.add((question.id, approve))
            raise
        except (NoQuestionError, QuestionAnsweredError) as error:
            self._events.note("late answer", f"{question.id}: {error}")
            if (question.id, approve) in self._unsure and isinstance(error, NoQuestionError):
                self._perhaps.setdefault(question.status.task_id, []).append((question.id, approve))
            return
        self._events.note("answer", f"{question.id} {'approved' if approve else 'denied'}")
        self._counted.setdefault(question.status.task_id, []).append((question.id, approve))

    async def faults(self, tasks: Sequence[PlannedTask], uses: Path) -> list[str]:
        """What is wrong with what the agents did, once all tasks are settled."""
        lines = uses.read_text(encoding="utf-8").splitlines() if uses.exists() else []
        used, wrong = Counter(line.split()[0] for line in lines), list[str]()
        for task in tasks:
            if task.kind == ASKER:
                wrong += [f"{task.task_id}: {fault}" for fault in await self._faults_of(task, used[task.task_id])]
        return wrong

    async def _faults_of(self, task: PlannedTask, used: int) -> list[str]:
        counted, perhaps = self._counted.get(task.task_id, []), self._perhaps.get(task.task_id, [])
        twice = [name for name, times in Counter(name for name, _ in counted).items() if times > 1]
        ways = [approve for _, approve in (*counted, *perhaps)]
        approvals = sum(ways)
        faults = [f"two answers to {name} were taken" for name in twice]
        if used > approvals:
            faults.append(f"it was done {used} times, and approved {approvals} times")
        status = await self._coordinator.task(task.task_id, agent=task.agent).status()
        if status.state != "completed" or status.result is None:
            return faults
        said = status.result.result.strip()
        if said == f"allowed {task.task_id}":
            return faults if used else [*faults, "it says that it was allowed, and has done nothing"]
        if said != f"denied {task.task_id}":
            return [*faults, f"the answer is {said[:200]!r}"]
        return faults if approvals < len(ways) else [*faults, "it was denied, and no person has denied it"]

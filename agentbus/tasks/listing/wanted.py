"""Which tasks a list shows: what headers of ledger entries tell of that, and what only the entries do."""

from dataclasses import dataclass
from typing import Any, Protocol, Self

from agentbus.bus.reading.backwards import Read
from agentbus.protocol import subjects
from agentbus.protocol.headers import GROUP, STATE, is_first
from agentbus.protocol.ledger_entry import TERMINAL, State
from agentbus.protocol.listed.labels import group_name
from agentbus.protocol.roles import Role
from agentbus.protocol.subjects import COORDINATOR
from agentbus.tasks.status import TaskStatus


class Asker(Protocol):
    """A coordinator, as far as a list needs one."""

    agent: str
    role: Role


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which tasks are shown, and to whom.

    Attributes:
        agent: only those of this agent.
        owner: only those of this owner.
        state: only those in this state.
        asker: the coordinator that looks.
        with_results: whether each has its result. Without, no result is read.
        settled: only those that have a result.
        is_open: only those that are queued, or that workers are running.
        group: only those of this group.
        task_type: only those of this type.
        text: only those that have this in their id, their first words, or their error, in letters of any case.
    """

    agent: str | None = None
    owner: str | None = None
    state: State | None = None
    asker: str = COORDINATOR
    with_results: bool = True
    settled: bool = False
    is_open: bool = False
    group: str | None = None
    task_type: str | None = None
    text: str | None = None

    @classmethod
    def of(
        cls,
        asker: Asker,
        agent: str | None = None,
        owner: str | None = None,
        *,
        group: str | None = None,
        text: str | None = None,
        **filters: Any,
    ) -> Self:
        """Return what a list of a coordinator with these filters shows, without results: of a member, its own tasks.

        Raises:
            InvalidIdError: an agent, an owner or a group is not an id.
        """
        whose = subjects.agent_id(owner) if owner else asker.agent if asker.role == "member" else None
        return cls(
            subjects.agent_id(agent) if agent else None,
            whose,
            asker=asker.agent,
            with_results=False,
            group=group_name(group) if group else None,
            text=text or None,
            **filters,
        )

    @property
    def subject(self) -> str:
        """What covers the entries of all of them."""
        return subjects.states(self.agent or "*", self.owner)

    @property
    def is_search(self) -> bool:
        """Whether any number of entries may lie between two of them."""
        by_entry = (self.state, self.group, self.task_type, self.text)
        return self.settled or self.is_open or self.owner == COORDINATOR or any(one is not None for one in by_entry)

    def may_be(self, entry: Read) -> bool:
        """Whether an entry may be shown. A queued one may be cancelled: the request stands in its value only."""
        if self.state is not None or self.settled or self.is_open:
            state = entry.headers.get(STATE)
            if state is not None and not self._may_be_in(state, entry):
                return False
        if self.group is not None and entry.headers.get(GROUP, self.group) != self.group:
            return False
        if subjects.parse_mcp_task(entry.subject) is not None:
            return False
        if self.owner == COORDINATOR:  # the subject does not tell its tasks from those of other owners
            task = subjects.parse_state(entry.subject)
            return task is None or task.owner == self.owner
        return True

    def _may_be_in(self, state: str, entry: Read) -> bool:
        if self.state is not None and state != self.state:
            was_changed = state == "queued" and not is_first(entry.headers)
            if self.state != "cancelled" or not was_changed:
                return False
        return not (self.settled and state not in TERMINAL) and not (self.is_open and state in TERMINAL)

    def is_met_by(self, found: TaskStatus) -> bool:
        """Whether a task that may be shown by its headers is one of them."""
        entry = found.record.entry
        return (
            self.state in (None, found.state)
            and (entry.terminal or not self.settled)
            and not (self.is_open and found.settled)
            and self.group in (None, found.group)
            and self.task_type in (None, entry.task_type)
            and (self.text is None or self.text.casefold() in _searched(found))
        )


def _searched(found: TaskStatus) -> str:
    return "\n".join((found.task_id, found.about, found.error or "")).casefold()

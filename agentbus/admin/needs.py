"""What of a bus needs a person: questions, lost tasks, agents that take none, and failures, in this order."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from agentbus.agent_overview import AgentOverview
from agentbus.protocol.json_codec import Json, encode
from agentbus.tasks.questions.asked import AskedQuestion
from agentbus.tasks.status import TaskStatus

NeedKind = Literal["question", "approval", "lost", "paused", "no_worker", "failed"]
KINDS: Final[tuple[NeedKind, ...]] = ("question", "approval", "lost", "paused", "no_worker", "failed")
"""In the order in which a person looks."""
MOST_OF_A_KIND: Final = 10
"""How many are named; of the others it is said how many there are."""
_FAILED_WITHIN: Final = timedelta(days=1)
_TEXT_CHARS: Final = 300


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that needs a person.

    Attributes:
        agent: the agent that it is about.
        text: what it is, on one line; agents write parts of it.
        do: the command that a person can go on with.
        since: since when, as far as that is known.
        status: the task that it is about; None of an agent.
    """

    kind: NeedKind
    agent: str
    text: str
    do: str
    since: datetime | None = None
    status: TaskStatus | None = None

    def to_json(self) -> dict[str, Json]:
        """Return it as a JSON object."""
        found: dict[str, Json] = {
            "kind": self.kind,
            "agent": self.agent,
            "task": str(self.status.name) if self.status else None,
            "about": (self.status.about or None) if self.status else None,
            "text": self.text,
            "do": self.do,
            "since": self.since.isoformat() if self.since else None,
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Needs:
    """All that needs a person, as far as an overview looks.

    Attributes:
        named: the most urgent kind first; of each kind at most `MOST_OF_A_KIND`.
        counts: how many there are of each kind that there is.
        asked: the questions of both kinds, also those that are not named.
    """

    named: list[Need]
    counts: dict[NeedKind, int]
    asked: list[AskedQuestion] = field(default_factory=list[AskedQuestion])

    @property
    def more(self) -> int:
        """How many are not named."""
        return sum(self.counts.values()) - len(self.named)


def needs_of(
    agents: Sequence[AgentOverview],
    asked: Sequence[AskedQuestion],
    settled: Sequence[TaskStatus],
    *,
    lost: Collection[TaskStatus],
    queued: Mapping[str, int],
    now: datetime,
) -> Needs:
    """Find what needs a person.

    Args:
        asked: the questions that wait for a person.
        settled: the tasks that were settled last.
        lost: those that workers have claimed which are gone.
        queued: how many tasks of an agent no worker runs.
    """
    found = [_of_question(one) if one.question is not None else _of_approval(one.status) for one in asked]
    found += [_of_lost(status, agents) for status in lost]
    found += [need for agent in agents for need in _of_agent(agent, queued.get(agent.agent, 0))]
    found += [
        _of_failure(one) for one in settled if one.state == "failed" and now - one.record.changed_at < _FAILED_WITHIN
    ]
    return _in_order(found, asked)


def _in_order(found: Sequence[Need], asked: Sequence[AskedQuestion]) -> Needs:
    of_kinds = {kind: [need for need in found if need.kind == kind] for kind in KINDS}
    named = [need for needs in of_kinds.values() for need in needs[:MOST_OF_A_KIND]]
    counts: dict[NeedKind, int] = {kind: len(needs) for kind in KINDS if (needs := of_kinds[kind])}
    return Needs(named, counts, [*asked])


def _of_question(question: AskedQuestion) -> Need:
    arguments = "" if question.arguments is None else encode(question.arguments).decode()
    says = f"{question.operation} {arguments}".strip() or question.text
    do = f"agentbus question answer {question.id} --approve"
    status = question.status
    return Need("question", status.agent, _line(says), do, _moment(question.asked_at), status)


def _of_approval(status: TaskStatus) -> Need:
    do = f"agentbus question answer {status.name} --approve"
    text = "has ended, and asks for approval"
    return Need("approval", status.agent, text, do, status.record.changed_at, status)


def _of_lost(status: TaskStatus, agents: Sequence[AgentOverview]) -> Need:
    claim = status.record.entry.claim
    others = any(one.online for one in agents if one.agent == status.agent)
    what = "another one takes it over once its lease is over" if others else "it waits for a worker"
    text = f"lost: its worker {claim.worker if claim else ''} is gone; {what}"
    do = f"agentbus task get {status.name}"
    return Need("lost", status.agent, _line(text), do, status.record.changed_at, status)


def _of_agent(agent: AgentOverview, queued: int) -> list[Need]:
    paused = [agent.paused_by.in_words] if agent.paused_by else list(agent.troubles)
    do = (
        f"agentbus agent resume {agent.agent}"
        if agent.paused or agent.paused_by
        else f"agentbus agent list --agent {agent.agent}"
    )
    found = [Need("paused", agent.agent, _line(text), do) for text in paused]
    if queued and not agent.online and agent.paused_by is None:
        tasks = "1 task waits" if queued == 1 else f"{queued} tasks wait"
        text = f"{tasks}, and no worker is alive"
        found.append(Need("no_worker", agent.agent, text, f"agentbus task list --agent {agent.agent} --state queued"))
    return found


def _of_failure(status: TaskStatus) -> Need:
    why = status.failure.code if status.failure else ""
    text = f"{f'{why}: ' if why else ''}{status.error or ''}"
    return Need(
        "failed", status.agent, _line(text), f"agentbus task get {status.name}", status.record.changed_at, status
    )


def _line(text: str) -> str:
    return " ".join(text.split())[:_TEXT_CHARS]


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None

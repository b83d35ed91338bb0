"""What the page shows of a task, a question or an agent in one row: short, bounded, and without hidden characters."""

from typing import Final

from agentbus.agent_overview import AgentOverview
from agentbus.protocol.json_codec import Json, object_in
from agentbus.protocol.outcomes.usage_of_runs import UsageOfRuns
from agentbus.protocol.progress.events import ProgressMessage
from agentbus.tasks.presence import Presence
from agentbus.tasks.questions.asked import AskedQuestion
from agentbus.tasks.status import TaskStatus
from agentbus.ui.shown_text import as_text, block, line

Row = dict[str, Json]
QUESTION_CHARS: Final = 600
"""Of what is asked for in a list. Where it is longer, a list has no buttons for it: no one approves half of it."""
_MOST_WORKERS: Final = 10
"""Of an agent: those in trouble first. `agentbus worker list` has all."""


def known(**fields: Json) -> Row:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None and value not in ("", [])}


def task_row(status: TaskStatus, told: ProgressMessage | None = None) -> Row:
    """Describe a task in a list."""
    entry, failure = status.record.entry, status.failure
    claim = entry.claim if entry.state == "working" else None
    return known(
        name=str(status.name),
        id=status.task_id,
        agent=status.agent,
        owner=status.owner,
        state=status.state,
        code=failure.code if failure else None,
        error=line(status.error) if status.error else None,
        type=line(entry.task_type, 60),
        about=line(status.about) if status.about else None,
        group=status.group,
        created_at=entry.created_at,
        changed_at=status.record.changed_at.isoformat(),
        since=claim.since if claim else None,
        worker=line(claim.worker, 80) if claim else None,
        attempt=entry.attempt if entry.attempt > 1 else None,
        waits_for=status.waits_for,
        lost=status.loss_note,
        asks=True if status.asks else None,
        cancelling=True if entry.cancel is not None and not status.settled else None,
        continues=status.continues,
        told=_told(told) if told else None,
        cost_usd=_cost(told, status.usage),
    )


def _told(message: ProgressMessage) -> Row:
    summary = message.summary()
    last = summary.get("last")
    return known(
        last=line(last) if isinstance(last, str) else None,
        kind=summary.get("kind"),
        at=summary.get("at"),
        elapsed_s=summary.get("elapsed_s"),
    )


def _cost(told: ProgressMessage | None, usage: UsageOfRuns | None) -> float | None:
    """What a task has cost so far: of a run that goes on, what it told last, or its last renewal, whichever is more."""
    costs = [
        *([told.spent.cost_usd] if told and told.spent.cost_usd is not None else []),
        *([usage.cost_usd] if usage and usage.with_cost else []),
    ]
    return round(max(costs), 6) if costs else None


def question_row(asked: AskedQuestion, *, whole: bool = False) -> Row:
    """Describe a question that waits for a person; `cut` where the row does not hold all of it."""
    most = 1 << 20 if whole else QUESTION_CHARS
    wanted = "" if asked.arguments is None else _wanted(asked.arguments)
    text, arguments = block(asked.text, most), block(wanted, most)
    cut = "chars" in text or "chars" in arguments or asked.arguments_bytes is not None
    return known(
        id=asked.id,
        name=str(asked.status.name),
        agent=asked.status.agent,
        owner=asked.status.owner,
        kind=asked.kind,
        state=asked.state,
        text=text["text"],
        operation=line(asked.operation, 100),
        arguments=arguments["text"],
        arguments_bytes=asked.arguments_bytes,
        folder=line(asked.folder),
        asked_at=asked.asked_at,
        until=asked.until,
        cut=True if cut else None,
    )


def _wanted(arguments: Json) -> str:
    """Return what is asked for, as a person reads it: a command that is all there is, or JSON over several lines."""
    found = object_in(arguments)
    command = found.get("command")
    return command if isinstance(command, str) and len(found) == 1 else as_text(arguments)


def agent_row(agent: AgentOverview) -> Row:
    """Describe an agent with its workers."""
    workers, paused = agent.workers, agent.paused_by
    shown = sorted(workers, key=lambda worker: not worker.troubles)[:_MOST_WORKERS]
    slots = {"slots": sum(one.slots for one in workers), "free": sum(one.free for one in workers)} if workers else {}
    described = next((worker.description for worker in workers if worker.description), "")
    return known(
        agent=agent.agent,
        online=agent.online,
        named=None if agent.named else False,
        description=line(described),
        waiting=agent.waiting,
        unacknowledged=agent.unacknowledged,
        paused_by=line(paused.in_words) if paused else None,
        paused=line(agent.paused.in_words) if agent.paused else None,
        troubles=[line(trouble) for trouble in agent.troubles[:5]],
        **slots,
        workers=[_worker(worker) for worker in shown],
        more_workers=max(0, len(workers) - _MOST_WORKERS) or None,
    )


def _worker(worker: Presence) -> Row:
    return known(
        instance=line(worker.instance, 80),
        host=line(worker.host, 80),
        version=line(worker.version, 40),
        command=line(worker.command, 120),
        slots=worker.slots,
        free=worker.free,
        running=[*worker.running[:8]],
        started_at=worker.started_at[:40],
        paused=line(worker.paused.in_words) if worker.paused else None,
    )


def is_same(one: Row, other: Row) -> bool:
    """Whether two rows show the same."""
    return one == other

"""What the page shows of one task: its content, when it waited and when it ran, its answer, its cost, and its work."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Literal

from agentbus.concurrently import concurrently
from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError, MessageError
from agentbus.protocol.conversations.continuation import session_in
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.messages import Task, decode_task
from agentbus.protocol.outcomes.run_report import Run
from agentbus.protocol.outcomes.usage_of_runs import UsageOfRuns
from agentbus.protocol.task_names import TaskName
from agentbus.tasks.approvals import answer_key
from agentbus.tasks.follow_ups import conversation_of
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.listing.continued import continued
from agentbus.tasks.progress.last import last_progress
from agentbus.tasks.questions.asked import AskedQuestion, asked_by
from agentbus.tasks.queue.queued_content import queued_task
from agentbus.tasks.status import TaskStatus
from agentbus.tasks.work.artifacts import artifacts_of, changes_of
from agentbus.ui.rows import Row, known, question_row, task_row
from agentbus.ui.shown_text import WHOLE_CHARS, as_text, block, line

Part = Literal["prompt", "answer"]
_TURNS_SHOWN: Final = 20
"""Of a conversation: the last ones, with what was said in each."""
_TURN_CHARS: Final = 4_000
_TURNS_AT_ONCE: Final = 8


async def task_page(bus: Coordinator, name: str) -> Row:
    """Read a task as its page shows it.

    Raises:
        InvalidIdError, TaskNotFoundError, BusError: there is no such task, or it cannot be read.
    """
    status = await bus.task(name).status()
    entry = status.record.entry
    told = None if status.settled else await last_progress(bus.bus, status.record.key)
    task = await _content(bus, status)
    result = status.result
    answered = await _answered(bus, status)
    return known(
        **task_row(status, told),
        prompt=block(_prompt(task)) if task is not None else None,
        answer=block(result.result) if result is not None and result.result not in (None, "") else None,
        failure=_failure(status),
        remark=result.remark if result is not None else None,
        sent_by=line(entry.sender, 100),
        completed_at=entry.settled_at,
        cancel=_cancel(status),
        retry_s=entry.retry_after_s if status.state == "queued" else None,
        last_failure=line(entry.last_failure, 500) if entry.last_failure and not status.settled else None,
        run=_run(status.run),
        usage=_usage(status.usage),
        questions=[question_row(asked, whole=True) for asked in _asks(status, answered=answered is not None)],
        answered_by=str(answered) if answered else None,
        work=_work(status),
        conversation=await _before(bus, status),
        **await _after(bus, status),
        can=_can(bus, status, answered=answered is not None),
    )


async def whole_text(bus: Coordinator, name: str, part: Part) -> str:
    """Return the whole prompt or answer of a task, up to 4 MB.

    Raises:
        InvalidIdError, TaskNotFoundError, BusError: there is no such task, or it cannot be read.
    """
    status = await bus.task(name).status()
    if part == "prompt":
        task = await _content(bus, status)
        found = _prompt(task) if task is not None else ""
    else:
        found = status.result.result if status.result is not None else ""
    return as_text(block(found, WHOLE_CHARS)["text"])


def _prompt(task: Task) -> Json:
    return task.payload.content if task.payload is not None else ""


async def _content(bus: Coordinator, status: TaskStatus) -> Task | None:
    """Return the task as it was published: from its result, or from the queue."""
    if status.result is None:
        return await queued_task(bus.bus, status)
    with suppress(MessageError):
        return decode_task(encode(status.result.task))
    return None


def _failure(status: TaskStatus) -> Row | None:
    error, failure = status.error, status.failure
    if error is None and failure is None:
        return None
    more = {"http_status": failure.http_status, "retry_after_s": failure.retry_after_s} if failure else {}
    return known(code=failure.code if failure else None, error=block(error or "", 4_000)["text"], **more)


def _cancel(status: TaskStatus) -> Row | None:
    cancel = status.record.entry.cancel
    return known(by=line(cancel.by, 100), reason=line(cancel.reason, 500), at=cancel.at) if cancel else None


def _run(run: Run | None) -> Row | None:
    if run is None:
        return None
    found = run.to_json()
    return known(
        kind=found.get("kind"),
        model=line(run.model, 100) if run.model else None,
        version=line(run.version, 60) if run.version else None,
        session=line(run.session, 200) if run.session else None,
        turns=run.turns,
        cost_usd=run.cost_usd,
        resumed=run.resumed,
        denied=[line(f"{one.tool}: {one.summary}") for one in run.denied],
        **run.usage.to_json(),
    )


def _usage(usage: UsageOfRuns | None) -> Row | None:
    return usage.to_json() if usage is not None else None


def _asks(status: TaskStatus, *, answered: bool) -> list[AskedQuestion]:
    if not status.settled:
        return asked_by(status)
    return [AskedQuestion(status)] if status.state == "needs_approval" and not answered else []


async def _answered(bus: Coordinator, status: TaskStatus) -> TaskName | None:
    """Return the follow-up that answers a task that ended with a request."""
    key = answer_key(status.record) if status.state == "needs_approval" else None
    if key is None:
        return None
    with suppress(AgentBusError):
        found = await Ledger(bus.bus).read(key)
        if isinstance(found, Record):
            return TaskStatus(found, bus.agent).name
    return None


def _work(status: TaskStatus) -> Row | None:
    if not status.settled:
        return None
    changes = changes_of(status)
    files: list[Json] = [
        known(name=line(one.name), bytes=one.bytes, media_type=one.media_type, file=one.name)
        for one in artifacts_of(status)
    ]
    if changes is None and not files:
        return None
    found = changes.to_json() if changes is not None else {}
    log = [line(one.title) for one in changes.log] if changes is not None else []
    short = {key: found[key] for key in ("commits", "files", "insertions", "deletions", "uncommitted") if key in found}
    branch = line(changes.branch) if changes is not None else None
    return known(files=files, changes=known(branch=branch, log=log, **short) if changes is not None else None)


async def _before(bus: Coordinator, status: TaskStatus) -> list[Json] | None:
    """Return the turns before this one, as far as they are known: who said what."""
    if not status.continues:
        return None
    names = [one for one in await conversation_of(bus.bus, status) if one != status.name]
    return await _turns(bus, names[-_TURNS_SHOWN:])


async def _after(bus: Coordinator, status: TaskStatus) -> Row:
    """Return the turns after this one, the first ones; and whether there may be more, as a look has its time.

    Only what has left a session, or has asked, has any.
    """
    session, _ = session_in(status.record.entry.result or {})
    if session is None and status.state != "needs_approval":
        return {}
    with suppress(AgentBusError):
        found = await continued(bus.bus, status, owner=bus.agent if bus.role == "member" else None)
        turns = await _turns(bus, [one.name for one in found.tasks[:_TURNS_SHOWN]])
        more = not found.whole or len(found.tasks) > _TURNS_SHOWN
        return known(later=turns or None, later_more=True if more else None)
    return {}


async def _turns(bus: Coordinator, names: Sequence[TaskName]) -> list[Json]:
    found = await concurrently(names, lambda name: _turn(bus, name), at_once=_TURNS_AT_ONCE)
    return [turn for turn in found if turn is not None]


async def _turn(bus: Coordinator, name: TaskName) -> Row | None:
    try:
        status = await bus.task(str(name)).status()
    except AgentBusError:
        return None
    task, result = await _content(bus, status), status.result
    return known(
        name=str(name),
        state=status.state,
        prompt=block(_prompt(task), _TURN_CHARS) if task is not None else None,
        answer=block(result.result, _TURN_CHARS) if result is not None else None,
    )


def _can(bus: Coordinator, status: TaskStatus, *, answered: bool) -> list[Json]:
    """Return which actions are of use now."""
    settled = status.settled
    session, _ = session_in(status.record.entry.result or {})
    may = {
        "cancel": not settled and status.record.entry.cancel is None,
        "retry": settled and status.result is not None,
        "follow_up": settled and session is not None and bus.agent in ("main", status.owner) and not answered,
    }
    return [name for name, can in may.items() if can]

"""Publishing a task that goes on with the conversation of an earlier one: what is checked before, and who is told."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import BusError, CannotContinueError, PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.conversations.continuation import CONTINUE, NEEDS, Continuation, continuation_of, session_in
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.ledger_entry import NoEntry, Record
from agentbus.protocol.messages import PayloadFormat, Task, decode_task, new_task
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.protocol.task_names import TaskName, name_for
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.listing.task_list import Search
from agentbus.tasks.listing.wanted import Wanted
from agentbus.tasks.presence import Presence, present
from agentbus.tasks.publish import Published, publish
from agentbus.tasks.status import TaskStatus
from agentbus.tasks.work.attachments import NONE, Attachments

MAX_WAITING: Final = 250
"""How many follow-ups may wait for one agent. Workers of other places hand each back again and again, and a consumer
that has 1000 deliveries without an acknowledgement gives out no more."""
_MOST_DELIVERED: Final = 500
"""Deliveries that are under way, those of running tasks included: half of that."""
_MOST_COUNTED: Final = 2_000
"""How many queued tasks of named coordinators are looked at for follow-ups."""
_COUNT_S: Final = 2.0
_LONGEST_CHAIN: Final = 50


@dataclass(frozen=True, slots=True)
class NewFollowUp:
    """What is to be published; for the fields see `Coordinator.publish` and `Continuation`."""

    content: Json
    task_type: str | None = None
    payload_format: PayloadFormat = "text"
    sender: str | None = None
    reply_to: str | None = None
    task_id: str | None = None
    to: str | None = None
    fresh: bool = False
    wait_s: float | None = None
    attachments: Attachments = NONE
    group: str | None = None


async def publish_follow_up(bus: Bus, status: TaskStatus, wanted: NewFollowUp, publisher: str) -> Published:
    """Publish a task that goes on with the conversation of the task of `status`, and tell the workers of its agent.

    One that has no result yet is waited for. `Published.note` says where no worker is alive at its place.

    Raises:
        CannotContinueError: it has left no session, is another agent's or another coordinator's, no living worker of
            the agent can go on with one, or too many wait already; nothing was sent.
        InvalidIdError, MessageError: an id, the type or the content is not valid; nothing was sent.
        BusError: see `agentbus.tasks.publish.publish`.
    """
    task = follow_up_task(status, wanted, publisher)
    known = isinstance(await Ledger(bus).read(TaskKey(task.agent, task.id, publisher)), Record)
    workers = await _workers(bus, task.agent)
    if not known:  # what is published again was accepted before
        _check_workers(workers or (), task.agent)
        await check_room(bus, task.agent, publisher)
    if wanted.attachments:
        from agentbus.tasks.work.sending import task_with  # noqa: PLC0415  # most tasks bring nothing

        task = await task_with(bus, task, wanted.attachments, publisher)
    published = await publish(bus, task, publisher)
    await tell(bus, task, publisher)
    if workers is None or published.state != "queued":
        return published
    return replace(published, note=_place_note(task, workers))


def follow_up_task(status: TaskStatus, wanted: NewFollowUp, publisher: str) -> Task:
    """Build the task.

    Raises:
        CannotContinueError: the earlier task has left no session, or is another agent's or another coordinator's.
        InvalidIdError, MessageError: see `publish_follow_up`.
    """
    record, earlier = status.record, status.name
    if wanted.to is not None and subjects.agent_id(wanted.to) != record.agent:
        raise CannotContinueError(
            f"the task {earlier} is one of the agent {record.agent}, and only that can go on with it, not {wanted.to}"
        )
    if publisher not in (COORDINATOR, record.owner):
        raise CannotContinueError(
            f"the task {earlier} is one of {record.owner}; only its owner and {COORDINATOR} may go on with it"
        )
    session, place = session_in(record.entry.result or {})
    if status.settled and session is None:
        raise CannotContinueError(f"the task {earlier} has left no session to go on with: {_why_none(status)}")
    said = Continuation(
        task=record.task_id,
        owner=record.owner,
        session=session,
        place=place,
        fresh=wanted.fresh,
        wait_s=float(wanted.wait_s) if wanted.wait_s is not None else None,
    )
    task = new_task(
        to=record.agent,
        content=wanted.content,
        task_type=wanted.task_type or record.entry.task_type,
        payload_format=wanted.payload_format,
        sender=wanted.sender or publisher,
        reply_to=wanted.reply_to,
        task_id=wanted.task_id,
        group=wanted.group or record.entry.group,
    )
    return decode_task(encode({**task.to_json(), NEEDS: [CONTINUE], CONTINUE: said.to_json()}))


def _why_none(status: TaskStatus) -> str:
    run = status.run
    if not status.record.entry.terminal:
        return "it was cancelled before it started"
    if run is None or run.session is None:
        return "its worker reads no session from what the agent prints; see output in [agent]"
    return "its worker does not keep sessions; set resume_cmd in [agent] there"


async def _workers(bus: Bus, agent: str) -> list[Presence] | None:
    """Return the living workers of an agent; None where this party may not see them."""
    try:
        return await present(bus, agent)
    except (PermissionDeniedError, SetupMissingError):
        return None


def _check_workers(workers: Sequence[Presence], agent: str) -> None:
    """Refuse a follow-up that no living worker of its agent can take: an agent without any is waited for."""
    if workers and not any(CONTINUE in (worker.needs or ()) for worker in workers):
        raise CannotContinueError(
            f"no living worker of the agent {agent} can go on with a conversation: they are of an earlier version, "
            "have no resume_cmd in [agent], or are on a bus of an older layout (agentbus init --upgrade)"
        )


async def check_room(bus: Bus, agent: str, publisher: str) -> None:
    """Refuse a follow-up where too many wait, as far as this party may see the queue.

    Raises:
        CannotContinueError: they do.
    """
    try:
        durables = {info.name: info for info in await bus.consumers(subjects.TASKS_STREAM)}
        queue = await bus.stream_info(subjects.TASKS_STREAM, subjects_filter=subjects.tasks_of(agent, "*"))
    except (PermissionDeniedError, SetupMissingError):
        return
    durable = durables.get(subjects.durable_of_parties(agent))
    if durable is not None and durable.num_ack_pending >= _MOST_DELIVERED:
        raise CannotContinueError(
            f"too many tasks of the agent {agent} are under way for follow-ups to find their places "
            f"({durable.num_ack_pending}); publish it again when some are done"
        )
    counts = queue.state.subjects or {}
    # Those of `main` in the second form are follow-ups and tasks that bring files; others have all their tasks there.
    waiting = counts.get(subjects.tasks_of(agent, COORDINATOR, second=True), 0)
    if sum(counts.values()) >= MAX_WAITING:
        waiting = await _waiting(bus, agent, publisher, waiting)
    if waiting >= MAX_WAITING:
        raise CannotContinueError(
            f"too many follow-ups wait for the agent {agent} ({waiting}, at most {MAX_WAITING}); publish it again when "
            "some are done"
        )


async def _waiting(bus: Bus, agent: str, publisher: str, of_main: int) -> int:
    """Count the follow-ups that wait for an agent, as far as this party may see.

    The ledger says which of the queued tasks are follow-ups: `main` sees all of them, others their own. To these, all
    that `main` has published in the second form (`of_main`) may be some.
    """
    sees_all = publisher == COORDINATOR
    owner = None if sees_all else publisher
    found: list[TaskStatus] = []

    def take(status: TaskStatus) -> None:
        if status.continues is not None and (sees_all or status.owner != COORDINATOR):
            found.append(status)

    wanted = Wanted(agent=agent, owner=owner, state="queued", asker=publisher, with_results=False)
    search = Search(bus, wanted, take, limit=_MOST_COUNTED, search_s=_COUNT_S)
    try:
        await search.backwards(_MOST_DELIVERED, None)
    except (PermissionDeniedError, SetupMissingError):
        return of_main
    return (0 if sees_all else of_main) + len(found)


async def tell(bus: Bus, task: Task, publisher: str) -> None:
    """Tell the workers of the place of a follow-up, so that the next free slot takes it before new tasks."""
    said = continuation_of(task.model_extra or {})
    if said is None:
        return
    told: dict[str, Json] = {"task": task.id, "owner": publisher, "of": said.task, "of_owner": said.owner}
    if said.place is not None:
        told["place"] = said.place
    try:
        await bus.publish(subjects.control(task.agent), encode({"follow_up": told}))
    except BusError:
        return  # it is on the bus, and is found without that, only later


async def with_place_note(bus: Bus, published: Published) -> Published:
    """Add to a follow-up that was published and waits that no worker is alive at its place, where that is so."""
    if published.state != "queued" or continuation_of(published.task.model_extra or {}) is None:
        return published
    workers = await _workers(bus, published.task.agent)
    return published if workers is None else replace(published, note=_place_note(published.task, workers))


def _place_note(task: Task, workers: Sequence[Presence]) -> str | None:
    """Say that no worker of the place of a follow-up is alive; None where one is, or that place is not known yet."""
    said = continuation_of(task.model_extra or {})
    if said is None or said.place is None or any(worker.place == said.place for worker in workers):
        return None
    then = "a new session gets the earlier task and its result" if said.fresh else "it fails with session_gone"
    return (
        f"no worker is alive where the session of {said.task} is; the task waits for one for as long as their "
        f"continue_wait_seconds says, 10 minutes by default, and then {then}"
    )


async def conversation_of(bus: Bus, status: TaskStatus) -> list[TaskName]:
    """Return the tasks of the conversation of a task, from the first one to this one; at most 50.

    What the ledger no longer has, or this party may not read, ends the chain.
    """
    chain, record = [status.name], status.record
    while (said := record.entry.continues) is not None and len(chain) < _LONGEST_CHAIN:
        key = said.earlier(record.agent)
        name = name_for(status.asker, key)
        if name in chain:
            break
        chain.append(name)
        try:
            found: Record | NoEntry = await Ledger(bus).read(key)
        except BusError:
            break
        if not isinstance(found, Record):
            break
        record = found
    return chain[::-1]

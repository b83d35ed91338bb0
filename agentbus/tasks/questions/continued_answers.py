"""Has an answer go on in the session of the run that asked, where its agent can: no work is done, and paid, twice."""

from agentbus.bus.jetstream import Bus
from agentbus.errors import PermissionDeniedError, SetupMissingError
from agentbus.protocol.conversations.continuation import CONTINUE, NEEDS, Continuation, session_in
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.messages import Task, decode_task
from agentbus.protocol.questions.answering import ANSWERS_OWNER
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.tasks.follow_ups import check_room
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.presence import present
from agentbus.tasks.status import TaskStatus


async def as_published(bus: Bus, status: TaskStatus, answer: Task, sender: str) -> Task:
    """Return an answer as it is published: in the session of the run that asked, or as a task that begins one.

    It begins one where that run has left no session, or no living worker of the agent can go on with one. One that was
    published before stays as it is. Where the session turns out to be gone, a new one gets the task and its question.

    Raises:
        CannotContinueError: too many tasks wait for sessions of the agent.
        BusError: the bus did not answer.
    """
    record = status.record
    if sender != record.owner:
        answer = decode_task(encode({**answer.to_json(), ANSWERS_OWNER: record.owner}))
    session, place = session_in(record.entry.result or {})
    if session is None or sender not in (COORDINATOR, record.owner):
        return answer
    said = Continuation(task=record.task_id, owner=record.owner, session=session, place=place, fresh=True)
    continued = decode_task(encode({**answer.to_json(), NEEDS: [CONTINUE], CONTINUE: said.to_json()}))
    known = await Ledger(bus).read(TaskKey(answer.agent, answer.id, sender))
    if isinstance(known, Record):
        return continued if known.entry.digest == continued.digest() else answer
    if not await _can_continue(bus, answer.agent):
        return answer
    await check_room(bus, answer.agent, sender)
    return continued


async def _can_continue(bus: Bus, agent: str) -> bool:
    """Whether a living worker of an agent can go on with a session; that of one without any will be waited for."""
    try:
        workers = await present(bus, agent)
    except (PermissionDeniedError, SetupMissingError):
        return True  # a worker has kept the session, so it could
    return not workers or any(CONTINUE in (worker.needs or ()) for worker in workers)

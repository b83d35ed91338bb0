"""Tasks that can never run: their message has left the task stream by age, and nobody has claimed them."""

from contextlib import suppress

from agentbus import subjects
from agentbus.bus import Bus, parse_time
from agentbus.errors import PermissionDeniedError, WrongRevisionError
from agentbus.ledger import Ledger, Record, settled
from agentbus.messages import Json, encode, make_result_id, new_result, random_token


async def settle_expired(bus: Bus, record: Record) -> Record:
    """Settle a task as `failed`, error `expired`, if its time is over; returns what the ledger says then.

    Its time is over when the ledger entry, which a running task's owner renews, has not changed for longer than the
    task stream keeps a message, by the server's clock. Whoever meets such a task settles it; the compare-and-set sees
    to it that it happens once.
    """
    if record.entry.terminal:
        return record
    try:
        info = await bus.api(f"STREAM.INFO.{subjects.TASKS_STREAM}")
    except PermissionDeniedError:
        return record
    age_s = (parse_time(info["ts"]) - record.changed_at).total_seconds() if "ts" in info else 0.0
    max_age_s = info["config"].get("max_age", 0) / 1e9
    if not max_age_s or age_s <= max_age_s:
        return record
    ledger, result = Ledger(bus), _expired_result(record, max_age_s)
    entry = settled(record.entry, "failed", result)
    with suppress(WrongRevisionError):
        await ledger.write(record.agent, record.task_id, entry, revision=record.revision)
        with suppress(PermissionDeniedError):  # the inbox may be somebody else's; the ledger has the result
            await bus.store(subjects.results(entry.inbox), encode(result), msg_id=str(result["id"]))
    found = await ledger.read(record.agent, record.task_id)
    return found if isinstance(found, Record) else record


def _expired_result(record: Record, max_age_s: float) -> dict[str, Json]:
    """The result of a task whose message is gone; what it said is gone with it."""
    entry = record.entry
    task: dict[str, Json] = {
        "id": record.task_id,
        "from": entry.sender,
        "to": subjects.address(record.agent),
        "reply_to": subjects.address(entry.inbox),
        "type": "task.request",
        "task_type": entry.task_type,
        "created_at": entry.created_at,
    }
    return new_result(
        task,
        result_id=make_result_id(record.agent, record.task_id, random_token()),
        status="failed",
        error=f"expired: no worker has finished it within {max_age_s:g} s",
    ).to_json()

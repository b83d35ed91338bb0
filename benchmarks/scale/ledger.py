"""Fills a ledger with entries as workers write them, as fast as the server stores them."""

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Final

from agentbus import Coordinator
from agentbus.protocol import subjects
from agentbus.protocol.headers import GROUP, NO_GROUP, STATE, SUMMARY, Headers
from agentbus.protocol.ledger_entry import queued, settled
from agentbus.protocol.listed.summary import summary_of
from agentbus.protocol.messages import new_result, new_task
from agentbus.protocol.subjects import TaskKey

AGENTS: Final = 10
RARE: Final = 5
"""How many of the oldest tasks have failed; all others have completed."""
_OUTPUT_BYTES: Final = 400
_AT_ONCE: Final = 1_000


def task_id(number: int) -> str:
    return f"job-{number:07}"


async def fill(coordinator: Coordinator, first: int, count: int) -> None:
    """Store the entries of the tasks from number `first` up to `count`, the oldest first."""
    started = time.perf_counter()
    before = (await coordinator.bus.stream_info(subjects.STATE_STREAM)).state.messages
    await _store(coordinator, count - first, map(_message, range(first, count)))
    there = (await coordinator.bus.stream_info(subjects.STATE_STREAM)).state.messages
    if there - before != count - first:
        raise RuntimeError(f"the ledger has got {there - before} entries instead of {count - first}")
    print(f"  {count:,} entries after {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


async def settle_all(coordinator: Coordinator, keys: Sequence[TaskKey]) -> None:
    """Store settled entries in place of those of tasks that wait."""
    await _store(coordinator, len(keys), ((key, *settled_entry(key)) for key in keys))


async def _store(coordinator: Coordinator, count: int, messages: Iterable[tuple[TaskKey, bytes, Headers]]) -> None:
    for number, (key, data, headers) in enumerate(messages, 1):
        if number % _AT_ONCE == 0 or number == count:
            await coordinator.bus.store(subjects.state(key), data, headers=headers)  # waits for all before
        else:
            await coordinator.bus.publish(subjects.state(key), data, headers=headers, flush=False)


def _message(number: int) -> tuple[TaskKey, bytes, Headers]:
    failed = number < RARE
    key = TaskKey(f"agent{number % AGENTS}", task_id(number))
    return key, *settled_entry(key, failed=failed)


def settled_entry(key: TaskKey, *, failed: bool = False) -> tuple[bytes, Headers]:
    """Return the entry of a settled task as a worker writes it, and its headers."""
    data, headers = _TEMPLATES[failed]
    return data.replace(b"job-#######", key.id.encode()), headers


def _template(*, failed: bool) -> tuple[bytes, Headers]:
    """Make an entry of a settled task with its result, and its headers."""
    task = new_task(to="agent0", content="x" * 300, task_type="review", task_id="job-0000000")
    result = new_result(
        task.to_json(),
        result_id="result-agent0-job-0000000-r",
        status="failed" if failed else "completed",
        result="y" * _OUTPUT_BYTES,
        error="exit code 1" if failed else None,
    )
    entry = settled(queued(task, "main", "nonce"), result)
    summary = summary_of(entry)
    assert summary is not None
    data = entry.model_dump_json(exclude_none=True).encode().replace(b"job-0000000", b"job-#######")
    return data, {STATE: entry.state, GROUP: NO_GROUP, SUMMARY: summary}


_TEMPLATES: Final = {failed: _template(failed=failed) for failed in (False, True)}

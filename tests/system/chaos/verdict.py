"""The account of a storm: every task has one result, the right one, and nothing else is left."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

from agentbus import Coordinator
from agentbus.bus.jetstream import Bus
from agentbus.errors import AgentBusError
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.work.results import artifacts_in, changes_in
from agentbus.tasks.inbox import InboxMessage
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.output_store import read_file
from system.chaos.plan import KINDS, PlannedTask
from system.chaos.programs.agent import BIG_BYTES, big_output
from system.chaos.reruns import Execution

_SHOWN = 15


@dataclass
class Account:
    """What came of a storm. `wrong` is empty if all is well; `result_ids` says to which task a result belongs."""

    numbers: dict[str, int | str] = field(default_factory=dict[str, int | str])
    result_ids: dict[str, str] = field(default_factory=dict[str, str])
    lost: list[str] = field(default_factory=list[str])
    wrong: list[str] = field(default_factory=list[str])

    def table(self) -> str:
        """The figures, one a line."""
        width = max(len(name) for name in self.numbers)
        return "\n".join(f"  {name:<{width}}  {value}" for name, value in self.numbers.items())

    def faults(self) -> str:
        """What is wrong, bounded."""
        shown = [f"  WRONG: {fault}" for fault in self.wrong[:_SHOWN]]
        return "\n".join([*shown, *([f"  … and {len(self.wrong) - _SHOWN} more"] if len(self.wrong) > _SHOWN else [])])


def executions(record: Path) -> list[Execution]:
    """Every execution that was put on record."""
    if not record.exists():
        return []
    rows = [line.split() for line in record.read_text(encoding="utf-8").splitlines()]
    return [Execution(float(at), worker, int(attempt), task) for at, worker, _, attempt, task in rows]


async def check(
    coordinator: Coordinator,
    administrator: Bus,
    tasks: Sequence[PlannedTask],
    ran: Sequence[Execution],
    seen: Mapping[str, str],
) -> Account:
    """Compare the inbox, the ledger, the dead letters and the task stream with what was published.

    Args:
        ran: the executions.
        seen: for tasks that were cancelled, the state that the cancelling found them in.
    """
    account = Account()
    async with coordinator.inbox(after=0) as opened:
        inbox = await opened.history()
    results = _by_task(inbox, account)
    known = {task.task_id for task in tasks}
    account.wrong += [f"a result of a task that was not published: {name}" for name in results.keys() - known]
    account.lost = [task.task_id for task in tasks if task.task_id not in results]
    duplicates = sum(len(found) - 1 for found in results.values())
    account.wrong += [f"{len(found)} results: {name}" for name, found in results.items() if len(found) > 1]
    account.wrong += [f"lost: {name}" for name in account.lost]
    account.result_ids = {str(found[0]["id"]): name for name, found in results.items()}
    counted = {execution.task_id for execution in ran}
    takeovers = 0
    for task in tasks:
        entry = await Ledger(coordinator.bus).read(TaskKey(task.agent, task.task_id))
        takeovers += isinstance(entry, Record) and entry.entry.attempt > 1
        message = results[task.task_id][0] if task.task_id in results else None
        account.wrong += [f"{task.task_id}: {fault}" for fault in _faults(task, entry, message, seen, counted)]
        if message is not None and task.kind == "big" and message["status"] == "completed":
            account.wrong += await _faults_of_file(coordinator, task, message)
        if message is not None and task.kind == "edit":
            account.wrong += await _faults_of_work(coordinator, task, message)
    left, dead = [await _count(administrator, stream) for stream in (subjects.TASKS_STREAM, subjects.DEAD_STREAM)]
    account.wrong += [f"{left} tasks are left on the bus"] if left else []
    account.wrong += [f"{dead} dead letters of valid tasks"] if dead else []
    account.numbers = {
        "published": len(tasks),
        "results": sum(len(found) for found in results.values()),
        "duplicates": duplicates,
        "lost": len(account.lost),
        "left on the bus": left,
        "executions": len(ran),
        "takeovers": takeovers,
    }
    return account


def longest_recovery(deaths: Iterable[tuple[str, float]], ran: Sequence[Execution], stored: Mapping[str, float]) -> str:
    """The longest time from the death of a worker to the result of a task that it was running then.

    Where several workers died over a task, from the last of these deaths; its own run time is a part of it.
    """
    died: dict[str, float] = {}
    for process, died_at in deaths:
        for execution in ran:
            # The task must have had no result then.
            if execution.worker == process and execution.at < died_at < stored.get(execution.task_id, 0):
                died[execution.task_id] = max(died_at, died.get(execution.task_id, 0))
    longest_s, task_id = max(((stored[name] - at, name) for name, at in died.items()), default=(0.0, "none"))
    return f"{longest_s:.1f} s ({task_id})"


def recovery_after_restart(
    restarts: Iterable[tuple[str, float]], ran: Sequence[Execution], stored: Mapping[str, float]
) -> str:
    """The longest and the median time from the start of a worker in place of a dead one to the next run of a task.

    Of the tasks that the dead one was running. That next run may have had to wait for a free slot, or for a server; a
    result without another run, for an outcome that was on disk, counts as well.
    """
    waits: list[tuple[float, str]] = []
    for process, started_at in restarts:
        for execution in (one for one in ran if one.worker == process):
            task_id = execution.task_id
            later = [one.at for one in ran if one.task_id == task_id and one.attempt > execution.attempt]
            following = min([*later, stored.get(task_id, inf)])
            if started_at < following < inf:
                waits.append((following - started_at, task_id))
    if not waits:
        return "none"
    longest_s, task_id = max(waits)
    return f"{longest_s:.1f} s ({task_id}), median {median(wait_s for wait_s, _ in waits):.1f} s of {len(waits)}"


def longest_silence_s(moments: Iterable[float], stored: Iterable[float]) -> float:
    """The longest time from one of `moments` to the first result that was stored after it."""
    ordered = sorted(stored)
    return max((next((at - moment for at in ordered if at > moment), 0.0) for moment in moments), default=0.0)


def _by_task(inbox: list[InboxMessage], account: Account) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for message in inbox:
        if message.result is None:
            account.wrong.append(f"the message {message.seq} of the inbox is no result: {message.fault}")
        else:
            found.setdefault(message.result.task_id, []).append(message.result.to_json())
    return found


def _faults(
    task: PlannedTask,
    entry: object,
    message: dict[str, Any] | None,
    seen: Mapping[str, str],
    executed: set[str],
) -> list[str]:
    """What is wrong with one task, in the ledger and in the inbox."""
    if not isinstance(entry, Record):
        return ["it is not in the ledger"]
    found = entry.entry
    if not found.terminal or message is None:
        owner = found.claim.worker if found.claim else "no worker"
        return [f"no result; the ledger says {found.state}, attempt {found.attempt}, claimed by {owner}"]
    faults: list[str] = []
    if found.result != message:
        faults.append(f"the inbox has the result {message['id']}, the ledger {found.result_id}")
    if found.state != message["status"]:
        faults.append(f"the inbox says {message['status']}, the ledger {found.state}")
    expected = _expected(task, seen)
    if found.state not in expected:
        faults.append(f"{found.state} instead of {' or '.join(sorted(expected))}: {message.get('error')}")
    elif found.state != "cancelled":
        if task.task_id not in executed:
            faults.append("it has a result and was never run")
        faults += _faults_of_text(task, message)
    return faults


def _expected(task: PlannedTask, seen: Mapping[str, str]) -> set[str]:
    """The states that a task may end in. What was settled when it was cancelled must have stayed as it was."""
    if task.task_id not in seen:
        return {KINDS[task.kind].status}
    state = seen[task.task_id]
    return {KINDS[task.kind].status, "cancelled"} if state == "working" else {state}


def _faults_of_text(task: PlannedTask, message: dict[str, Any]) -> list[str]:
    kind, text, error = KINDS[task.kind], message["result"], str(message.get("error") or "")
    if kind.error not in error:
        return [f"the error is {error!r} instead of {kind.error!r}"]
    if task.kind == "big":
        whole = big_output(task.task_id)
        note: dict[str, Any] = message.get("output") or {}
        wanted = (BIG_BYTES, hashlib.sha256(whole).hexdigest(), True)
        if (note.get("bytes"), note.get("sha256"), note.get("truncated")) != wanted or "file" not in note:
            return [f"the output is described as {note}"]
        return [] if text and whole.startswith(text.encode()) else ["the beginning of its output is another's"]
    if task.kind == "talk":
        return _faults_of_conversation(task, message)
    if task.kind == "ask":
        return []  # the person knows what it must say
    if kind.status == "completed" and text != f"done {task.task_id}\n":
        return [f"the output is {text[:200]!r}"]
    return []


def _faults_of_conversation(task: PlannedTask, message: dict[str, Any]) -> list[str]:
    """A follow-up ran in a session that an earlier task of its conversation has begun, and alone in it."""
    text = str(message["result"]).strip()
    run: dict[str, Any] = message.get("run") or {}
    if task.continues is None:
        return [] if text.startswith(f"done {task.task_id} after ") else [f"the answer is {text[:200]!r}"]
    first = text.rpartition(" after ")[2]
    if text != f"done {task.task_id} after {first}" or first == task.task_id:
        return [f"the answer is {text[:200]!r}, in no earlier session"]
    return [] if run.get("resumed") is True else [f"it is marked {run.get('resumed')} as resumed"]


async def _faults_of_file(coordinator: Coordinator, task: PlannedTask, message: dict[str, Any]) -> list[str]:
    note: dict[str, Any] = message.get("output") or {}
    name = note.get("file", {}).get("name")
    if not isinstance(name, str):
        return []  # said already
    digest = hashlib.sha256()
    try:
        async for piece in read_file(coordinator.bus, task.agent, name):
            digest.update(piece)
    except AgentBusError as error:
        return [f"{task.task_id}: its output cannot be read: {error}"]
    same = digest.hexdigest() == hashlib.sha256(big_output(task.task_id)).hexdigest()
    return [] if same else [f"{task.task_id}: the file holds another output"]


async def _faults_of_work(coordinator: Coordinator, task: PlannedTask, message: dict[str, Any]) -> list[str]:
    """The file and the change of a run came home, and no other's."""
    found = {one.name: one for one in artifacts_in(message)}
    changes = changes_in(message)
    if set(found) != {"changes.bundle", "changes.patch", "report.txt"} or changes is None or changes.files != 1:
        return [f"{task.task_id}: it brought home {sorted(found)} and {changes}"]
    try:
        patch, report = [
            b"".join([piece async for piece in read_file(coordinator.bus, task.agent, found[name].object)])
            for name in ("changes.patch", "report.txt")
        ]
    except AgentBusError as error:
        return [f"{task.task_id}: its work cannot be read: {error}"]
    own = f"{task.task_id}\n".encode()
    return [] if report == own and b"+" + own in patch else [f"{task.task_id}: it brought home another's work"]


async def _count(administrator: Bus, stream: str) -> int:
    return int((await administrator.api(f"STREAM.INFO.{stream}"))["state"]["messages"])

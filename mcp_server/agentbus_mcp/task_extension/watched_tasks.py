"""Continues calls that wait for results as MCP tasks. The record stores only what the call waits for.

The state of such an MCP task is read from the ledger or the inbox. If a bus task needs approval, the MCP task requires
input. Once it is answered, by this client or another, the MCP task waits for the follow-up task instead. A run that
asks while it goes on makes it require input, too.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from mcp_types import CallToolResult, TextContent

from agentbus.concurrently import concurrently
from agentbus.coordinator import Coordinator, TaskStatus
from agentbus.errors import NoQuestionError, TaskConflictError, TaskNotFoundError
from agentbus.protocol.questions.question import MAX_COMMENT_CHARS
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.task_names import is_task_name, short_names, task_name
from agentbus.task_handle import TaskFailure
from agentbus.tasks.questions.asked import AskedQuestion, asked_by
from agentbus_mcp.errors import client_message
from agentbus_mcp.notifications import sources
from agentbus_mcp.notifications.bus_events import BusEvents, Unsubscribe
from agentbus_mcp.notifications.resource_changes import on_task_change
from agentbus_mcp.operations.inbox import next_messages
from agentbus_mcp.operations.look_up import FoundTasks, look_up
from agentbus_mcp.operations.watch import WatchRequest, outcome_of
from agentbus_mcp.replies.budget import ResponseDetail
from agentbus_mcp.replies.build import build_answer, build_tasks_answer, build_watch_answer
from agentbus_mcp.replies.models import Publication, Results
from agentbus_mcp.replies.next_calls import watch_inbox_call, watch_tasks_call
from agentbus_mcp.replies.publication import build_answer_with_results
from agentbus_mcp.task_extension.approval_requests import (
    approval_request,
    asks_for_approval,
    is_follow_up,
    last_follow_up,
    permission_request,
    read_decision,
)
from agentbus_mcp.task_extension.offer import Offer
from agentbus_mcp.task_extension.stored_wait import StoredWait
from agentbus_mcp.task_extension.task_support import Completed, InputRequired, State, TaskState, Working

log = logging.getLogger("agentbus.mcp")

TTL_MS: Final = 30 * 86_400_000
"""As long as results are kept."""
POLL_MS: Final = 3_000
"""A poll reads one record and the ledger entries that are waited for."""
_MAX_REQUESTS: Final = 32
"""Of runs, in one answer: the next ones follow once some are answered."""
_READS_AT_ONCE: Final = 8
"""A ledger entry holds the whole result, so only a few are read at the same time."""


async def begin_watch(
    coordinator: Coordinator, request: WatchRequest, detail: ResponseDetail, offer: Offer
) -> CallToolResult:
    """Continue a call of `watch_results` as an MCP task, or answer at once if there is a result already.

    The MCP task has a time-out only if the client gave one, because no call is open meanwhile.

    Raises:
        TaskNotFoundError: none of the ids is that of a task.
        BusError: the bus cannot be read.
    """
    if request.task_ids:
        # From here on with their agents: another agent may write a task of the same id while the call waits.
        found = await look_up(coordinator, request.task_ids, request.agent)
        names = [task.name for task in found.tasks]
        request = replace(request, task_ids=[*map(str, names), *found.errors])
        next_call = watch_tasks_call(request, detail, names)
    else:
        if request.cursor is None:
            async with coordinator.inbox(agent=request.agent) as inbox:
                request = replace(request, cursor=inbox.cursor)
        next_call = watch_inbox_call(request, detail, request.cursor or 0)
    deadline = time.time() + request.timeout_s if "timeout_seconds" in offer.arguments else None
    inbox_of = request.agent or coordinator.agent
    wait = StoredWait.of_watch(request, detail, inbox=inbox_of, elicits=offer.elicits, deadline=deadline)
    state = await _state_of(coordinator, wait)
    if isinstance(state, Completed):
        return state.result
    offer.take(wait.to_state())
    return build_answer("No result so far.", Results(results=[], cursor=request.cursor, next=next_call))


def begin_publication(coordinator: Coordinator, publication: Publication, offer: Offer) -> None:
    """Continue a call that published tasks as an MCP task that waits for their results."""
    wait = StoredWait.of_publication(publication, inbox=coordinator.agent, elicits=offer.elicits)
    offer.take(wait.to_state(), publication.note or "")


class WatchedTasks:
    """`TaskSupport` of the tools that wait for results."""

    required: bool = False
    ttl_ms: int = TTL_MS
    poll_interval_ms: int = POLL_MS

    async def read_state(self, coordinator: Coordinator, state: State) -> TaskState:
        """Read the present state; a completed one has the answer of the tool."""
        try:
            return await _state_of(coordinator, StoredWait.from_state(state))
        except TaskNotFoundError as error:
            text = TextContent(type="text", text=f"the tasks are gone: {client_message(error)}")
            return Completed(CallToolResult(content=[text], is_error=True))

    async def answer(self, coordinator: Coordinator, state: State, responses: Mapping[str, Any]) -> None:
        """Approve or deny what bus tasks ask for.

        The key of a request is the id of the bus task, or its name where ids are shared; of a run that goes on, the id
        of its question.

        Raises:
            MCPError: -32602, before anything is decided, for a response that does not fit its request.
        """
        decisions = {task_id: read_decision(task_id, response) for task_id, response in responses.items()}
        wait = StoredWait.from_state(state)
        tasks = (await _find(coordinator, wait)).tasks
        keys = _request_keys(coordinator, wait, tasks)
        for task in tasks:
            decision = decisions.get(keys[task.record.key])
            if decision is None:
                continue  # the person postponed the decision: the request stays open
            comment = decision.comment
            try:
                await coordinator.task(str(task.name)).answer(approve=decision.approve, comment=comment)
            except TaskConflictError as error:
                log.info("a task was answered by another client first: %s", error)
        for asked in _asked(wait, tasks):
            decision = decisions.get(asked.id)
            if decision is None:
                continue
            try:
                comment = decision.comment[:MAX_COMMENT_CHARS]
                await coordinator.answer_question(asked.id, approve=decision.approve, comment=comment)
            except (TaskConflictError, NoQuestionError) as error:
                log.info("a question was answered by another client first, or is asked no more: %s", error)

    async def cancel(self, coordinator: Coordinator, state: State) -> None:
        """Cancel the tasks that the call has published; tasks that it only watches continue.

        Raises:
            ExceptionGroup: the errors of those that could not be cancelled; the others are.
        """
        wait = StoredWait.from_state(state)
        if wait.publication is None:
            return
        found = await _find(coordinator, wait)
        running = [coordinator.task(str(task.name)) for task in found.tasks if not task.settled]
        outcomes = await coordinator.cancel_all(running, reason="the MCP task that published it was cancelled")
        errors = [outcome.error for outcome in outcomes if isinstance(outcome, TaskFailure)]
        if errors:
            raise ExceptionGroup("tasks could not be cancelled", errors)

    def watch(self, bus_events: BusEvents, state: State, changed: Callable[[], None]) -> Unsubscribe:
        """Follow the ledger or the inbox, and the clock where there is a deadline."""
        wait = StoredWait.from_state(state)
        if wait.task_names:
            tasks = frozenset(task_name(name) for name in wait.task_names if is_task_name(name))
            listener = on_task_change(lambda task: is_follow_up(task, tasks), changed)
            unsubscribe = bus_events.follow(bus_events.ledger, listener)
        else:
            unsubscribe = bus_events.follow(sources.inbox(wait.inbox), lambda _: changed())
        if wait.deadline is None:
            return unsubscribe
        cancel_timer = bus_events.call_at(wait.deadline, changed)

        def unsubscribe_both() -> None:
            unsubscribe()
            cancel_timer()

        return unsubscribe_both


async def _state_of(coordinator: Coordinator, wait: StoredWait) -> TaskState:
    return await (_state_of_tasks if wait.task_names else _state_of_inbox)(coordinator, wait)


async def _state_of_inbox(coordinator: Coordinator, wait: StoredWait) -> TaskState:
    page = await next_messages(coordinator, wait.watch.cursor, 0, wait.watch.agent)
    if page.messages or wait.timed_out:
        return Completed(build_watch_answer(page, wait.request, wait.detail))
    return Working(f"no new message in the inbox of {wait.inbox}")


async def _state_of_tasks(coordinator: Coordinator, wait: StoredWait) -> TaskState:
    found = await _find(coordinator, wait)
    asking = [task for task in found.tasks if wait.elicits and asks_for_approval(task)]
    if wait.timed_out or wait.is_complete(found.tasks, asking):
        answer = build_tasks_answer(await outcome_of(coordinator, found), wait.request, wait.detail)
        return Completed(build_answer_with_results(wait.publication, answer) if wait.publication else answer)
    counts = Counter(task.state for task in found.tasks)
    message = ", ".join(f"{count} {state}" for state, count in counts.items())
    changed_at = max(task.record.changed_at for task in found.tasks)
    requests = _requests(coordinator, wait, found.tasks, asking)
    return InputRequired(requests, message, changed_at) if requests else Working(message, changed_at)


def _requests(
    coordinator: Coordinator, wait: StoredWait, tasks: Sequence[TaskStatus], asking: Sequence[TaskStatus]
) -> dict[str, dict[str, Any]]:
    """Make the requests to the client: for questions of runs, and for `asking`, which have ended with one."""
    requests = {one.id: permission_request(one) for one in _asked(wait, tasks)}
    keys = _request_keys(coordinator, wait, tasks) if asking else {}
    return requests | {keys[task.record.key]: approval_request(task) for task in asking}


def _asked(wait: StoredWait, tasks: Sequence[TaskStatus]) -> list[AskedQuestion]:
    """Return what the runs of tasks ask, if the client can ask a person; of many, the first ones."""
    return [asked for task in tasks for asked in asked_by(task)][:_MAX_REQUESTS] if wait.elicits else []


def _request_keys(coordinator: Coordinator, wait: StoredWait, tasks: Sequence[TaskStatus]) -> dict[TaskKey, str]:
    """The keys of the requests of tasks: their ids, or their names where tasks of the wait have the same id.

    The wait decides, not what has become of its tasks since: a request that a client knows keeps its key.
    """
    ids = [name.rpartition("/")[2] for name in wait.task_names]
    if len(set(ids)) < len(ids):
        return {task.record.key: str(task.name) for task in tasks}
    return short_names(coordinator.agent, (task.record.key for task in tasks))


async def _find(coordinator: Coordinator, wait: StoredWait) -> FoundTasks:
    """Look up the tasks of a wait. A task that asked for approval and was answered is replaced by its follow-up."""
    found = await look_up(coordinator, wait.task_names, wait.watch.agent)
    if not wait.elicits:
        return found
    tasks = await concurrently(found.tasks, partial(last_follow_up, coordinator), at_once=_READS_AT_ONCE)
    return FoundTasks(tasks, found.errors)

"""How calls that wait for results go on as MCP tasks: nothing is kept but what is waited for.

How such an MCP task stands says the ledger, or the inbox. A task of the bus that needs approval makes the MCP task ask
for it; once it is answered, here or by anybody, its follow-up is waited for in its place.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import anyio
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, ElicitResult, TextContent
from pydantic import TypeAdapter, ValidationError

from agentbus.coordinator import Coordinator, TaskStatus
from agentbus.errors import AgentBusError, CorruptEntryError, TaskConflictError, TaskNotFoundError
from agentbus.tasks.approvals import ANSWER_SUFFIX, answer_id, question
from agentbus_mcp.errors import reason
from agentbus_mcp.notifications import sources
from agentbus_mcp.notifications.bus_events import BusEvents, Unsubscribe
from agentbus_mcp.notifications.resource_changes import on_task_change
from agentbus_mcp.operations import publishing, reading, watching
from agentbus_mcp.operations.reading import Found
from agentbus_mcp.operations.watching import Watch
from agentbus_mcp.replies import rendering
from agentbus_mcp.replies.models import Publication, Results
from agentbus_mcp.replies.sanitize import clip, name, visible
from agentbus_mcp.task_extension.support import Completed, InputRequired, Offer, Standing, State, Working

log = logging.getLogger("agentbus.mcp")

TTL_MS: Final = 30 * 86_400_000
"""As long as results are kept."""
POLL_MS: Final = 3_000
_COMMENT_CHARS: Final = 4_000
_FORM: Final = {
    "type": "object",
    "properties": {
        "approve": {
            "type": "boolean",
            "title": "Approve",
            "description": "Yes allows the agent this operation and no other; no forbids it.",
        },
        "comment": {
            "type": "string",
            "title": "Comment",
            "description": "What else the agent shall know, e.g. limits.",
        },
    },
    "required": ["approve"],
}


@dataclass(frozen=True, slots=True)
class _Wait:
    """What an MCP task waits for: the state that is kept of it.

    Attributes:
        inbox: whose inbox is watched where no tasks are named.
        deadline: when it ends with what there is then, in seconds since the epoch.
        elicits: whether the client can be asked for approvals.
        publication: what the call has published; cancelling the MCP task cancels it.
    """

    watch: Watch
    inbox: str
    elicits: bool
    deadline: float | None = None
    publication: Publication | None = None

    @classmethod
    def of(cls, state: State) -> "_Wait":
        try:
            return _as_json().validate_python(state)
        except ValidationError:
            raise CorruptEntryError("what an MCP task waits for cannot be read in its record") from None

    def state(self) -> State:
        return _as_json().dump_python(self, mode="json", exclude_none=True)

    @property
    def whose(self) -> str | Mapping[str, str] | None:
        """The agent that has the tasks, or the agent of each: a coordinator may not be allowed to see all agents'."""
        if self.publication is None:
            return self.watch.agent
        return {task.task_id: task.agent for task in self.publication.published}

    @property
    def over(self) -> bool:
        return self.deadline is not None and time.time() >= self.deadline

    def enough(self, tasks: Sequence[TaskStatus], asking: Sequence[TaskStatus]) -> bool:
        """Whether nothing is left to wait for: a task that asks is one that has no result yet."""
        done = [task.settled and task not in asking for task in tasks]
        return all(done) if self.watch.until == "all" else any(done)


@cache
def _as_json() -> TypeAdapter[_Wait]:
    """How a wait becomes a state, and back; made when it is needed, because the server's start is measured."""
    return TypeAdapter(_Wait)


@dataclass(frozen=True, slots=True)
class _Decision:
    approve: bool
    comment: str


async def begin_watch(coordinator: Coordinator, wanted: Watch, offer: Offer) -> CallToolResult:
    """Go on as an MCP task, or answer at once if there is something to answer already.

    The MCP task has the time-out that the client has asked for, and no other: nobody is kept waiting.

    Raises:
        TaskNotFoundError: no task is known by any of the ids.
        BusError: the bus cannot be asked.
    """
    if not wanted.task_ids and wanted.cursor is None:
        async with coordinator.inbox(agent=wanted.agent) as inbox:
            wanted = replace(wanted, cursor=inbox.cursor)
    deadline = time.time() + wanted.timeout_s if "timeout_seconds" in offer.arguments else None
    wait = _Wait(wanted, wanted.agent or coordinator.agent, offer.elicits, deadline)
    standing = await _look(coordinator, wait)
    if isinstance(standing, Completed):
        return standing.result
    offer.take(wait.state())
    call = wanted.call(wanted.task_ids) if wanted.task_ids else wanted.call(cursor=wanted.cursor)
    return rendering.answer("No result so far.", Results(results=[], cursor=wanted.cursor, next=call))


def begin_publication(coordinator: Coordinator, publication: Publication, offer: Offer) -> None:
    """Have a call that has published tasks go on as an MCP task that waits for their results."""
    wanted = Watch([task.task_id for task in publication.published])
    wait = _Wait(wanted, coordinator.agent, offer.elicits, publication=publication)
    offer.take(wait.state(), publication.note or "")


class WatchedTasks:
    """`TaskSupport` of the tools that wait for results."""

    required: bool = False
    ttl_ms: int = TTL_MS
    poll_interval_ms: int = POLL_MS

    async def look(self, coordinator: Coordinator, state: State) -> Standing:
        """Whether there is what is waited for; if so, the answer of the tool."""
        try:
            return await _look(coordinator, _Wait.of(state))
        except TaskNotFoundError as error:
            text = TextContent(type="text", text=f"the tasks are gone: {reason(error)}")
            return Completed(CallToolResult(content=[text], is_error=True))

    async def answer(self, coordinator: Coordinator, state: State, responses: Mapping[str, Any]) -> None:
        """Approve or deny; the key of a request is the id of the task that asks.

        Raises:
            MCPError: -32602, before anything is decided, for a response that does not answer its request.
        """
        decisions = {task_id: _decision(task_id, response) for task_id, response in responses.items()}
        for task in (await _found(coordinator, _Wait.of(state))).known:
            decision = decisions.get(task.task_id)
            if decision is None:
                continue  # put off: the question stays open
            comment = decision.comment
            try:
                await coordinator.answer(task.task_id, approve=decision.approve, comment=comment, agent=task.agent)
            except TaskConflictError as error:
                log.info("an answer came after another one: %s", error)

    async def cancel(self, coordinator: Coordinator, state: State) -> None:
        """Cancel what the call has published; a call that has only watched does nothing to the tasks."""
        wait = _Wait.of(state)
        if wait.publication is None:
            return
        found = await _found(coordinator, wait)
        async with anyio.create_task_group() as group:
            for task in found.known:
                if not task.settled:
                    group.start_soon(_cancel, coordinator, task)

    def watch(self, bus_events: BusEvents, state: State, changed: Callable[[], None]) -> Unsubscribe:
        """Follow the ledger or the inbox, and the clock where the time is limited."""
        wait = _Wait.of(state)
        if wait.watch.task_ids:
            ids = frozenset(wait.watch.task_ids)
            leave = bus_events.follow(sources.LEDGER, on_task_change(lambda task_id: _belongs(task_id, ids), changed))
        else:
            leave = bus_events.follow(sources.inbox(wait.inbox), lambda _: changed())
        if wait.deadline is None:
            return leave
        forget = bus_events.call_at(wait.deadline, changed)

        def leave_both() -> None:
            leave()
            forget()

        return leave_both


async def _look(coordinator: Coordinator, wait: _Wait) -> Standing:
    if not wait.watch.task_ids:
        messages, cursor = await reading.next_messages(coordinator, wait.watch.cursor, 0, wait.watch.agent)
        if messages or wait.over:
            return Completed(await watching.inbox_answer(coordinator, wait.watch, messages, cursor))
        return Working(f"no new message in the inbox of {wait.inbox}")
    found = await _found(coordinator, wait)
    asking = [task for task in found.known if wait.elicits and _asks(task)]
    if wait.over or wait.enough(found.known, asking):
        answer = await watching.results_of(coordinator, found, wait.watch)
        return Completed(
            answer if wait.publication is None else publishing.answer_with_results(wait.publication, answer)
        )
    counts = Counter(task.state for task in found.known)
    message = ", ".join(f"{count} {state}" for state, count in counts.items())
    changed_at = max(task.record.changed_at for task in found.known)
    if asking:
        return InputRequired({task.task_id: _request(task) for task in asking}, message, changed_at)
    return Working(message, changed_at)


async def _found(coordinator: Coordinator, wait: _Wait) -> Found:
    """The tasks as they are now; in place of one that asked and was answered, its follow-up."""
    found = await reading.look_up(coordinator, wait.watch.task_ids, wait.whose)
    if not wait.elicits:
        return found
    last = {task.task_id: task for task in found.known}

    async def follow(task: TaskStatus) -> None:
        last[task.task_id] = await _last(coordinator, task)

    async with anyio.create_task_group() as group:
        for task in found.known:
            if _asks(task):
                group.start_soon(follow, task)
    return Found([last[task.task_id] for task in found.known], found.unknown)


async def _last(coordinator: Coordinator, task: TaskStatus) -> TaskStatus:
    """The end of the chain of follow-ups that begins with a task."""
    while _asks(task):
        try:
            task = await coordinator.task(answer_id(task.task_id), agent=task.agent)
        except TaskNotFoundError:
            break
    return task


def _asks(task: TaskStatus) -> bool:
    """Whether a task asks for approval, and can be answered: its id may have no room for that of the answer."""
    if task.state != "needs_approval":
        return False
    try:
        answer_id(task.task_id)
    except AgentBusError:
        return False
    return True


async def _cancel(coordinator: Coordinator, task: TaskStatus) -> None:
    await coordinator.cancel(task.task_id, agent=task.agent, reason="the MCP task that published it was cancelled")


def _belongs(task_id: str, ids: frozenset[str]) -> bool:
    """Whether a task is among those of some ids, or a follow-up of one."""
    while task_id not in ids:
        if not task_id.endswith(ANSWER_SUFFIX):
            return False
        task_id = task_id.removesuffix(ANSWER_SUFFIX)
    return True


def _request(task: TaskStatus) -> dict[str, Any]:
    """The question of a task to a person: what the agent says is quoted, line by line."""
    said = question(task.result.result) if task.result is not None else ""
    kind = name(task.record.entry.task_type)
    quoted = "\n".join(f"> {line}" for line in visible(said).strip().splitlines())
    message = (
        f"The agent {task.agent} has stopped in the task {task.task_id} ({kind}) before something that needs approval. "
        f"It says:\n\n{quoted}"
    )
    params = {"mode": "form", "message": message, "requestedSchema": _FORM}
    return {"method": "elicitation/create", "params": params}


def _decision(task_id: str, response: Any) -> _Decision | None:
    """What a person has decided; None to be asked again. Nothing but an explicit yes approves."""
    try:
        result = ElicitResult.model_validate(response)
    except ValidationError:
        raise MCPError(INVALID_PARAMS, f"the response to {task_id} is not the result of an elicitation") from None
    if result.action == "cancel":
        return None
    content = result.content or {}
    approve = content.get("approve") if result.action == "accept" else False
    if not isinstance(approve, bool):
        raise MCPError(INVALID_PARAMS, f"the response to {task_id} must say in `approve` true or false")
    return _Decision(approve, clip(str(content.get("comment") or ""), _COMMENT_CHARS))

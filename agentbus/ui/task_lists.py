"""Lists tasks for the page: a part at a time, of one agent or of all, in one state or in any."""

from collections.abc import Mapping
from typing import Final, cast, get_args

from agentbus.coordinator import Coordinator
from agentbus.errors import ArgumentError
from agentbus.protocol.ledger_entry import State
from agentbus.ui.rows import Row, known, task_row

_LISTED: Final = 50
_SEARCH_S: Final = 2.0


async def task_list(bus: Coordinator, asked: Mapping[str, str]) -> Row:
    """List the tasks that changed last: of an `agent`, in a `state`, of a `group`, with a `text`, from a `cursor` on.

    Raises:
        ArgumentError, InvalidIdError, MessageError: what was asked for cannot be.
        BusError: see `Coordinator.list_tasks`.
    """
    state, cursor = asked.get("state") or None, asked.get("cursor", "")
    if state is not None and state not in get_args(State):
        raise ArgumentError(f"{state[:40]!r} is no state of a task")
    found = await bus.list_tasks(
        agent=asked.get("agent") or None,
        state=cast("State | None", state),
        limit=_LISTED,
        group=asked.get("group") or None,
        text=asked.get("text") or None,
        cursor=int(cursor) if cursor.isascii() and cursor.isdigit() else None,
        with_results=False,
        search_s=_SEARCH_S,
    )
    return known(
        tasks=[task_row(one) for one in found.tasks],
        cursor=found.cursor,
        partial=True if found.partial else None,
        reached=found.reached.isoformat() if found.reached else None,
        unreadable=len(found.unreadable) or None,
    )

"""Lists tasks for the page: a part at a time, of one agent or of all, in one state or in any."""

from collections.abc import Mapping
from typing import Final, cast, get_args

from agentbus.coordinator import Coordinator
from agentbus.errors import ArgumentError
from agentbus.protocol.ledger_entry import State
from agentbus.ui.asked_numbers import number_in
from agentbus.ui.rows import Row, known, task_row

_LISTED: Final = 50
_SEARCH_S: Final = 2.0


async def task_list(bus: Coordinator, asked: Mapping[str, str]) -> Row:
    """List the tasks that changed last: of an `agent`, in a `state`, of a `group`, with a `text`, from a `cursor` on.

    Raises:
        ArgumentError, InvalidIdError, MessageError: what was asked for cannot be.
        BusError: see `Coordinator.list_tasks`.
    """
    agent, group, text = (asked.get(name) or None for name in ("agent", "group", "text"))
    found = await bus.list_tasks(
        agent=agent,
        group=group,
        text=text,
        state=_state(asked.get("state", "")),
        limit=_LISTED,
        cursor=number_in(asked.get("cursor", "")),
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


def _state(text: str) -> State | None:
    if text and text not in get_args(State):
        raise ArgumentError(f"{text[:40]!r} is no state of a task")
    return cast("State | None", text or None)

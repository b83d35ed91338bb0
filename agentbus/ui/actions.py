"""What a person does on the page: each action by its name, from fields that are checked here, as the coordinator.

The audit names the coordinator, as for every other way in.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from agentbus.coordinator import Coordinator
from agentbus.errors import ArgumentError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json
from agentbus.task_handle import DEFAULT_TASK_TYPE, PublishedTask
from agentbus.tasks.listing.known_agents import unknown_note
from agentbus.ui.rows import Row, known, task_row
from agentbus.ui.shown_text import line

Act = Callable[[Coordinator, "Fields"], Awaitable[Row]]


class Fields:
    """The fields of an action, as the page has sent them."""

    def __init__(self, values: Mapping[str, Json]) -> None:
        self._values = values

    def text(self, name: str, *, most: int = 2_000, default: str | None = None) -> str:
        """Return a text that must be there, unless there is a default.

        Raises:
            ArgumentError: it is missing, no text, or too long.
        """
        value = self._values.get(name, default)
        if not isinstance(value, str):
            raise ArgumentError(f"the field {name} must be a text")
        if len(value) > most:
            raise ArgumentError(f"the field {name} has {len(value):,} characters; it may have up to {most:,}")
        return value

    def flag(self, name: str, *, default: bool | None = None) -> bool:
        """Return a yes or no that must be there, unless there is a default.

        Raises:
            ArgumentError: it is missing, or is something else.
        """
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            raise ArgumentError(f"the field {name} must be true or false")
        return value


_CONTENT_CHARS: Final = 1 << 20


async def _publish(bus: Coordinator, fields: Fields) -> Row:
    content = fields.text("content", most=_CONTENT_CHARS)
    if not content.strip():
        raise ArgumentError("a task needs some content: say what the agent is to do")
    agent = subjects.agent_id(fields.text("to"))
    task_type = fields.text("task_type", default="").strip() or DEFAULT_TASK_TYPE
    # The page makes the id, so that a request that is sent again after a lost answer makes no second task.
    task_id = fields.text("task_id", default="") or None
    group = fields.text("group", default="").strip() or None
    note = await unknown_note(bus.bus, agent)
    return _published(bus, await bus.publish(agent, content, task_type=task_type, task_id=task_id, group=group), note)


async def _follow_up(bus: Coordinator, fields: Fields) -> Row:
    content = fields.text("content", most=_CONTENT_CHARS)
    if not content.strip():
        raise ArgumentError("a follow-up needs some content: say how to go on")
    task_id = fields.text("task_id", default="") or None
    sent = await bus.task(fields.text("name")).follow_up(content, task_id=task_id)
    return _published(bus, sent)


def _published(bus: Coordinator, sent: PublishedTask, note: str | None = None) -> Row:
    name = bus.task(sent.id, agent=sent.agent, owner=bus.agent).query.name
    shown = f"{sent.agent}/{sent.id}" if bus.agent == subjects.COORDINATOR else str(name)
    note = sent.note or note
    return known(name=shown, id=sent.id, note=line(note, 600) if note else None)


async def _answer(bus: Coordinator, fields: Fields) -> Row:
    approve = fields.flag("approve")
    given = await bus.answer_question(fields.text("id"), approve=approve, comment=fields.text("comment", default=""))
    follow_up = given.follow_up
    return known(
        id=given.id, approve=given.approve, follow_up=_published(bus, follow_up)["name"] if follow_up else None
    )


async def _cancel(bus: Coordinator, fields: Fields) -> Row:
    return task_row(await bus.task(fields.text("name")).cancel(fields.text("reason", default="")))


async def _retry(bus: Coordinator, fields: Fields) -> Row:
    return _published(bus, await bus.task(fields.text("name")).retry())


async def _pause(bus: Coordinator, fields: Fields) -> Row:
    agent = fields.text("agent")
    await bus.pause_agent(agent, fields.text("reason", default=""))
    return {"agent": agent}


async def _resume(bus: Coordinator, fields: Fields) -> Row:
    agent = fields.text("agent")
    await bus.resume_agent(agent)
    return {"agent": agent}


ACTIONS: Final[Mapping[str, Act]] = {
    "publish": _publish,
    "follow-up": _follow_up,
    "answer": _answer,
    "cancel": _cancel,
    "retry": _retry,
    "pause": _pause,
    "resume": _resume,
}
"""All that a page can do, by the names under which it asks for it."""

"""Maps events on the bus to the resources that they change."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from agentbus.bus.pull_consumer import Delivery
from agentbus.protocol import subjects
from agentbus.protocol.headers import QUESTIONS, STATE
from agentbus.protocol.task_names import TaskName, task_name
from agentbus.tasks.approvals import ANSWER_SUFFIX
from agentbus_mcp import uris
from agentbus_mcp.notifications import sources
from agentbus_mcp.notifications.bus_events import BusEvents, Unsubscribe

if TYPE_CHECKING:
    from agentbus.protocol.subjects import TaskKey

MAX_SOURCES: Final = 64
"""How many inboxes may be followed at the same time: each is a consumer on the server, which has room for 1000."""


class ResourceChanges:
    """Publishes the change events of a coordinator's resources."""

    def __init__(self, bus_events: BusEvents, agent: str) -> None:
        self._bus_events = bus_events
        self._agent = agent

    def watch(self, uri: str, changed: Callable[[], None]) -> Unsubscribe | None:
        """Call `changed` when a resource changes; returns None if its changes cannot be detected."""
        resource = uris.parse(uri)
        match resource:
            case uris.ResourceId("agents"):
                return self._bus_events.follow_agents(lambda _: changed())
            case uris.ResourceId("inbox", agent):
                source = sources.inbox(agent)
            case uris.ResourceId("stream", subjects.RESULTS_STREAM):
                source = sources.all_inboxes(self._agent)
            case uris.ResourceId("stream", _):
                return self._bus_events.follow(self._bus_events.ledger, _on_backlog_change(changed))
            case uris.ResourceId("questions"):
                return self._bus_events.follow(self._bus_events.ledger, _on_question(changed))
            case uris.ResourceId("task", name):
                return self._bus_events.follow(
                    self._bus_events.ledger, on_task_change(task_name(name).matches, changed)
                )
            case _:
                return None
        if self._bus_events.sources >= MAX_SOURCES and not self._bus_events.is_followed(source):
            return None
        return self._bus_events.follow(source, lambda _: changed())

    def watch_list(self, changed: Callable[[], None]) -> Unsubscribe:
        """Call `changed` when the list of resources changes: an agent comes online or goes offline."""
        return self._bus_events.follow_agents(lambda agents_changed: changed() if agents_changed else None)

    async def opened(self, timeout_s: float) -> None:
        """Wait until no later change can be missed, at most for `timeout_s`."""
        await self._bus_events.opened(timeout_s)


def _on_backlog_change(changed: Callable[[], None]) -> Callable[[Delivery | None], None]:
    """Make a listener for the ledger that calls `changed` when a task enters or leaves the backlog.

    The task stream itself is a work queue, which a second consumer cannot follow.
    """

    def listener(message: Delivery | None) -> None:
        if message is None or message.headers.get(STATE) not in (None, "working"):
            changed()

    return listener


def _on_question(changed: Callable[[], None]) -> Callable[[Delivery | None], None]:
    """Make a listener for the ledger that calls `changed` when something is asked, answered or interrupted, or over."""
    asking: dict[str, str] = {}  # the entries that ask, how many questions, of runs that are there and that are gone

    def listener(message: Delivery | None) -> None:
        if message is None:
            changed()
            return
        state, count = message.headers.get(STATE), message.headers.get(QUESTIONS, "")
        before = asking.pop(message.subject, "")
        if count:
            asking[message.subject] = count
        is_answer = state == "queued" and message.subject.endswith(ANSWER_SUFFIX)
        if count != before or state == "needs_approval" or is_answer:
            changed()

    return listener


def on_task_change(
    is_watched: Callable[[TaskName], bool], changed: Callable[[], None]
) -> Callable[[Delivery | None], None]:
    """Make a listener for the ledger that calls `changed` when a watched task changes, lease renewals excepted."""
    last: dict[TaskKey, tuple[str | None, str | None]] = {}

    def listener(message: Delivery | None) -> None:
        if message is None:
            changed()
            return
        key = subjects.parse_state(message.subject)
        if key is None or not is_watched(TaskName(key.id, key.agent, key.owner)):
            return
        state = message.headers.get(STATE), message.headers.get(QUESTIONS)
        if state[0] != "working" or last.get(key) != state:
            changed()
        last[key] = state

    return listener

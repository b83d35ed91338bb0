"""Which messages of the bus change which resource."""

from collections.abc import Callable
from typing import Final

from agentbus.bus.pull_consumer import Delivery
from agentbus.protocol import subjects
from agentbus.protocol.headers import STATE
from agentbus_mcp import uris
from agentbus_mcp.notifications import bus_events
from agentbus_mcp.notifications.bus_events import BusEvents, Leave

MAX_SOURCES: Final = 64
"""How many inboxes may be followed at the same time: each is a consumer on the server."""


class ResourceChanges:
    """What there is to be told of the resources of one coordinator."""

    def __init__(self, bus_taps: BusEvents, agent: str) -> None:
        self._taps = bus_taps
        self._agent = agent

    def watch(self, uri: str, changed: Callable[[], None]) -> Leave | None:
        """Call `changed` when a resource changes; None where no change of it will ever be known."""
        named = uris.parse(uri)
        match named:
            case uris.Named("agents"):
                return self._taps.follow_agents(lambda _: changed())
            case uris.Named("inbox", agent):
                source = bus_events.inbox(agent)
            case uris.Named("stream", subjects.RESULTS_STREAM):
                source = bus_events.inboxes(self._agent)
            case uris.Named("stream", _):
                return self._taps.follow(bus_events.LEDGER, _backlog_changed(changed))
            case uris.Named("task", task_id):
                return self._taps.follow(
                    bus_events.LEDGER, on_task_change(lambda changing: changing == task_id, changed)
                )
            case _:
                return None
        if self._taps.sources >= MAX_SOURCES and not self._taps.is_followed(source):
            return None
        return self._taps.follow(source, lambda _: changed())

    def watch_list(self, changed: Callable[[], None]) -> Leave:
        """Call `changed` when the list of resources changes: an agent has come, or gone."""
        return self._taps.follow_agents(lambda listed: changed() if listed else None)

    async def opened(self, timeout_s: float) -> None:
        """Wait until every change from now on is noticed, at most for a time."""
        await self._taps.opened(timeout_s)


def _backlog_changed(changed: Callable[[], None]) -> Callable[[Delivery | None], None]:
    """The task stream is a work queue, which cannot be followed; that a task comes or goes says the ledger."""

    def on_change(message: Delivery | None) -> None:
        if message is None or message.headers.get(STATE) not in (None, "working"):
            changed()

    return on_change


def on_task_change(is_meant: Callable[[str], bool], changed: Callable[[], None]) -> Callable[[Delivery | None], None]:
    """What calls `changed` when a task that is meant changes its ledger entry: not when only its lease is renewed."""
    last: dict[tuple[str, str], str | None] = {}

    def on_change(message: Delivery | None) -> None:
        if message is None:
            changed()
            return
        key = subjects.parse_state(message.subject)
        if key is None or not is_meant(key[1]):
            return
        state = message.headers.get(STATE)
        if state != "working" or last.get(key) != state:
            changed()
        last[key] = state

    return on_change

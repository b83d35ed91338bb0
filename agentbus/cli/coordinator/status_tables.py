"""Draws an overview of the bus for a terminal."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agentbus.cli.output import free_slots
from agentbus.cli.tables import harmless, make_table
from agentbus.protocol.subjects import COORDINATOR
from agentbus.terminal import writing

if TYPE_CHECKING:
    from agentbus.admin.overview import BusOverview
    from agentbus.tasks.status import TaskStatus

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def print_page(overview: "BusOverview") -> None:
    """Print an overview once."""
    with writing():
        Console().print(page(overview))


class LivePage:
    """Shows the last overview on the whole terminal, below the error that followed it, if any."""

    def __init__(self) -> None:
        self._shown: RenderableType = Text("reading …", style="dim")
        self._live = Live(self._shown, screen=True, auto_refresh=False)

    def __enter__(self) -> Self:
        """Switch to the terminal's alternate screen."""
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the terminal."""
        self._live.stop()

    def show(self, overview: "BusOverview") -> None:
        """Show a new overview."""
        self._shown = page(overview)
        self._live.update(self._shown, refresh=True)

    def show_error(self, error: Exception) -> None:
        """Show an error above the last overview."""
        self._live.update(Group(harmless(str(error), "bold red"), self._shown), refresh=True)

    def print_last(self) -> None:
        """Print the last overview to the restored terminal, where it stays."""
        self._live.console.print(self._shown)


def page(overview: "BusOverview") -> "RenderableType":
    """Render an overview as tables."""
    at = f"{overview.at:%Y-%m-%d %H:%M:%S} UTC"
    where = f"   {overview.coordinator} on {overview.servers}   nats-server {overview.server_version}   {at}"
    head = Text.assemble(("agentbus", "bold"), harmless(where))
    parts: list[RenderableType] = [head]
    if overview.missing:
        parts.append(harmless(f"missing: {', '.join(overview.missing)}; make it with: agentbus setup", "bold red"))
    parts += [harmless(f"warning: {text}", "yellow") for text in overview.warnings]
    parts.append(_agents(overview))
    parts += [harmless(f"{one.agent}: {trouble}", "yellow") for one in overview.agents for trouble in one.troubles]
    parts.append(_running(overview))
    if asking := sum(status.asks for status in overview.running):
        verb = "task waits" if asking == 1 else "tasks wait"
        parts.append(harmless(f"{asking} running {verb} for an answer: agentbus question list", "yellow"))
    if overview.recent:
        parts.append(_settled(overview))
    parts.append(_streams(overview))
    if overview.hidden:
        parts.append(harmless(f"not shown to this user: {', '.join(overview.hidden)}", "dim"))
    return Group(*parts)


def _agents(overview: "BusOverview") -> Table:
    columns = ["agent", "workers", "free slots", "waiting", "running", "last seen", "version", "description"]
    return make_table(
        columns, [_agent_row(agent, overview.at) for agent in [one.to_json() for one in overview.agents]], "Agents"
    )


def _running(overview: "BusOverview") -> Table:
    owned = _of_several(overview.running)

    def row(status: "TaskStatus") -> list[str]:
        entry, claim = status.record.entry, status.record.entry.claim
        since = _moment(claim.since) if claim else None
        worker = claim.worker if claim else ""
        owner = [status.owner] if owned else []
        does = _does(overview, status)
        return [
            *(_age(overview.at, since), status.agent, *owner, str(entry.attempt)),
            *(entry.task_type, status.task_id, worker),
            *([does] if told else []),
        ]

    told = bool(overview.progress) or any(status.asks for status in overview.running)
    last = ["does"] if told else []
    columns = ["for", "agent", *(["owner"] if owned else []), "attempt", "type", "task", "worker", *last]
    return make_table(columns, [row(status) for status in overview.running], "Running")


def _does(overview: "BusOverview", status: "TaskStatus") -> str:
    """What a running task does: wait for a person, or what its run told last."""
    if status.asks:
        return "asks for an answer"
    told = overview.progress.get(status.record.key)
    return told.in_words if told else ""


def _settled(overview: "BusOverview") -> Table:
    owned = _of_several(overview.recent)

    def row(status: "TaskStatus") -> list[str]:
        ago = _age(overview.at, status.record.changed_at)
        owner = [status.owner] if owned else []
        return [ago, status.agent, *owner, status.state_in_words, status.record.entry.task_type, status.task_id]

    columns = ["ago", "agent", *(["owner"] if owned else []), "state", "type", "task"]
    return make_table(columns, [row(status) for status in overview.recent], "Settled")


def _of_several(tasks: "Sequence[TaskStatus]") -> bool:
    """Whether to show whose tasks they are: on most buses all are of `main`."""
    return any(status.owner != COORDINATOR for status in tasks)


def _streams(overview: "BusOverview") -> Table:
    rows = [
        [one.name, f"{one.messages:,}", _size(one.bytes), _size(one.max_bytes) if one.max_bytes else "none"]
        for one in overview.streams
    ]
    return make_table(["stream", "messages", "size", "limit"], rows, "Streams")


def _agent_row(agent: dict[str, Any], now: datetime) -> Sequence[str]:
    workers: list[dict[str, Any]] = agent["workers"]
    seen = max((datetime.fromisoformat(worker["seen_at"]) for worker in workers), default=None)
    return [
        agent["agent"],
        str(len(workers)) if workers else "none alive",
        free_slots(workers),
        str(agent.get("waiting", "?")),
        str(agent.get("unacknowledged", "?")),
        _age(now, seen),
        ", ".join(sorted({worker["version"] for worker in workers})),
        next((worker["description"] for worker in workers if worker["description"]), ""),
    ]


def _moment(text: str) -> datetime | None:
    """Read a time that a worker wrote; None if it is none."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _age(now: datetime, then: datetime | None) -> str:
    if then is None:
        return ""
    seconds = max(0, int((now - then.astimezone(UTC)).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _size(number: float) -> str:
    unit = 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.0f} {_UNITS[unit]}" if unit == 0 or number >= 100 else f"{number:.1f} {_UNITS[unit]}"

"""Lays an overview of the bus out for a terminal, in the order in which a person looks at it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from agentbus.cli.bus_hints import with_bus
from agentbus.cli.coordinator.figures import dollars
from agentbus.cli.coordinator.showing import agent_rows, task_rows
from agentbus.cli.fitted_table import Column, ago, duration, fitted_lines, moment
from agentbus.cli.tables import harmless
from agentbus.protocol.subjects import COORDINATOR
from agentbus.terminal import writing

if TYPE_CHECKING:
    from agentbus.admin.needs import Need
    from agentbus.admin.overview import BusOverview, StreamUsage
    from agentbus.tasks.status import TaskStatus

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_FILLING: Final = 0.7
"""From here on a stream is shown: an administrator is warned later, and can look before."""
_WORDS: Final = {"no_worker": "no worker", "question": "asks", "approval": "needs approval"}
_NEEDS: Final = (
    Column("task", 0),
    Column("what", 1),
    Column("agent", 3, 10),
    Column("ago", 4),
    Column("why", 2, 10),
    Column("about", 5, 14),
)
_RUNNING: Final = (
    Column("task", 0),
    Column("for", 2),
    Column("agent", 1, 10),
    Column("does", 3, 10),
    Column("cost", 5),
    Column("about", 4, 10),
    Column("type", 8, 10),
    Column("attempt", 9),
    Column("owner", 6, 10),
    Column("worker", 7, 12),
)
_QUEUED: Final = (
    Column("task", 0),
    Column("waits", 2),
    Column("agent", 1, 10),
    Column("workers", 3),
    Column("about", 4, 10),
    Column("type", 6, 10),
    Column("owner", 5, 10),
)
_STREAMS: Final = (Column("stream", 0), Column("size", 1), Column("limit", 2), Column("messages", 3))


class PageLine(NamedTuple):
    """A part of the page: a line or, on a narrow terminal, two, and the task that it is about."""

    text: Text
    status: "TaskStatus | None" = None


def print_page(overview: "BusOverview") -> None:
    """Print an overview once."""
    with writing():
        console = Console()
        for line in page_lines(overview, console.width):
            console.print(line.text, soft_wrap=True)


def page_lines(overview: "BusOverview", width: int) -> list[PageLine]:
    """Lay an overview out: what needs a person, what runs, what waits, the agents, what was settled last.

    Streams are shown only where something is wrong.
    """
    lines = _head(overview, width)
    lines += _needs_you(overview, width)
    lines += _section(_counted("Running", len(overview.running)), _RUNNING, _running(overview), width)
    if overview.queued or overview.queued_in_all:
        lines += _section(_counted("Queued", overview.queued_in_all), _QUEUED, _queued(overview), width, "not shown")
    lines += _section("Agents", agent_rows.COLUMNS, _agents(overview), width)
    if overview.recent:
        lines += _section("Settled", task_rows.COLUMNS, _settled(overview), width)
    if filling := [one for one in overview.streams if _fills(one)]:
        lines += _section("Streams", _STREAMS, [(_stream(one), None) for one in filling], width)
    if overview.hidden:
        lines += ["", _note(f"not shown to this user: {', '.join(overview.hidden)}", width, "dim")]
    return [line if isinstance(line, PageLine) else PageLine(Text(line)) for line in lines]


def _needs_you(overview: "BusOverview", width: int) -> list[PageLine | str]:
    needs = overview.needs
    if not needs.named:
        return []
    more = f", {needs.more} more" if needs.more else ""
    lines = _section(f"Needs you ({len(needs.named)}{more})", _NEEDS, _needs(overview), width)
    return [*lines, _note(f"next: {needs.named[0].do}", width, "yellow")]


def _agents(overview: "BusOverview") -> "list[tuple[Mapping[str, str], TaskStatus | None]]":
    counts = {one.agent: one for one in overview.tasks}
    return [(agent_rows.row(one.to_json(), overview.at, counts.get(one.agent)), None) for one in overview.agents]


def _settled(overview: "BusOverview") -> "list[tuple[Mapping[str, str], TaskStatus | None]]":
    owned = _of_several(overview.recent)
    return [(task_rows.row(one, overview.at, owned=owned), one) for one in overview.recent]


def _head(overview: "BusOverview", width: int) -> list[PageLine | str]:
    where = f"   {overview.coordinator} on {overview.servers}   nats-server {overview.server_version}"
    short = f"agentbus{where}   {overview.at:%H:%M:%S} UTC"
    day = f"{overview.at:%Y-%m-%d} " if cell_len(short) + 11 <= width else ""
    head = Text.assemble(("agentbus", "bold"), harmless(f"{where}   {day}{overview.at:%H:%M:%S} UTC"))
    lines: list[PageLine | str] = [PageLine(line) for line in head.wrap(Console(width=width), width)]
    if overview.missing:
        missing = f"missing: {', '.join(overview.missing)}; make it with: agentbus setup"
        lines.append(_note(with_bus(missing), width, "bold red"))
    return lines + [_note(f"warning: {text}", width, "yellow") for text in overview.warnings]


def _note(text: str, width: int, style: str) -> PageLine:
    """A sentence, which is folded between its words: it is not cut."""
    lines = harmless(text, style).wrap(Console(width=width), width)
    return PageLine(Text("\n").join(lines))


def _counted(title: str, count: int) -> str:
    return f"{title} ({count:,})" if count else title


def _section(
    title: str,
    columns: Sequence[Column],
    rows: "Sequence[tuple[Mapping[str, str], TaskStatus | None]]",
    width: int,
    empty: str = "none",
) -> list[PageLine | str]:
    shown = fitted_lines(columns, [row for row, _ in rows], width, empty)
    if not rows:
        return ["", PageLine(Text.assemble((f"{title}: ", "bold"), shown[0]))]
    head, *others = shown
    lines: list[PageLine | str] = ["", PageLine(Text(title, "bold")), PageLine(head)]
    return lines + [PageLine(text, status) for text, (_, status) in zip(others, rows, strict=True)]


def _needs(overview: "BusOverview") -> "list[tuple[Mapping[str, str], TaskStatus | None]]":
    return [(_need(one, overview.at), one.status) for one in overview.needs.named]


def _need(need: "Need", now: datetime) -> dict[str, str]:
    return {
        "task": need.status.task_id if need.status else f"agent {need.agent}",
        "what": _WORDS.get(need.kind, need.kind),
        "agent": need.agent if need.status else "",
        "ago": ago(now, need.since),
        "why": need.text,
        "about": need.status.about if need.status else "",
    }


def _running(overview: "BusOverview") -> "list[tuple[Mapping[str, str], TaskStatus | None]]":
    owned = _of_several(overview.running)

    def row(status: "TaskStatus") -> dict[str, str]:
        entry, claim = status.record.entry, status.record.entry.claim
        told = overview.progress.get(status.record.key)
        cost = told.spent.cost_usd if told else None
        return {
            "task": status.task_id,
            "for": ago(overview.at, moment(claim.since) if claim else None),
            "agent": status.agent,
            "does": does(overview, status),
            "cost": dollars(cost if cost is not None else status.cost_usd),
            "about": status.about,
            "type": entry.task_type,
            "attempt": str(entry.attempt) if entry.attempt > 1 else "",
            "owner": status.owner if owned else "",
            "worker": claim.worker if claim else "",
        }

    return [(row(status), status) for status in overview.running]


def does(overview: "BusOverview", status: "TaskStatus") -> str:
    """Say what a running task does: wait for a person, or what its run told last, with the time since."""
    if status.asks:
        return "asks for an answer"
    if (told := overview.progress.get(status.record.key)) is None:
        return ""
    last = str(told.summary().get("last") or "")
    since = f" ({ago(overview.at, told.at)} ago)" if told.at else ""
    return f"{last}{since}" if last else f"runs, {duration(told.elapsed_s)}"


def _queued(overview: "BusOverview") -> "list[tuple[Mapping[str, str], TaskStatus | None]]":
    owned = _of_several(overview.queued)
    alive = {one.agent: len(one.workers) for one in overview.agents}

    def row(status: "TaskStatus") -> dict[str, str]:
        entry = status.record.entry
        return {
            "task": status.task_id,
            "waits": ago(overview.at, moment(entry.created_at)),
            "agent": status.agent,
            "workers": str(alive.get(status.agent) or "none alive"),
            "about": status.about,
            "type": entry.task_type,
            "owner": status.owner if owned else "",
        }

    return [(row(status), status) for status in overview.queued]


def _of_several(tasks: "Sequence[TaskStatus]") -> bool:
    """Whether to show whose tasks they are: on most buses all are of `main`."""
    return any(status.owner != COORDINATOR for status in tasks)


def _fills(stream: "StreamUsage") -> bool:
    return stream.max_bytes is not None and stream.bytes >= _FILLING * stream.max_bytes


def _stream(one: "StreamUsage") -> dict[str, str]:
    limit = size(one.max_bytes) if one.max_bytes else "none"
    return {"stream": one.name, "size": size(one.bytes), "limit": limit, "messages": f"{one.messages:,}"}


def size(number: float) -> str:
    """Write a number of bytes in its largest unit."""
    unit = 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.0f} {_UNITS[unit]}" if unit == 0 or number >= 100 else f"{number:.1f} {_UNITS[unit]}"

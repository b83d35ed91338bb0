"""`agentbus status` and `agentbus top`: the whole bus on one page, once or live."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agentbus.cli import output
from agentbus.cli.options import bus_options, coordinator, run
from agentbus.errors import BusUnavailableError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agentbus.admin.overview import Observer, Snapshot

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


@click.command(
    epilog="""\b
Examples:
  agentbus status
  agentbus status | jq '.agents[] | select(.online | not) | .agent'""",
)
@click.option("--recent", type=click.IntRange(0, 100), default=10, show_default=True, help="How many settled tasks.")
@bus_options
def status(recent: int, nats_url: str | None, config: Path | None) -> None:
    """Show the bus on one page: streams, agents, running tasks and recent results. In a pipe, one line of JSON."""
    run(_status(recent, nats_url, config))


async def _status(recent: int, nats_url: str | None, config: Path | None) -> None:
    from agentbus.admin.overview import Observer  # noqa: PLC0415

    async with coordinator(nats_url, config) as bus:
        snapshot = await Observer(bus, recent=recent).look()
    if output.on_terminal():
        from rich.console import Console  # noqa: PLC0415

        Console().print(page(snapshot))
    else:
        output.json_line(snapshot.to_json())


@click.command(
    epilog="""\b
Examples:
  agentbus top
  agentbus top --interval 1 --recent 20
  agentbus top --count 60 > an-hour-in-minutes.jsonl --interval 60""",
)
@click.option(
    "--interval", type=click.FloatRange(min=0.2), default=2.0, show_default=True, help="Seconds between looks."
)
@click.option("--recent", type=click.IntRange(0, 100), default=10, show_default=True, help="How many settled tasks.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many looks.")
@bus_options
def top(interval: float, recent: int, count: int | None, nats_url: str | None, config: Path | None) -> None:
    """Watch the bus live until Ctrl-C. In a pipe, one line of JSON for each look. Outlasts restarts of the server."""
    run(_top(interval, recent, count, nats_url, config))


async def _top(interval: float, recent: int, count: int | None, nats_url: str | None, config: Path | None) -> None:
    from agentbus.admin.overview import Observer  # noqa: PLC0415

    async with coordinator(nats_url, config) as bus:
        observer = Observer(bus, recent=recent)
        if output.on_terminal():
            await _live(observer, interval, count)
        else:
            await _lines(observer, interval, count)


async def _lines(observer: "Observer", interval: float, count: int | None) -> None:
    looks = 0
    while True:
        try:
            output.json_line((await observer.look()).to_json())
        except BusUnavailableError as error:
            output.remark(f"warning: {error}")
        looks += 1
        if looks == count:
            return
        await asyncio.sleep(interval)


async def _live(observer: "Observer", interval: float, count: int | None) -> None:
    from rich.console import Group  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    shown: RenderableType = Text("looking …", style="dim")
    looks = 0
    with Live(shown, screen=True, auto_refresh=False) as live:
        while True:
            try:
                shown = page(await observer.look())
                live.update(shown, refresh=True)
            except BusUnavailableError as error:
                live.update(Group(Text(output.plain(str(error)), style="bold red"), shown), refresh=True)
            looks += 1
            if looks == count:
                break
            await asyncio.sleep(interval)
    if count is not None:
        live.console.print(shown)


# -- the page ---------------------------------------------------------------------------------------------------


def page(snapshot: "Snapshot") -> "RenderableType":
    """A snapshot for people."""
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    at = f"{snapshot.at:%Y-%m-%d %H:%M:%S} UTC"
    head = Text.assemble(("agentbus", "bold"), f"   nats-server {output.plain(snapshot.server_version)}   {at}")
    parts: list[RenderableType] = [head]
    if snapshot.missing:
        parts.append(Text(f"missing: {', '.join(snapshot.missing)}; make it with: agentbus setup", style="bold red"))
    parts += [
        output.make_table(
            ["agent", "workers", "free slots", "waiting", "running", "last seen", "version", "description"],
            [_agent_row(agent, snapshot.at) for agent in snapshot.agents],
            title="Agents",
        ),
        output.make_table(
            ["for", "agent", "attempt", "type", "task", "worker"],
            [
                [
                    _age(
                        snapshot.at,
                        datetime.fromisoformat(claim.since) if (claim := status.record.entry.claim) else None,
                    ),
                    status.agent,
                    str(status.record.entry.attempt),
                    status.record.entry.task_type,
                    status.task_id,
                    claim.worker if claim else "",
                ]
                for status in snapshot.running
            ],
            title="Running",
        ),
        output.make_table(
            ["ago", "agent", "state", "type", "task"],
            [
                [
                    _age(snapshot.at, status.record.changed_at),
                    status.agent,
                    status.state,
                    status.record.entry.task_type,
                    status.task_id,
                ]
                for status in snapshot.recent
            ],
            title="Settled",
        ),
        output.make_table(
            ["stream", "messages", "size", "limit"],
            [
                [
                    usage.name,
                    f"{usage.messages:,}",
                    _size(usage.bytes),
                    _size(usage.max_bytes) if usage.max_bytes else "none",
                ]
                for usage in snapshot.streams
            ],
            title="Streams",
        ),
    ]
    if snapshot.hidden:
        parts.append(Text(f"not shown to this user: {', '.join(snapshot.hidden)}", style="dim"))
    return Group(*parts)


def _agent_row(agent: dict[str, Any], now: datetime) -> Sequence[str]:
    workers: list[dict[str, Any]] = agent["workers"]
    seen = max((datetime.fromisoformat(worker["seen_at"]) for worker in workers), default=None)
    return [
        agent["agent"],
        str(len(workers)) if workers else "none alive",
        str(sum(worker["free"] for worker in workers)),
        str(agent.get("waiting", "?")),
        str(agent.get("unacknowledged", "?")),
        _age(now, seen),
        ", ".join(sorted({worker["version"] for worker in workers})),
        next((worker["description"] for worker in workers if worker["description"]), ""),
    ]


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

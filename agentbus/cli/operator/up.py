"""`agentbus up`: a bus on this machine, in the foreground."""

import asyncio
import os
import signal
from pathlib import Path

import click

from agentbus.cli import output
from agentbus.cli.options import AgentId
from agentbus.errors import ServerBinaryError

_PORT = 7422


@click.command(
    short_help="Run a bus on this machine, in the foreground.",
    epilog="""\b
Examples:
  agentbus up
  agentbus up --agent code --agent doc
  agentbus up --port 0 --store /tmp/bus       a free port, another store""",
)
@click.option("--port", type=click.IntRange(0, 65535), default=_PORT, show_default=True, help="0 picks a free one.")
@click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where messages are kept.  [default: ~/.agentbus/nats]",
)
@click.option("--agent", "agents", metavar="ID", type=AgentId(), multiple=True, help="Make its consumer; repeatable.")
def up(port: int, store: Path | None, agents: tuple[str, ...]) -> None:
    """Run a nats-server here, with everything agentbus needs, until Ctrl-C.

    It listens on 127.0.0.1 only and asks for no password: it is for one person on one machine. It writes each message
    to the disk before it acknowledges it. The other commands find it by themselves.
    """
    asyncio.run(_up(port, (store or Path("~/.agentbus/nats")).expanduser().absolute(), agents))


async def _up(port: int, store: Path, agents: tuple[str, ...]) -> None:
    from agentbus.bus.setup import set_up  # noqa: PLC0415
    from agentbus.coordinator import connect  # noqa: PLC0415
    from agentbus.provision.nats_server import run_server  # noqa: PLC0415

    stopped = asyncio.Event()
    if os.name == "posix":
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with run_server(store=store, port=port) as server:
        async with connect(server.url) as bus:
            findings = await set_up(bus.bus, agents)
            version = bus.bus.server_version
        if output.on_terminal():
            made = sum(item.outcome == "made" for item in findings)
            output.remark(
                f"nats-server {version} at {server.url}, store {store}\n"
                f"{len(findings)} streams, buckets and consumers ready ({made} of them new)\n"
                "next: agentbus worker run; agentbus task publish --to ID --task-type TYPE CONTENT\n"
                "Ctrl-C stops it; nothing is lost"
            )
        else:
            shown = os.fsencode(store).decode(errors="replace")  # a path need not be UTF-8, JSON must be
            output.json_line({"url": server.url, "version": version, "store": shown, "pid": server.pid})
        ended = asyncio.create_task(server.wait())
        stop = asyncio.create_task(stopped.wait())
        try:
            await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (ended, stop):
                task.cancel()
        if ended.done() and not ended.cancelled():
            raise ServerBinaryError(f"nats-server ended by itself with code {ended.result()}; see {server.log}")

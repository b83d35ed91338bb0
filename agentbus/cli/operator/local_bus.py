"""Runs nats-server in the foreground with everything that agentbus needs on it."""

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from agentbus.bus.setup import set_up
from agentbus.cli import output
from agentbus.coordinator import connect
from agentbus.errors import ServerBinaryError
from agentbus.provision.nats_server import run_server
from agentbus.provision.store_in_use import store_for_one


async def run_bus(port: int, store: Path, agents: Sequence[str]) -> None:
    """Run the server until SIGINT or SIGTERM; print its URL once it is ready.

    Raises:
        ConfigError: another `agentbus up` uses the store, or it cannot be written to.
        ServerBinaryError: nats-server is missing, did not start, or exited.
    """
    stopped = asyncio.Event()
    if os.name == "posix":
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    serving = asyncio.create_task(_serve(port, store, agents))
    stop = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        if not serving.done():
            serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


async def _serve(port: int, store: Path, agents: Sequence[str]) -> None:
    """Run the server until this is cancelled.

    Raises:
        ConfigError, ServerBinaryError: see `run_bus`.
    """

    def say_loading(seconds: float) -> None:
        output.remark(f"nats-server is loading what {store} holds, for {seconds:.0f} s so far; Ctrl-C stops it")

    async with (
        store_for_one(store) as tell_server,
        run_server(store=store, port=port, on_loading=say_loading) as server,
    ):
        await tell_server(server)
        async with connect(server.url) as bus:
            findings = await set_up(bus.bus, agents)
            version = bus.bus.server_version
        if output.on_terminal():
            made = sum(item.outcome == "made" for item in findings)
            output.remark(
                f"nats-server {version} at {server.url}, store {store}\n"
                f"{len(findings)} streams, buckets and consumers ready ({made} of them new)\n"
                "next: agentbus worker run; agentbus task publish --to ID --task-type TYPE CONTENT\n"
                "Ctrl-C stops it; the messages stay in the store"
            )
        else:
            shown = os.fsencode(store).decode(errors="replace")  # a path need not be UTF-8, JSON must be
            output.json_line({"url": server.url, "version": version, "store": shown, "pid": server.pid})
        raise ServerBinaryError(f"nats-server exited with code {await server.wait()}; see {server.log}")

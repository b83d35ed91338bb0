"""Starts what benchmarks measure: a server with a bus, a worker, and measuring processes."""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal

from agentbus import Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer, run_server
from support.harness import Process, worker, worker_toml

Sync = Literal["default", "always"]
COMMAND: Final = "/bin/true"
AGENT: Final = "code"
PROMPT_BYTES: Final = 1400
"""The length of the command's argument: about that of the prompt of a short task."""
BOUND_S: Final = 60.0
"""How long any wait may take before the benchmark fails."""
ROOT: Final = Path(__file__).parent.parent


@asynccontextmanager
async def bus(sync: Sync = "default") -> AsyncGenerator[tuple[NatsServer, Coordinator, Path]]:
    """Run a server with the streams of a bus; yield it with a connected coordinator and a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="agentbus-bench-") as name:
        folder = Path(name)
        store = folder / "nats"
        store.mkdir()
        conf = folder / "nats-server.conf"
        always = "sync_interval: always" if sync == "always" else ""
        jetstream = f'jetstream {{ store_dir: "{store}"\n {always} }}'
        conf.write_text(f'listen: "127.0.0.1:-1"\nmax_payload: 8MB\n{jetstream}\n', encoding="utf-8")
        async with run_server(store=store, config=conf) as server, connect(server.url) as coordinator:
            await set_up(coordinator.bus)
            yield server, coordinator, folder


@asynccontextmanager
async def one_worker(server: NatsServer, folder: Path, *, concurrency: int = 1) -> AsyncGenerator[Process]:
    """Run a worker that runs `/bin/true` for each task, with the default configuration otherwise."""
    config = worker_toml(
        folder,
        server.url,
        agent=AGENT,
        chat_cmd=[COMMAND, "{input}"],
        worker={"concurrency": concurrency, "state_dir": folder / f"state-{concurrency}"},
    )
    async with worker(config) as process:
        yield process


class MeasuringProcess:
    """A process that takes one measurement for each line on its stdin."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, *words: object) -> list[float]:
        """Send one line, and return the numbers of the answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write((" ".join(str(word) for word in words) + "\n").encode())
        answer = await stdout.readline()
        if not answer:
            raise RuntimeError("the measuring process has ended; see its traceback above")
        return [float(word) for word in answer.split()]


@asynccontextmanager
async def measuring_process(module: str, *arguments: str) -> AsyncGenerator[MeasuringProcess]:
    """Run `python -m benchmarks.<module>` for the length of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"benchmarks.{module}",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        yield MeasuringProcess(process)
    finally:
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.close()
        await process.wait()

"""Runs a real worker whose agent command answers as a test tells it, in place of a model.

async with temporary_bus() as bus, fake_agent(bus, "code") as code:
    code.answer("looks good", task_type="review")
    ...
    assert code.received()[0].payload.content == "PR 123"
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.config.private_files import write_private
from agentbus.config.toml_text import toml_text
from agentbus.errors import FakeAgentError
from agentbus.protocol import subjects
from agentbus.protocol.messages import Task, decode_task
from agentbus.testing import fake_command
from agentbus.testing.temporary_bus import TemporaryBus

_READY: Final = b"ready for tasks"
_START_TIMEOUT_S: Final = 30.0
"""A worker is ready within a second; a busy machine with many tests side by side needs longer."""
_STOP_TIMEOUT_S: Final = 10.0
"""Long enough for a worker to end its command and to hand back its task."""
_POLL_S: Final = 0.02


class FakeAgent:
    """What a test tells an agent, and what the agent was given; see `fake_agent`.

    Until the test says otherwise, each task is answered with `done`. What it says holds for the tasks that start later.
    """

    def __init__(self, agent: str, folder: Path) -> None:
        self.id = agent
        self._folder = folder
        self._answers: dict[str, dict[str, Any]] = {}
        self._received = folder / "received"
        self._received.mkdir()
        self._write()

    def answer(self, output: str, *, task_type: str | None = None) -> None:
        """Complete tasks with this output; with a `task_type`, tasks of that type only.

        An output with the line `status=needs_approval` gives the result `needs_approval`.
        """
        self._set(task_type, output=output)

    def fail(self, error: str, *, exit_code: int = 1, task_type: str | None = None) -> None:
        """Fail tasks: write the error to standard error and end with `exit_code`."""
        self._set(task_type, error=error, exit_code=exit_code)

    def hang(self, *, task_type: str | None = None) -> None:
        """Work on tasks until they are cancelled, or their time is over."""
        self._set(task_type, hang=True)

    def received(self) -> list[Task]:
        """Return the tasks that the agent has started, in order. A task that is run again is listed again."""
        return [decode_task(path.read_bytes()) for path in sorted(self._received.glob("*.json"))]

    def _set(self, task_type: str | None, **answer: Any) -> None:
        self._answers[task_type or ""] = answer
        self._write()

    def _write(self) -> None:
        write_private(self._folder / "answers.json", json.dumps(self._answers), replace=True)


@asynccontextmanager
async def fake_agent(bus: TemporaryBus, agent: str = "code", *, concurrency: int = 1) -> AsyncGenerator[FakeAgent]:
    """Run a worker of `agent` for the length of the block, which starts once the worker takes tasks.

    The worker is a process of its own, so what a test sees is what a user sees. Needs Linux or macOS.

    Args:
        concurrency: how many tasks the worker runs at the same time.

    Raises:
        InvalidIdError: `agent` is no agent id.
        FakeAgentError: the worker did not start; with the end of its log.
    """
    name = subjects.agent_id(agent)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=bus.folder))
    fake = FakeAgent(name, folder)
    config, log = folder / "agentbus.toml", folder / "worker.log"
    write_private(config, _worker_toml(bus, name, folder, concurrency))
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "agentbus", "worker", "run", "--config", str(config)],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=os.name == "posix",  # Ctrl-C reaches the tests; they end the worker
        )
    try:
        await _wait_until_ready(process, log)
        yield fake
    finally:
        await asyncio.shield(_stop(process))


def _worker_toml(bus: TemporaryBus, agent: str, folder: Path, concurrency: int) -> str:
    command = [sys.executable, "-I", fake_command.__file__, str(folder)]
    return toml_text(
        {
            "agent": {"id": agent, "chat_cmd": command, "prompt_via": "stdin"},
            "worker": {
                "concurrency": concurrency,
                "state_dir": folder / "state",
                # A test that ends while a command hangs must not wait for it.
                "drain_timeout_seconds": 0,
                "kill_grace_seconds": 1,
                "reconnect_time_wait_seconds": 0.2,
            },
            "nats": {"url": bus.url},
            "log": {"dir": folder / "logs"},
        }
    )


async def _wait_until_ready(process: asyncio.subprocess.Process, log: Path) -> None:
    async for _ in retry_until(deadline_after(_START_TIMEOUT_S), _POLL_S):
        said = log.read_bytes()
        if _READY in said:
            return
        if process.returncode is not None:
            raise FakeAgentError(f"the worker ended with exit code {process.returncode}: {_end_of(said)}")
    raise FakeAgentError(f"the worker was not ready within {_START_TIMEOUT_S:g} s: {_end_of(log.read_bytes())}")


def _end_of(log: bytes) -> str:
    return log.decode(errors="replace").strip()[-1000:] or "it said nothing"


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()

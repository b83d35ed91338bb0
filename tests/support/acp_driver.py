"""Runs the driver of agents that speak the Agent Client Protocol, with an agent of the tests, and reads its lines."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from agentbus_worker.acp.assignment import Assignment
from agentbus_worker.formats.judgement import Ended, Judgement
from agentbus_worker.formats.stream import EventStream
from support.harness import BOUND_S, SUPPORT

AGENT: Final = [sys.executable, str(SUPPORT / "acp_agent.py")]


class Driver:
    """A driver that runs, in a session of its own."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        self.process = process
        self._errors = errors
        self.lines: list[dict[str, Any]] = []
        self.stream = EventStream("acp")
        self.stderr = ""

    async def line(self) -> dict[str, Any] | None:
        """Read the next line; None at the end."""
        assert self.process.stdout is not None
        async with asyncio.timeout(BOUND_S):
            found = await self.process.stdout.readline()
        self.stream.feed(found)
        if not found:
            return None
        self.lines.append(json.loads(found))
        return self.lines[-1]

    async def until(self, kind: str) -> dict[str, Any]:
        """Read up to a line of a kind, and return it."""
        while (found := await self.line()) is not None:
            if found["acp"] == kind:
                return found
        raise AssertionError(f"no {kind} in {self.lines}, {self.stderr}")

    async def end(self) -> Judgement:
        """Read to the end, and judge the run."""
        while await self.line() is not None:
            pass
        async with asyncio.timeout(BOUND_S):
            code = await self.process.wait()
        self.stderr = self._errors.read_text(encoding="utf-8")  # a file, as an agent may outlive the driver
        for line in self.stderr.splitlines():
            self.stream.feed_error(line.encode() + b"\n")
        assert "Traceback" not in self.stderr, self.stderr
        return self.stream.outcome(Ended("exited", code, f"the command exited with status {code}", stderr=self.stderr))

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The lines of a kind."""
        return [line for line in self.lines if line["acp"] == kind]


@asynccontextmanager
async def driver(
    *does: str,
    folder: Path,
    command: list[str] | None = None,
    prompt: str = "Do it.",
    stdout: int = asyncio.subprocess.PIPE,
    **given: Any,
) -> AsyncGenerator[Driver]:
    """Run the driver with an agent that does what is said; nothing of it is left after the block."""
    words = command if command is not None else [*AGENT, *does]
    errors = folder / "errors"
    with errors.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "agentbus_worker.acp", *words,
            stdin=asyncio.subprocess.PIPE, stdout=stdout, stderr=stderr,
            cwd=folder, start_new_session=True, limit=16_777_216,
        )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(Assignment(prompt, **given).to_bytes())
    process.stdin.close()
    try:
        yield Driver(process, errors)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def driven(*does: str, folder: Path, **given: Any) -> tuple[Judgement, Driver]:
    """Run the driver to its end."""
    async with driver(*does, folder=folder, **given) as running:
        return await running.end(), running

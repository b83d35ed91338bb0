"""Times the command line: help, usage errors, completion, and the whole of `agentbus task publish`."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Final

from benchmarks.environment import AGENT, bus
from benchmarks.harness import Measure, Row, Size, Target, at_most, compared, interleaved

_COMPLETION: Final = {
    "_AGENTBUS_COMPLETE": "bash_complete",
    "COMP_WORDS": "agentbus task publish --",
    "COMP_CWORD": "3",
}
_USAGE_ERROR: Final = 2
_HELP_TARGET: Final = at_most(5)
"""Importing click alone takes about 4 times as long as an empty program."""
_PUBLISH_TARGET: Final = at_most(1.5)


async def measure(size: Size) -> list[Row]:
    # Bytecode is compiled before the first measurement, as it is after the first start on a machine.
    with tempfile.TemporaryDirectory(prefix="agentbus-bench-") as compiled:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env["PYTHONPYCACHEPREFIX"] = compiled
        empty = _program("-c", "pass", env=env)
        prompt = {
            "agentbus --help": _agentbus("--help", env=env),
            "agentbus task --help": _agentbus("task", "--help", env=env),
            "a usage error of task publish": _agentbus("task", "publish", "--no", env=env, expected=_USAGE_ERROR),
            "completion of options of task publish": _agentbus(env=env | _COMPLETION),
        }
        rows = [
            await _against(what, "python -c pass", ours, empty, size, _HELP_TARGET) for what, ours in prompt.items()
        ]
        async with bus() as (server, _, _):
            task = ("task", "publish", "--to", AGENT, "--task-type", "bench", "--nats-url", server.url, "x")
            limit = _program("-c", "import nats, pydantic", env=env)
            libraries = 'python -c "import nats, pydantic"'
            rows.append(
                await _against("task publish", libraries, _agentbus(*task, env=env), limit, size, _PUBLISH_TARGET)
            )
    return rows


async def _against(what: str, against: str, ours: Measure, limit: Measure, size: Size, target: Target) -> Row:
    await ours()
    await limit()
    pairs = await interleaved(ours, limit, size.turns)
    return compared("startup", f"{what}, against {against}", "ms", pairs, target)


def _agentbus(*arguments: str, env: Mapping[str, str], expected: int = 0) -> Measure:
    return _program("-m", "agentbus", *arguments, env=env, expected=expected)


def _program(*arguments: str, env: Mapping[str, str], expected: int = 0) -> Measure:
    """Return a measurement that runs Python once with these arguments, in milliseconds."""

    async def run() -> float:
        start = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=env,
        )
        _, stderr = await process.communicate()
        took = (time.perf_counter() - start) * 1000
        if process.returncode != expected:
            raise RuntimeError(f"{' '.join(arguments)} failed: {stderr.decode()}")
        return took

    return run

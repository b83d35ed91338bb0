"""Workers that export spans into a file, and what the file holds."""

import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.harness import SUPPORT, Process, eventually, process

TRACED = str(SUPPORT / "traced.py")


def spans_in(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@asynccontextmanager
async def traced_worker(config: Path, spans: Path) -> AsyncGenerator[Process]:
    """A real worker with the SDK."""
    argv = [sys.executable, TRACED, str(spans), "simple", "agentbus", "worker", "run", "--config", str(config)]
    with process(argv, config.with_suffix(f".{os.urandom(3).hex()}.log")) as child:
        await child.until_said("ready for tasks")
        yield child


async def ended_spans(spans: Path, name: str, count: int = 1) -> list[dict[str, Any]]:
    """The spans of a name, once there are so many: a span ends a little after its result is there."""

    def found() -> list[dict[str, Any]] | None:
        named = [span for span in spans_in(spans) if span["name"] == name]
        return named if len(named) >= count else None

    return await eventually(found, f"{count} spans {name!r}")

"""Workers whose agent keeps sessions, each in a place of its own, and what they have on disk."""

import json
import sys
from pathlib import Path
from typing import Any

from agentbus.bus.jetstream import Bus
from agentbus.protocol.conversations import places
from agentbus.protocol.headers import KV_OPERATION
from agentbus.task_handle import TaskHandle
from support.harness import SUPPORT, worker_toml
from support.jobs import WAIT_S, agent_keys

COMMAND = [sys.executable, str(SUPPORT / "conversing_agent.py")]


def conversing_worker(
    folder: Path, url: str, *, command: list[str] = COMMAND, agent: dict[str, Any] | None = None, **worker: Any
) -> Path:
    """The configuration of a worker in `folder`, which is a place of its own: it has its state and its home."""
    (folder / "home").mkdir(parents=True, exist_ok=True)
    keys = {"prompt_via": "stdin", "output": "claude", "resume_cmd": [*command, "--resume", "{session}"]}
    config = worker_toml(folder, url, chat_cmd=command, worker=worker)
    return agent_keys(config, **{**keys, **(agent or {})})


def home(folder: Path) -> dict[str, str]:
    """The environment of such a worker."""
    return {"HOME": str(folder / "home")}


async def done(task: TaskHandle) -> dict[str, Any]:
    """Wait for the result of a task; the message."""
    result = await task.result(timeout_s=WAIT_S)
    return result.to_json()


def run_of(result: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = result.get("run", {})
    return found


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of the sessions of a place."""
    return [json.loads(path.read_bytes()) for path in folder.glob("state/*/code/conversations/*.json")]


def runs(folder: Path) -> list[list[str]]:
    """What the agent of a place has noted of its runs: the task, the session, and whether it begins or ends."""
    noted = folder / "home" / "sessions" / "runs"
    return [line.split() for line in noted.read_text(encoding="utf-8").splitlines()] if noted.exists() else []


async def forget_place(bus: Bus, place: str) -> None:
    """Let the registry forget that a place was alive, as it does after 90 seconds."""
    await bus.store(places.mark("code", place), b"", headers={KV_OPERATION: "DEL"})

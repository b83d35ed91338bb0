"""Helpers for tests of workers: publish a task, wait for its result, look at what is on the bus."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentbus import Coordinator, TaskStatus
from agentbus.bus.topology import consumer_config
from agentbus.protocol import subjects
from support.harness import BOUND_S, Process, alive, eventually

WAIT_S = BOUND_S


async def publish(bus: Coordinator, content: Any, *, agent: str = "code", **more: Any) -> str:
    """Publish one task; its id."""
    task = await bus.publish(agent, content, task_type="test", **more)
    return task.id


async def settled(bus: Coordinator, task_id: str) -> TaskStatus:
    """Wait for the result of a task."""
    waited = await bus.wait([task_id], timeout_s=WAIT_S)
    assert task_id in waited.settled, f"{task_id} is still {waited.pending[task_id].state}"
    return waited.settled[task_id]


async def outcome(bus: Coordinator, content: Any, **more: Any) -> TaskStatus:
    """Publish one task and wait for its result."""
    return await settled(bus, await publish(bus, content, **more))


def ran_nothing(worker: Process) -> bool:
    """Whether its log tells of no command: of none that lasts, and of no task that was settled after one."""
    return not worker.said(": started ") and not worker.said(": settled status=")


def text(status: TaskStatus) -> str:
    assert status.result is not None
    return str(status.result.result)


def error(status: TaskStatus) -> str:
    assert status.result is not None
    return str(status.result.error)


async def counts(bus: Coordinator) -> dict[str, int]:
    """Messages in each stream."""
    names = (subjects.TASKS_STREAM, subjects.RESULTS_STREAM, subjects.DEAD_STREAM)
    return {name: int((await bus.bus.api(f"STREAM.INFO.{name}"))["state"]["messages"]) for name in names}


async def acknowledged(bus: Coordinator) -> None:
    """Wait until no task is left on the bus: each has been acknowledged or terminated."""

    async def empty() -> bool:
        return (await counts(bus))[subjects.TASKS_STREAM] == 0

    await eventually(empty, "all tasks are acknowledged")


async def result_messages(bus: Coordinator) -> list[dict[str, Any]]:
    """Every message in the coordinator's inbox."""
    return [json.loads(message.data) for message in await bus.results(newest=1000)]


async def short_lease(bus: Coordinator, agent: str = "code", lease_s: float = 1.5) -> None:
    """Make the consumer with a short ack_wait, which is the lease."""
    name = subjects.durable(agent)
    await bus.bus.create_consumer(subjects.TASKS_STREAM, name, consumer_config(agent, name, ack_wait_s=lease_s))


async def fill(bus: Coordinator, stream: str) -> Callable[[], Any]:
    """Put a stream at its max_bytes; returns what gives it room again."""
    info = await bus.bus.api(f"STREAM.INFO.{stream}")
    config = info["config"]
    await bus.bus.api(f"STREAM.UPDATE.{stream}", {**config, "max_bytes": max(1, info["state"]["bytes"])})
    return lambda: bus.bus.api(f"STREAM.UPDATE.{stream}", config)


def pid_in(path: Path) -> int:
    """The pid that a process has written into `path`; 0 while there is none."""
    with contextlib.suppress(OSError, ValueError):
        content = path.read_text(encoding="utf-8")
        return int(content) if content.endswith("\n") else 0
    return 0


async def pid_from(path: Path) -> int:
    return await eventually(lambda: pid_in(path), f"a process writes its pid into {path.name}")


async def gone(*pids: int, timeout_s: float = BOUND_S) -> None:
    await eventually(lambda: not any(alive(pid) for pid in pids), f"the processes {pids} are gone", timeout_s=timeout_s)


def agent_keys(config: Path, **keys: Any) -> Path:
    """Add keys to the section [agent] of a worker's configuration."""
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    config.write_text(config.read_text(encoding="utf-8").replace("[agent]\n", f"[agent]\n{lines}"), encoding="utf-8")
    return config


ASKS_UNLESS_ANSWERED = """
import sys
prompt = sys.stdin.read()
approved = '"decision":"approved"' in prompt and '"comment":"only that one"' in prompt
print("deleted" if approved else "status=needs_approval\\nmay I delete the branch?")
"""

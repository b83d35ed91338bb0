"""Writes entries of workers into the registry, as they announce themselves."""

import json
from typing import Any, Final

from agentbus import Coordinator

SINCE: Final = "2026-05-18T00:00:00.5+00:00"
PAUSED: Final = {
    "code": "not_started",
    "reason": "no\n\x1b[1mcommand",
    "until": "2026-05-18T00:01:00+00:00",
    "since": SINCE,
}


async def register(coordinator: Coordinator, instance: str = "box-1", **more: Any) -> None:
    worker = {
        "agent": "code", "instance": instance, "host": "box", "pid": 1, "version": "1.0", "slots": 1, "free": 1,
        "started_at": SINCE, **more,
    }  # fmt: skip
    await coordinator.bus.store(f"$KV.AGENT_REGISTRY.code.{instance}", json.dumps(worker).encode())

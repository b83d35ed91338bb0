"""What tab completion offers of a bus: its agents, groups and newest tasks, from a cache that lives for seconds.

A person waits for the key: a bus that does not answer at once, or a configuration that is wrong, offers what was
read before, or nothing; and nothing is ever printed.
"""

import asyncio
import hashlib
import json
import time
from pathlib import Path
from typing import Any, Final, TypedDict

import click

from agentbus.config.home import in_home_if_any
from agentbus.config.loading import load_coordinator
from agentbus.config.private_files import private_folder, write_private
from agentbus.coordinator import connect
from agentbus.errors import AgentBusError
from agentbus.protocol import subjects
from agentbus.protocol.listed.labels import is_group_name

_FOLDER: Final = "~/.agentbus/cache"
_FRESH_S: Final = 10.0
_USED_S: Final = 300.0
"""For so long what was read before is offered where the bus is away."""
_WITHIN_S: Final = 0.6
"""With the start of Python and of a connection, that is less than a second."""
_MOST_TASKS: Final = 100
_MOST_BYTES: Final = 1 << 20


class Names(TypedDict):
    """What a bus has, as the cache keeps it."""

    agents: list[str]
    tasks: list[list[str]]
    groups: list[str]


_NONE: Final[Names] = {"agents": [], "tasks": [], "groups": []}


def names(context: click.Context) -> Names:
    """Return what the bus of a command line has; nothing where that cannot be known within a moment."""
    url, path = context.params.get("nats_url"), context.params.get("config")
    try:
        cache = _cache(url, path)
        kept, age_s = _read(cache)
        if kept is not None and age_s < _FRESH_S:
            return kept
        found = asyncio.run(_ask(url, path))
        if found is None:
            return kept if kept is not None and age_s < _USED_S else _NONE
        _write(cache, found)
    except (AgentBusError, OSError, ValueError):
        return _NONE
    return found


def _cache(url: str | None, path: Path | None) -> Path | None:
    """The file of this bus and this party; None without a home folder."""
    settings, _ = load_coordinator(nats_url=url, path=path)
    what = f"{settings.nats.url}\0{settings.coordinator.id}\0{path or ''}"
    folder = in_home_if_any(_FOLDER)
    return None if folder is None else folder / f"completion-{hashlib.sha256(what.encode()).hexdigest()[:16]}.json"


def _read(cache: Path | None) -> tuple[Names | None, float]:
    try:
        if cache is None or cache.stat().st_size > _MOST_BYTES:
            return None, 0.0
        age_s = time.time() - cache.stat().st_mtime
        return _checked(json.loads(cache.read_text(encoding="utf-8"))), age_s if age_s >= 0 else _USED_S
    except (OSError, ValueError, TypeError, KeyError):
        return None, 0.0


def _checked(found: Any) -> Names:
    """Return what a cache holds that is a name: a shell gets it."""
    return {
        "agents": [one for one in found["agents"] if subjects.is_agent_id(one)],
        "tasks": [[*map(str, one[:3])] for one in found["tasks"] if subjects.is_task_id(one[0])],
        "groups": [one for one in found["groups"] if is_group_name(one)],
    }


def _write(cache: Path | None, found: Names) -> None:
    if cache is not None:
        private_folder(cache.parent)
        write_private(cache, json.dumps(found), replace=True)


async def _ask(url: str | None, path: Path | None) -> Names | None:
    settings, _ = load_coordinator(nats_url=url, path=path)
    try:
        async with asyncio.timeout(_WITHIN_S), connect(config=settings, name="agentbus completion") as bus:
            tasks, agents = await asyncio.gather(
                bus.list_tasks(limit=_MOST_TASKS, with_results=False, search_s=_WITHIN_S), bus.overview()
            )
    except TimeoutError:
        return None
    except AgentBusError:
        return None
    return {
        "agents": sorted({one.agent for one in agents} | {one.agent for one in tasks.tasks}),
        "tasks": [[one.task_id, str(one.name), one.state] for one in tasks.tasks],
        "groups": sorted({one.group for one in tasks.tasks if one.group is not None}),
    }

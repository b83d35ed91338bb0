"""Which agents a bus has seen: those that a worker, a set-up or a task has named."""

import asyncio
import difflib
from collections.abc import Iterable
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import BusError, PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.tasks.presence import present

_LIKE: Final = 0.6
"""How like a name must be to be taken for what was meant: `code` for `cod`, and not for `qa`."""
_LOOK_S: Final = 1.0
"""How long a publication may wait for the look whether its agent is known, of which it is only told."""


async def unknown_agents(bus: Bus, agents: Iterable[str]) -> dict[str, list[str]]:
    """Return those of some agents that the bus has never seen, each with the known names, the nearest first.

    None are, as far as can be told, where this user may not see which agents there are, and on a bus that has seen no
    agent so far: a task may be published before the first worker starts.

    Raises:
        InvalidIdError: one of the names is no id.
        BusError: the bus does not answer.
    """
    try:
        named = dict.fromkeys(subjects.agent_id(agent) for agent in agents)
        wanted = [agent for agent in named if not await present(bus, agent)]
        if not wanted:
            return {}
        known = await _known(bus)
        unseen = [agent for agent in wanted if agent not in known and not await _is_queued(bus, agent)]
    except (PermissionDeniedError, SetupMissingError):
        return {}
    return {agent: by_likeness(agent, known) for agent in unseen} if known else {}


async def unknown_note(bus: Bus, agent: str) -> str | None:
    """Say that the bus has never seen an agent, with the name that was probably meant; None if it has.

    Nor is anything said where the bus does not answer soon: the publication says what is wrong.
    """
    try:
        async with asyncio.timeout(_LOOK_S):
            known = (await unknown_agents(bus, [agent])).get(agent)
    except (BusError, TimeoutError):
        return None
    if known is None:
        return None
    near = nearest(agent, known)
    meant = f"; did you mean {near}?" if near else ""
    return f"this bus has never seen an agent {agent}: the task waits for its first worker{meant}"


def by_likeness(agent: str, known: Iterable[str]) -> list[str]:
    """Sort names by how like they are to one; the first is `nearest`, if it is like at all."""
    return sorted(known, key=lambda name: (-_likeness(agent, name), name))


def nearest(agent: str, known: Iterable[str]) -> str | None:
    """Return the name that was probably meant."""
    first = next(iter(by_likeness(agent, known)), None)
    return first if first is not None and _likeness(agent, first) >= _LIKE else None


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()


async def _known(bus: Bus) -> set[str]:
    """The agents that have a consumer, or a living worker."""
    named = [
        subjects.agent_of_filter(consumer.filter_subject) for consumer in await bus.consumers(subjects.TASKS_STREAM)
    ]
    return {name for name in named if name is not None} | {worker.agent for worker in await present(bus)}


async def _is_queued(bus: Bus, agent: str) -> bool:
    """Whether a task of the agent waits, so that another one had the same in mind."""
    stream = await bus.stream_info(subjects.TASKS_STREAM, subjects_filter=subjects.all_of(agent))
    return bool(stream.state.subjects)

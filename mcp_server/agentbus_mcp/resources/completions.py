"""Completes arguments of resource templates and prompts: names of agents and streams, and ids of tasks."""

from collections.abc import Iterable
from contextlib import aclosing
from typing import Any, Final

import anyio
from mcp.server.mcpserver import MCPServer
from mcp_types import Completion, CompletionArgument, CompletionContext, PromptReference, ResourceTemplateReference

from agentbus.bus.reading.ledger_reader import LedgerReader
from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError
from agentbus.protocol import subjects
from agentbus_mcp.bus_link import BusLink

MAX_VALUES: Final = 100
"""The protocol's limit."""
_RECENT: Final = 250
"""How many of the newest ledger entries are searched for ids, at least; at most eight times as many."""
_TIMEOUT_S: Final = 2.0

_AGENTS: Final = frozenset({"agent", "agents", "to"})
_TASKS: Final = frozenset({"task_id", "task_ids", "task"})
_SEVERAL: Final = frozenset({"to", "task_ids"})
"""Arguments of prompts that take several names."""
_STREAMS: Final = (subjects.TASKS_STREAM, subjects.RESULTS_STREAM)


def add_completions(server: MCPServer[Any], bus_link: BusLink) -> None:
    """Let a server complete arguments by their names; without a bus there are no completions."""

    @server.completion()
    async def complete(  # pyright: ignore[reportUnusedFunction]
        ref: PromptReference | ResourceTemplateReference,  # noqa: ARG001
        argument: CompletionArgument,
        context: CompletionContext | None,  # noqa: ARG001
    ) -> Completion:
        if argument.name == "stream":
            return _matching(_STREAMS, argument.value)
        coordinator, names = bus_link.up, list[str]()
        if coordinator is not None:
            with anyio.move_on_after(_TIMEOUT_S):
                names = await _names(coordinator, argument.name)
        before, part = _split_last(argument) if argument.name in _SEVERAL else ("", argument.value)
        return _matching(names, part, before)


async def _names(coordinator: Coordinator, argument: str) -> list[str]:
    try:
        if argument in _AGENTS:
            return sorted({coordinator.agent, *(found.agent for found in await coordinator.overview())})
        if argument in _TASKS:
            return await _recent_tasks(coordinator)
    except AgentBusError:
        pass  # without the bus there are no completions, which is no error
    return []


async def _recent_tasks(coordinator: Coordinator) -> list[str]:
    """Return the ids of tasks, the last changed first; only the headers of the ledger are read."""
    subject = subjects.states(owner=coordinator.agent if coordinator.role == "member" else None)
    reader, found, searched = await LedgerReader.of(coordinator.bus, subject), dict[str, None](), 0
    reading = reader.windows(keep=lambda entry: subjects.parse_state(entry.subject) is not None, count=_RECENT)
    async with aclosing(reading) as windows:
        async for window in windows:
            keys = [subjects.parse_state(entry.subject) for entry in window.messages]
            found |= dict.fromkeys(key.id for key in keys if key is not None)
            searched += window.read
            if searched >= _RECENT:
                break
    return list(found)


def _split_last(argument: CompletionArgument) -> tuple[str, str]:
    """Split names separated by commas into the complete ones and the last, which is being typed."""
    before, comma, part = argument.value.rpartition(",")
    return (f"{before}, " if comma else "", part.strip())


def _matching(names: Iterable[str], typed: str, before: str = "") -> Completion:
    """Match the names that begin with the typed text, then those that contain it, each after the complete names."""
    part, named = typed.lower(), {name.strip() for name in before.split(",")}
    holding = [name for name in names if part in name.lower() and name not in named]
    values = sorted(holding, key=lambda name: not name.lower().startswith(part))
    shown = [before + name for name in values[:MAX_VALUES]]
    return Completion(values=shown, total=len(values), has_more=len(values) > MAX_VALUES)

"""Deletes what parties that were removed have left on the bus, once it holds nothing: a ledger takes room of others.

Results lie in the inboxes and are not touched.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress

from agentbus.bus.jetstream import Bus
from agentbus.bus.reading.ledger_parts import agent_of_ledger, name_of
from agentbus.bus.topology import wanted_consumers
from agentbus.errors import SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import ledger_of, party_of_stream
from agentbus.protocol.progress import names
from agentbus.protocol.work import input_names


async def clear_agent(bus: Bus, agent: str) -> bool:
    """Delete the consumers, the ledger, the files and what the runs told of an agent, if it holds nothing.

    What is queued, every state and every stored file expires or is deleted first; until then all of it stays.

    Returns:
        whether nothing is left of it.

    Raises:
        PermissionDeniedError: the user may not administer the bus.
    """
    kept = (ledger_of(agent), subjects.files_stream(agent), input_names.stream(agent))
    if not await _is_empty(bus, agent, kept):
        return False
    # Without its consumers no task is taken for it. So what came until then is seen, and nothing comes afterwards.
    for config in wanted_consumers(agent):
        await _delete(bus, f"CONSUMER.DELETE.{subjects.TASKS_STREAM}.{config['durable_name']}")
    if not await _is_empty(bus, agent, kept):
        return False
    for stream in (*kept, names.stream(agent)):
        await _delete(bus, f"STREAM.DELETE.{stream}")
    return True


async def clear_coordinators(bus: Bus, kept: Collection[str]) -> list[str]:
    """Delete the ledgers of coordinators that hold no MCP task, without those of `kept`.

    Returns:
        whose they were.

    Raises:
        PermissionDeniedError: the user may not administer the bus.
    """
    gone: list[str] = []
    for info in await bus.streams_of(subjects.STATE_SUBJECTS):
        party = party_of_stream(name_of(info))
        if party is None or party in kept or agent_of_ledger(info) is not None or info.state.messages:
            continue
        await _delete(bus, f"STREAM.DELETE.{name_of(info)}")
        gone.append(party)
    return gone


async def _is_empty(bus: Bus, agent: str, streams: Sequence[str]) -> bool:
    """Whether these streams hold nothing, and no task waits for the agent."""
    for stream in streams:
        with suppress(SetupMissingError):
            if (await bus.stream_info(stream)).state.messages:
                return False
    with suppress(SetupMissingError):
        queued = (await bus.stream_info(subjects.TASKS_STREAM, subjects_filter=subjects.all_of(agent))).state.subjects
        return not queued
    return True


async def _delete(bus: Bus, verb: str) -> None:
    with suppress(SetupMissingError):
        await bus.api(verb)

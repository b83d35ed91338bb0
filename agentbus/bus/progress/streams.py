"""Makes the stream of each agent that keeps what its runs tell, as far as the storage allows.

What a bus lacks of these streams stops no work, so set-up says it and goes on; and where work needs their room, they
give it.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from agentbus.bus.bounds.largest_fit import largest_fit
from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import read_stream_info
from agentbus.bus.progress.wanted import LEAST_BYTES, WRITES_LATER, progress_config, size_for
from agentbus.bus.topology import SWITCHES_OFF
from agentbus.bus.wanted.setup_plan import Finding, differences_between
from agentbus.errors import ApiError, BusError, BusUnavailableError, SetupMissingError, StreamFullError
from agentbus.protocol.progress import names

_FIRST_WITH_LATER_WRITES: Final = (2, 12)


async def set_up_progress(bus: Bus, agents: Sequence[str], granted_bytes: int, *, update: bool) -> list[Finding]:
    """Make the streams of `agents` that are missing, in the room that is left; then they are smaller.

    The streams of other agents get smaller where that makes room, and those that had to give way get theirs again.

    Args:
        agents: all agents of the bus.
        granted_bytes: the storage of the account; -1 for no limit.
        update: also apply the differences of existing streams.

    Raises:
        PermissionDeniedError: the user may not administer the bus.
        BusUnavailableError: the bus does not answer.
    """
    if not agents:
        return []
    existing = {agent for name in await bus.stream_names() if (agent := names.agent_of_stream(name)) is not None}
    size = size_for(len(existing | set(agents)), granted_bytes)
    for agent in sorted(existing):
        await _resize(bus, agent, size)
    return [await _set_up_one(bus, agent, size, update=update) for agent in agents]


async def shrink_progress(bus: Bus) -> None:
    """Give back all but the least room of the streams of all agents; the oldest messages go."""
    for name in await bus.stream_names():
        if (agent := names.agent_of_stream(name)) is not None:
            await _resize(bus, agent, LEAST_BYTES)


async def remove_progress(bus: Bus) -> None:
    """Delete the streams of all agents, with what runs have told: for a bus that needs their room for a moment."""
    for name in await bus.stream_names():
        if names.agent_of_stream(name) is not None:
            await bus.api(f"STREAM.DELETE.{name}")


async def compare_progress(bus: Bus, agents: Sequence[str]) -> list[Finding]:
    """Compare the streams of `agents` with what is wanted. Changes nothing."""
    return [_as_found(agent, await _config_of(bus, agent)) for agent in agents]


async def ensure_progress_stream(bus: Bus, agent: str) -> None:
    """Create the stream of one agent unless it exists, as large as one may be: for a bus without accounts.

    Raises:
        PermissionDeniedError, ApiError: it is missing and cannot be made by this user.
    """
    if await _config_of(bus, agent) is None:
        await _create(bus, agent, size_for(1, -1))


async def _set_up_one(bus: Bus, agent: str, size: int, *, update: bool) -> Finding:
    found = await _config_of(bus, agent)
    if found is not None:
        finding = _as_found(agent, found)
        if finding.outcome == "different" and update:
            changed = {**found, **progress_config(agent)}
            for switch in SWITCHES_OFF:
                changed.pop(switch, None)
            return await _updated(bus, agent, changed, finding)
        return finding
    try:
        made = await _create(bus, agent, size)
    except (ApiError, StreamFullError) as error:
        reason = f"there is no room for {LEAST_BYTES} bytes, so what its runs do cannot be followed: {error}"
        return Finding("progress", names.stream(agent), "missing", (reason,))
    return Finding("progress", names.stream(agent), "made", differences_between(progress_config(agent), made))


async def _create(bus: Bus, agent: str, size: int) -> dict[str, Any]:
    later = WRITES_LATER if _version(bus) >= _FIRST_WITH_LATER_WRITES else {}
    return await _as_large_as_fits(bus, "CREATE", {**progress_config(agent), **later}, size)


async def _as_large_as_fits(
    bus: Bus, verb: str, config: dict[str, Any], size: int, *, least: int = LEAST_BYTES
) -> dict[str, Any]:
    """Make or change a stream; see `largest_fit`."""
    return await largest_fit(lambda room: _sent(bus, verb, {**config, "max_bytes": room}), size, least=least)


async def _updated(bus: Bus, agent: str, config: dict[str, Any], before: Finding) -> Finding:
    try:
        made = await _sent(bus, "UPDATE", config)
    except ApiError as error:
        return Finding("progress", before.name, "different", (*before.differences, f"cannot be changed: {error}"))
    left = differences_between(progress_config(agent), made)
    return Finding("progress", before.name, "different" if left else "updated", left or before.differences)


async def _resize(bus: Bus, agent: str, size: int) -> None:
    """Have a stream give back what it has beyond its part, the oldest first, or get what it lacks and there is."""
    found = await _config_of(bus, agent)
    if not found:
        return
    has = found.get("max_bytes", -1)
    with suppress(ApiError, StreamFullError):  # then there may be no room for another one, which is said
        if has > size:
            await _sent(bus, "UPDATE", {**found, "max_bytes": size})
        elif 0 < has < size:
            await _as_large_as_fits(bus, "UPDATE", found, size, least=has + 1)


async def _sent(bus: Bus, verb: str, config: dict[str, Any]) -> dict[str, Any]:
    asked = f"STREAM.{verb}.{config['name']}"
    return read_stream_info(await bus.api(asked, config), asked).config


async def _config_of(bus: Bus, agent: str) -> dict[str, Any] | None:
    """Return how a stream is configured, None if there is none, and nothing of one that is away with its server.

    It has one replica, also in a cluster. That it is away stops no work, so nothing else is held up for it.
    """
    try:
        return (await bus.stream_info(names.stream(agent))).config
    except SetupMissingError:
        return None
    except BusUnavailableError:
        if not (bus.connected and bus.clustered):
            raise
        return {}


def _as_found(agent: str, found: dict[str, Any] | None) -> Finding:
    name = names.stream(agent)
    if found is None:
        return Finding("progress", name, "missing")
    if not found:
        return Finding("progress", name, "found", ("does not answer: its only replica is on a server that is away",))
    differences = differences_between(progress_config(agent), found)
    off = tuple(f"{switch} is on, wanted off" for switch in SWITCHES_OFF if found.get(switch))
    return Finding("progress", name, "different" if differences or off else "found", differences + off)


def _version(bus: Bus) -> tuple[int, ...]:
    numbers = bus.server_version.split(".")[:2]
    try:
        return tuple(map(int, numbers))
    except ValueError as error:
        raise BusError(f"the server says that its version is {bus.server_version}") from error

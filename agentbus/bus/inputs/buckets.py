"""Makes the bucket of what tasks bring to each agent, as far as the storage allows.

Without one, tasks of that agent bring no files, and all else works; so set-up says what is missing and goes on. Where
work needs the room of these buckets, they give what they do not use.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from agentbus.bus.bounds.largest_fit import largest_fit
from agentbus.bus.inputs.wanted import LEAST_BYTES, inputs_config, size_for
from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import read_stream_info
from agentbus.bus.replicas import place
from agentbus.bus.topology import SWITCHES_OFF
from agentbus.bus.wanted.setup_plan import Finding, differences_between
from agentbus.errors import ApiError, SetupMissingError, StreamFullError
from agentbus.protocol.work import input_names

_PREFIX: Final = input_names.stream("")
_ABOVE_USED: Final = 1.25


async def set_up_inputs(
    bus: Bus, agents: Sequence[str], granted_bytes: int, replicas: int, *, update: bool, for_existing: int | None = None
) -> list[Finding]:
    """Make the buckets of `agents` that are missing, in the room that is left; then they are smaller.

    Args:
        agents: all agents of the bus.
        granted_bytes: the storage of the account; -1 for no limit.
        replicas: of a bucket that is made.
        update: also apply the differences of existing buckets.
        for_existing: how many replicas existing buckets get; None leaves those that they have.

    Raises:
        PermissionDeniedError: the user may not administer the bus.
        BusUnavailableError: the bus does not answer.
    """
    size = size_for(len(agents), granted_bytes)
    return [
        await _set_up_one(bus, agent, size, replicas, update=update)
        if (moved := await _moved(bus, agent, for_existing)) is None
        else moved
        for agent in agents
    ]


async def shrink_inputs(bus: Bus) -> None:
    """Give back what the buckets of all agents do not use; nothing is deleted."""
    for name in await bus.stream_names():
        if not name.startswith(_PREFIX):
            continue
        info = await bus.stream_info(name)
        least = max(LEAST_BYTES, int(info.state.bytes * _ABOVE_USED))
        if info.max_bytes > least:
            await _sent(bus, "UPDATE", {**info.config, "max_bytes": least})


async def remove_unused_inputs(bus: Bus) -> None:
    """Delete the buckets of all agents that hold nothing: for a bus that needs their room for a moment."""
    for name in await bus.stream_names():
        if name.startswith(_PREFIX) and not (await bus.stream_info(name)).state.messages:
            await bus.api(f"STREAM.DELETE.{name}")


async def compare_inputs(bus: Bus, agents: Sequence[str]) -> list[Finding]:
    """Compare the buckets of `agents` with what is wanted. Changes nothing."""
    return [_as_found(agent, await _config_of(bus, agent)) for agent in agents]


async def ensure_inputs_bucket(bus: Bus, agent: str) -> None:
    """Create the bucket of one agent unless it exists, as large as one may be: for a bus without accounts.

    Raises:
        PermissionDeniedError, ApiError, StreamFullError: it is missing and cannot be made by this user.
    """
    if await _config_of(bus, agent) is None:
        await _as_large_as_fits(bus, "CREATE", inputs_config(agent), size_for(1, -1))


async def _set_up_one(bus: Bus, agent: str, size: int, replicas: int, *, update: bool) -> Finding:
    found = await _config_of(bus, agent)
    name = input_names.stream(agent)
    if found is None:
        try:
            made = await _as_large_as_fits(bus, "CREATE", {**inputs_config(agent), "num_replicas": replicas}, size)
        except (ApiError, StreamFullError) as error:
            reason = f"there is no room for {LEAST_BYTES} bytes, so no task can bring files: {error}"
            return Finding("inputs", name, "missing", (reason,))
        return Finding("inputs", name, "made", differences_between(inputs_config(agent), made))
    if 0 < (has := found.get("max_bytes", -1)) < size:
        with suppress(ApiError, StreamFullError):  # it had to give way, and there is no room yet
            found = await _as_large_as_fits(bus, "UPDATE", found, size, least=has + 1)
    finding = _as_found(agent, found)
    if finding.outcome != "different" or not update:
        return finding
    changed = {key: value for key, value in {**found, **inputs_config(agent)}.items() if key not in SWITCHES_OFF}
    try:
        made = await _sent(bus, "UPDATE", {**changed, "max_bytes": found.get("max_bytes", -1)})
    except ApiError as error:
        return Finding("inputs", name, "different", (*finding.differences, f"cannot be changed: {error}"))
    left = differences_between(inputs_config(agent), made)
    return Finding("inputs", name, "different" if left else "updated", left or finding.differences)


async def _moved(bus: Bus, agent: str, replicas: int | None) -> Finding | None:
    """Change the replicas of a bucket, which is smaller then where there is no room for each; None if it has them."""
    found = await _config_of(bus, agent)
    wanted = {"num_replicas": replicas}
    if found is None or replicas is None or not (differences := differences_between(wanted, found)):
        return None
    name, has = input_names.stream(agent), found.get("max_bytes", -1)
    least = int((await bus.stream_info(name)).state.bytes * _ABOVE_USED)
    try:
        await _as_large_as_fits(bus, "UPDATE", {**found, **wanted}, has, least=max(LEAST_BYTES, least))
    except (ApiError, StreamFullError) as error:
        return Finding("inputs", name, "different", (*differences, f"cannot be changed: {error}"))
    return Finding("inputs", name, "updated", differences)


async def _as_large_as_fits(
    bus: Bus, verb: str, config: dict[str, Any], size: int, *, least: int = LEAST_BYTES
) -> dict[str, Any]:
    """Make or change a bucket; see `largest_fit`."""
    return await largest_fit(lambda room: _sent(bus, verb, {**config, "max_bytes": room}), size, least=least)


async def _sent(bus: Bus, verb: str, config: dict[str, Any]) -> dict[str, Any]:
    asked = f"STREAM.{verb}.{config['name']}"
    return read_stream_info(await place(bus, asked, config), asked).config


async def _config_of(bus: Bus, agent: str) -> dict[str, Any] | None:
    try:
        return (await bus.stream_info(input_names.stream(agent))).config
    except SetupMissingError:
        return None


def _as_found(agent: str, found: dict[str, Any] | None) -> Finding:
    name = input_names.stream(agent)
    if found is None:
        return Finding("inputs", name, "missing")
    off = tuple(f"{switch} is on, wanted off" for switch in SWITCHES_OFF if found.get(switch))
    bound = ("max_bytes is -1, wanted a bound",) if found.get("max_bytes", -1) < 0 else ()
    differences = (*differences_between(inputs_config(agent), found), *off, *bound)
    return Finding("inputs", name, "different" if differences else "found", differences)

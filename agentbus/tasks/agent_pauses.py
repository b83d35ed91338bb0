"""Pauses an agent by hand, for all its workers and those that start later, and lets it go on."""

from agentbus.bus.audit_note import note
from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.errors import ConfigError, MessageError, PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.parties import agent_control, control_entry
from agentbus.protocol.parties.control_entry import MAX_REASON_CHARS, Asked, OperatorPause, Resumed
from agentbus.protocol.timestamps import now


async def pause_agent(bus: Bus, agent: str, *, by: str, reason: str = "") -> OperatorPause:
    """Store that the workers of an agent are to take no tasks, until `resume_agent`; what runs goes on.

    Raises:
        MessageError: the reason is too long.
        ConfigError: this bus has an older layout, in which there is no place for it.
        PermissionDeniedError: this user may not pause agents.
    """
    if len(reason) > MAX_REASON_CHARS:
        raise MessageError(f"the reason has {len(reason)} characters; at most {MAX_REASON_CHARS} are kept")
    pause = OperatorPause(by=by, reason=reason, since=now())
    await _ask(bus, agent, Asked(paused=pause))
    await note(bus, "pause", agent, by=by, detail=reason)
    return pause


async def resume_agent(bus: Bus, agent: str, *, by: str) -> None:
    """Store that the workers of an agent are to go on; one that had paused by itself tries a task at once.

    Raises:
        ConfigError, PermissionDeniedError: see `pause_agent`.
    """
    await _ask(bus, agent, Asked(resumed=Resumed(by=by, since=now())))
    await note(bus, "resume", agent, by=by)


async def operator_pauses(bus: Bus) -> dict[str, OperatorPause]:
    """Return the agents that an operator has paused; none where this user may not know, or on a bus without them."""
    if not bus.reads_control:
        return {}
    found: dict[str, OperatorPause] = {}
    try:
        async with OrderedConsumer(bus, agent_control.STREAM, agent_control.KEYS, after=0) as consumer:
            async for message in consumer.backlog():
                agent = agent_control.agent_of_key(message.subject)
                asked = control_entry.read_asked(message.data, message.headers)
                if agent is not None and asked.paused is not None:
                    found[agent] = asked.paused
    except (PermissionDeniedError, SetupMissingError):
        bus.reads_control = False
        return {}
    return found


async def _ask(bus: Bus, agent: str, asked: Asked) -> None:
    try:
        await bus.store(agent_control.key(agent), asked.encoded())
    except SetupMissingError as error:
        raise ConfigError(
            "this bus has no place for pauses of agents: an administrator must run agentbus setup, or agentbus init "
            f"--upgrade for a bus that init made ({error})"
        ) from error
    except PermissionDeniedError as error:
        raise PermissionDeniedError(
            "only an operator may pause an agent or let it go on, on a bus of the newest layout (agentbus init "
            f"--upgrade): {error}",
            error.subject,
        ) from error
    # The workers read their key with each heartbeat as well; this is faster.
    await bus.publish(subjects.control(agent), encode({"control": True}))

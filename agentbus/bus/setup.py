"""Creates the streams, buckets and consumers of `agentbus.bus.topology`, and compares existing ones with it.

Set-up reads what exists, plans a step for each stream, bucket and consumer (`plan`, a function without I/O), and
applies the steps. It creates what is missing, and reports differences field by field. It changes what exists only with
`update=True`, and then only what a server can change.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from agentbus.bus.bounds.subject_counts import without_deletions
from agentbus.bus.inputs.buckets import compare_inputs, set_up_inputs, shrink_inputs
from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import read_stream_info
from agentbus.bus.progress.streams import compare_progress, remove_progress, set_up_progress, shrink_progress
from agentbus.bus.reading.ledger_parts import ledgers_with
from agentbus.bus.replicas import NO_PEERS, place
from agentbus.bus.topology import (
    MAX_ACK_PENDING,
    ReplicaPlan,
    consumer_config,
    wanted_consumers,
    wanted_files,
    wanted_streams,
)
from agentbus.bus.wanted.retention import DEFAULT, NOT_ASKED, Keep, chosen, retention_of, with_ledger
from agentbus.bus.wanted.setup_plan import Finding, Found, Step, differences_between, plan
from agentbus.errors import ApiError, BusError, PermissionDeniedError, SetupMissingError, StreamFullError
from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import NO_KEY, is_ledger, ledger_of


async def set_up(
    bus: Bus,
    agents: Sequence[str] = (),
    *,
    replicas: int | None = None,
    files_limit: int | None = None,
    keep: Keep = NOT_ASKED,
    max_ack_pending: int | None = None,
    shares_anew: bool = False,
    update: bool = False,
) -> list[Finding]:
    """Create every stream and bucket, and for each agent its two consumers and its files bucket.

    Every agent that the bus knows also gets the stream of what its runs tell and the bucket of what tasks bring to it;
    these give way to everything else.

    A stream that exists gets the subjects that it lacks, which changes nothing for those who use the others. Where
    parties have accounts, each gets a ledger of its own, unless the bus has one ledger of all; see
    `agentbus.admin.ledger_division`, and `set_up_coordinators` for those beside `main`.

    Args:
        replicas: the replicas in a cluster, of existing streams as well. None creates as many as the stream of the
            tasks has, and leaves existing streams as they are. The server makes replicas in the background: see
            `agentbus.bus.replicas`.
        files_limit: the limit in bytes of the files bucket of each of `agents`, of existing buckets as well. None
            creates buckets without a limit: the outputs of one agent can then take all the storage of the account.
        keep: how long results, states and files are kept, in existing streams as well; name all agents then, because
            each has a bucket of files.
        max_ack_pending: how many tasks of each of `agents` may be in work, of existing consumers as well.
        shares_anew: give each existing stream its share of the storage that the account has now. Otherwise a stream
            keeps the room that it has.
        update: also apply the other differences that a server can apply to what exists.

    Raises:
        ConfigError: `keep` would have results outlive the states that they point to.
        PermissionDeniedError: the user may not administer the bus.
        BusError: the server refused, for instance because it lacks storage or is not in a cluster.
    """
    await _check_possible(bus, replicas)
    granted = (await bus.account_info()).max_storage_bytes
    ledgers = await ledgers_with(bus, agents)
    found = await _look(bus, [item.name for item in wanted_streams(ledgers=ledgers)], agents)
    retention = chosen(with_ledger(found.streams), keep)
    wanted = [
        *wanted_streams(attested=bus.attests_writers, retention=retention, keep=keep, ledgers=ledgers),
        *(wanted_files(agent, files_limit, retention=retention, keep=keep) for agent in agents),
    ]
    for_new = replicas or await _replicas_of_tasks(bus)
    replica_plan = ReplicaPlan(granted, for_new, replicas, bus.clustered, shares_anew)
    steps = plan(wanted, agents, found, replica_plan, update=update, max_ack_pending=max_ack_pending)
    findings = await _apply_to_streams(bus, steps[: len(wanted)], for_new, granted)
    findings += [await _apply_to_consumer(bus, step) for step in steps[len(wanted) :]]
    everyone = sorted({*agents, *await known_agents(bus)})
    findings += await set_up_progress(bus, everyone, granted, update=update)
    return findings + await set_up_inputs(bus, everyone, granted, for_new, update=update, for_existing=replicas)


async def set_up_coordinators(bus: Bus, coordinators: Sequence[str]) -> list[Finding]:
    """Create the ledgers of coordinators, for their MCP tasks, where each party has one of its own.

    Raises:
        PermissionDeniedError, BusError: see `set_up`.
    """
    ledgers = await ledgers_with(bus, coordinators=coordinators)
    names = [name for name, _, _ in ledgers.parts] if ledgers is not None else []
    if not set(names) & set(map(ledger_of, coordinators)):
        return []
    found = await _look(bus, names, ())
    streams = wanted_streams(attested=True, retention=retention_of(with_ledger(found.streams)), ledgers=ledgers)
    granted, for_new = (await bus.account_info()).max_storage_bytes, await _replicas_of_tasks(bus)
    wanted = [one for one in streams if one.name in names]
    steps = plan(wanted, (), found, ReplicaPlan(granted, for_new, None, bus.clustered), update=False)
    findings = await _apply_to_streams(bus, steps, for_new, granted)
    return [one for one in findings if one.name in map(ledger_of, coordinators)]


async def _apply_to_streams(bus: Bus, steps: Sequence[Step], replicas: int, granted_bytes: int) -> list[Finding]:
    """Create and change streams: first those that give room to others."""
    try:
        done = {step.name: await _apply_with_room(bus, step) for step in sorted(steps, key=_order)}
    except StreamFullError as error:
        await set_up_progress(bus, await known_agents(bus), granted_bytes, update=False)  # they gave way in vain
        raise BusError(
            f"the storage that the account may use does not hold {replicas} replicas of everything: raise its "
            f"max_file, or lower the max_bytes of the streams ({error})"
        ) from error
    except ApiError as error:
        raise _no_room(error, replicas) from error
    return [done[step.name] for step in steps]


def _order(step: Step) -> int:
    return step.turn


async def _check_possible(bus: Bus, replicas: int | None) -> None:
    """Check what can be checked before anything is changed.

    Raises:
        BusError: an upgrade of the bus is not done, or there cannot be so many replicas.
    """
    if misplaced := await bus.misplaced_streams():
        raise BusError(
            f"{misplaced[0]} lies in the account BUS and belongs into TASKS: agentbus init --upgrade finishes that"
        )
    with suppress(SetupMissingError):
        if NO_KEY in (await bus.stream_info(subjects.STATE_STREAM)).config.get("subjects", ()):
            raise BusError("the ledger is being divided: agentbus init --upgrade finishes that")
    if replicas is not None and replicas > 1 and not bus.clustered:
        raise BusError(
            f"this server is not in a cluster, so there cannot be {replicas} replicas: leave out --replicas, or make a "
            "cluster (docs/how-to/growing.md)"
        )


async def compare(bus: Bus, names: Sequence[str], agents: Sequence[str] = ()) -> AsyncGenerator[Finding]:
    """Compare the streams `names`, and what each agent needs, with `agentbus.bus.topology`. Changes nothing.

    Where each party has a ledger, that of one means those of all.

    Raises:
        PermissionDeniedError: the user may not read them.
    """
    ledgers = await ledgers_with(bus, agents) if any(map(is_ledger, names)) else None
    if ledgers is not None:
        names = [*names, *(name for name, _, _ in ledgers.parts)]
    found = await _look(bus, names, agents)
    retention = retention_of(with_ledger(found.streams))
    streams = wanted_streams(attested=bus.attests_writers, retention=retention, ledgers=ledgers)
    wanted = [
        *(item for item in streams if item.name in names),
        *(wanted_files(agent, retention=retention) for agent in agents),
    ]
    for step in plan(wanted, agents, found, _AS_FOUND, update=False):
        yield step.as_found()
    for finding in (*await compare_progress(bus, agents), *await compare_inputs(bus, agents)):
        yield finding


async def ensure_consumer(
    bus: Bus, agent: str, *, stream: str, name: str, of_parties: bool = False, max_ack_pending: int = MAX_ACK_PENDING
) -> None:
    """Create a durable consumer of one agent unless it exists; see `consumer_config`.

    Raises:
        SetupMissingError: the stream does not exist.
        PermissionDeniedError: the consumer is missing, and this user may not create it.
        ApiError: another durable consumer has the agent's tasks already; the message names it if the user may see it.
    """
    config = consumer_config(agent, name, of_parties=of_parties, max_ack_pending=max_ack_pending)
    try:
        await bus.create_consumer(stream, name, config)
    except ApiError as error:
        if error.err_code not in _TAKEN:
            raise
        raise await _taken(bus, config["filter_subject"], stream, name, error) from error


async def known_agents(bus: Bus) -> list[str]:
    """List the agents that have a consumer for their tasks; none if there is no stream of tasks."""
    try:
        consumers = await bus.consumers(subjects.TASKS_STREAM)
    except SetupMissingError:
        return []
    found = (subjects.agent_of_filter(item.filter_subject) for item in consumers)
    return sorted({name for name in found if name is not None})


async def ensure_files_bucket(bus: Bus, agent: str) -> None:
    """Create the object store of one agent unless it exists.

    Raises:
        PermissionDeniedError: this user may not create it.
        ApiError: it exists with another configuration.
    """
    retention = DEFAULT
    with suppress(PermissionDeniedError, SetupMissingError):
        retention = retention_of({subjects.STATE_STREAM: (await bus.stream_info(subjects.STATE_STREAM)).config})
    wanted = wanted_files(agent, retention=retention)
    await bus.api(f"STREAM.CREATE.{wanted.name}", {**wanted.config, "num_replicas": await _replicas_of_tasks(bus)})


_AS_FOUND: Final = ReplicaPlan(granted_bytes=-1, for_new=1, for_existing=None, clustered=False)
_TAKEN: Final = frozenset({10099, 10100})
_NOT_CHANGEABLE: Final = 10052


async def _taken(bus: Bus, subject: str, stream: str, name: str, error: ApiError) -> ApiError:
    """Name the consumer that has an agent's tasks already: a work queue allows one consumer for a subject."""
    consumers = await bus.consumers(stream)
    holders = [item.name for item in consumers if item.filter_subject in (subject, None)]
    holder = ", ".join(holders) or "another consumer"
    return ApiError(
        f"the consumer {name} cannot be made: {holder} has the tasks of {subject} already; "
        f"set durable in [nats] to it, or delete it",
        error.code,
        error.err_code,
    )


def _no_room(error: ApiError, count: int) -> ApiError:
    """Add what to do to the error of a cluster that cannot make so many replicas."""
    if error.err_code != NO_PEERS:
        return error
    return ApiError(
        f"{error.description}: the cluster has not {count} servers that are up and have room for a replica each; start "
        "them all, or look at their disks",
        error.code,
        error.err_code,
    )


async def _replicas_of_tasks(bus: Bus) -> int:
    try:
        return (await bus.stream_info(subjects.TASKS_STREAM)).num_replicas
    except SetupMissingError:
        return 1


async def _look(bus: Bus, streams: Sequence[str], agents: Sequence[str]) -> Found:
    """Read the configurations of those among `streams`, and of what `agents` have, that exist."""
    found = Found()
    for name in (*streams, *(subjects.files_stream(agent) for agent in agents)):
        with suppress(SetupMissingError):
            info = await bus.stream_info(name)
            found.streams[name], found.used_bytes[name] = info.config, info.state.bytes
    for name in [config["durable_name"] for agent in agents for config in wanted_consumers(agent)]:
        with suppress(SetupMissingError):
            found.consumers[name] = (await bus.consumer_info(subjects.TASKS_STREAM, name)).config
    return found


async def _apply_with_room(bus: Bus, step: Step) -> Finding:
    """Create or change one stream.

    Where there is no room, others give way to it: the buckets of inputs with what they do not use, what runs told with
    most of it, then with all.
    """
    for give_way in (shrink_inputs, shrink_progress, remove_progress):
        try:
            return await _apply_to_stream(bus, step)
        except StreamFullError:
            await give_way(bus)
    return await _apply_to_stream(bus, step)


async def _apply_to_stream(bus: Bus, step: Step) -> Finding:
    """Create or change one stream, and compare it again: an old server ignores fields that it does not know."""
    if step.action == "leave":
        return step.as_found()
    refused: tuple[str, ...] = ()
    if step.action == "update" and step.kind == "stream":
        config, refused = await without_deletions(bus, step.name, step.config)
        step = replace(step, config=config)
    try:
        made = await _sent(bus, step.action, step.name, step.config)
    except ApiError as error:
        if step.action == "create" or error.err_code != _NOT_CHANGEABLE:
            raise
        made, more = await _change_one_by_one(bus, step)
        refused = (*refused, *more)
    left = (*differences_between(step.wanted, made), *refused)
    if step.action == "create":
        return Finding(step.kind, step.name, "made", left)
    return Finding(step.kind, step.name, "different" if left else "updated", left or step.differences)


async def _sent(bus: Bus, action: str, name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Create or update a stream; returns its configuration as the server has it then."""
    verb = f"STREAM.{action.upper()}.{name}"
    return read_stream_info(await place(bus, verb, config), verb).config


async def _change_one_by_one(bus: Bus, step: Step) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Change each field by itself, after the server refused all together; returns what is, and what was refused."""
    config = (await bus.stream_info(step.name)).config
    refused: list[str] = []
    for key in dict.fromkeys([*step.wanted, *step.config]):
        changed = {**config}
        if key in step.config:
            changed[key] = step.config[key]
        else:
            changed.pop(key, None)
        if changed == config:
            continue
        try:
            config = await _sent(bus, step.action, step.name, changed)
        except ApiError as error:
            if error.err_code != _NOT_CHANGEABLE:
                raise
            refused.append(f"cannot be changed: {error.description}")
    return config, tuple(refused)


async def _apply_to_consumer(bus: Bus, step: Step) -> Finding:
    stream = subjects.TASKS_STREAM
    if step.action == "leave":
        return step.as_found()
    if step.action == "create":
        of_parties = step.name == subjects.durable_of_parties(step.agent)
        bound = step.config["max_ack_pending"]
        await ensure_consumer(
            bus, step.agent, stream=stream, name=step.name, of_parties=of_parties, max_ack_pending=bound
        )
        return Finding(step.kind, step.name, "made")
    body = {"stream_name": stream, "config": step.config}
    await bus.api(f"CONSUMER.CREATE.{stream}.{step.name}.{step.wanted['filter_subject']}", body)
    return Finding(step.kind, step.name, "updated", step.differences)

"""Creates the streams, buckets and consumers of `agentbus.bus.topology`, and compares existing ones with it.

Set-up reads what exists, plans a step for each stream, bucket and consumer (`plan`, a function without I/O), and
applies the steps. It creates what is missing, and reports differences field by field. It changes what exists only with
`update=True`, and then only what a server can change.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from agentbus.bus.bounds.subject_counts import without_deletions
from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import read_stream_info
from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.bus.topology import (
    SECOND_NS,
    SWITCHES_OFF,
    ReplicaPlan,
    Wanted,
    consumer_config,
    wanted_consumers,
    wanted_files,
    wanted_streams,
)
from agentbus.errors import ApiError, BusError, SetupMissingError, StreamFullError
from agentbus.protocol import subjects

Kind = Literal["stream", "bucket", "consumer"]
Outcome = Literal["made", "found", "different", "updated", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What set-up did with one stream, bucket or consumer, or found about it."""

    kind: Kind
    name: str
    outcome: Outcome
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """The configurations of existing streams and consumers by name, as the server describes them."""

    streams: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    consumers: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])


@dataclass(frozen=True, slots=True)
class Step:
    """What set-up does with one stream, bucket or consumer.

    Attributes:
        wanted: the fields that are compared.
        config: the whole configuration to send. An update keeps the fields that agentbus does not know.
        differences: the differences between what exists and `wanted`.
        agent: whose consumer it is.
    """

    kind: Kind
    name: str
    action: Literal["create", "update", "leave"]
    wanted: dict[str, Any]
    config: dict[str, Any]
    differences: tuple[str, ...] = ()
    agent: str = ""

    def as_found(self) -> Finding:
        """Report what exists, when nothing is changed."""
        if self.action == "create":
            return Finding(self.kind, self.name, "missing")
        return Finding(self.kind, self.name, "different" if self.differences else "found", self.differences)


async def set_up(
    bus: Bus,
    agents: Sequence[str] = (),
    *,
    replicas: int | None = None,
    files_limit: int | None = None,
    update: bool = False,
) -> list[Finding]:
    """Create every stream and bucket, and for each agent its two consumers and its files bucket.

    A stream that exists gets the subjects that it lacks, which changes nothing for those who use the others.

    Args:
        replicas: the replicas in a cluster, of existing streams as well. None creates as many as the stream of the
            tasks has, and leaves existing streams as they are. The server makes replicas in the background: see
            `agentbus.bus.replicas`.
        files_limit: the limit in bytes of the files bucket of each of `agents`, of existing buckets as well. None
            creates buckets without a limit: the outputs of one agent can then take all the storage of the account.
        update: also apply the other differences that a server can apply to what exists.

    Raises:
        PermissionDeniedError: the user may not administer the bus.
        BusError: the server refused, for instance because it lacks storage or is not in a cluster.
    """
    if misplaced := await bus.misplaced_streams():
        raise BusError(
            f"{misplaced[0]} lies in the account BUS and belongs into TASKS: agentbus init --upgrade finishes that"
        )
    granted = (await bus.account_info()).max_storage_bytes
    wanted = [*wanted_streams(attested=bus.attests_writers), *(wanted_files(agent, files_limit) for agent in agents)]
    if replicas is not None and replicas > 1 and not bus.clustered:
        raise BusError(
            f"this server is not in a cluster, so there cannot be {replicas} replicas: leave out --replicas, or make a "
            "cluster (docs/how-to/growing.md)"
        )
    for_new = replicas or await _replicas_of_tasks(bus)
    replica_plan = ReplicaPlan(granted, for_new, replicas, bus.clustered)
    steps = plan(wanted, agents, await _look(bus, wanted, agents), replica_plan, update=update)
    try:
        findings = [await _apply_to_stream(bus, step) for step in steps[: len(wanted)]]
    except StreamFullError as error:
        raise BusError(
            f"the storage that the account may use does not hold {for_new} replicas of everything: raise its max_file, "
            f"or lower the max_bytes of the streams ({error})"
        ) from error
    except ApiError as error:
        raise _no_room(error, for_new) from error
    return findings + [await _apply_to_consumer(bus, step) for step in steps[len(wanted) :]]


async def compare(bus: Bus, names: Sequence[str], agents: Sequence[str] = ()) -> AsyncGenerator[Finding]:
    """Compare the streams `names`, and what each agent needs, with `agentbus.bus.topology`. Changes nothing.

    Raises:
        PermissionDeniedError: the user may not read them.
    """
    streams = [item for item in wanted_streams(attested=bus.attests_writers) if item.name in names]
    wanted = [*streams, *(wanted_files(agent) for agent in agents)]
    for step in plan(wanted, agents, await _look(bus, wanted, agents), _AS_FOUND, update=False):
        yield step.as_found()


async def ensure_consumer(bus: Bus, agent: str, *, stream: str, name: str, of_parties: bool = False) -> None:
    """Create a durable consumer of one agent unless it exists; see `consumer_config`.

    Raises:
        SetupMissingError: the stream does not exist.
        PermissionDeniedError: the consumer is missing, and this user may not create it.
        ApiError: another durable consumer has the agent's tasks already; the message names it if the user may see it.
    """
    config = consumer_config(agent, name, of_parties=of_parties)
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
    wanted = wanted_files(agent)
    await bus.api(f"STREAM.CREATE.{wanted.name}", {**wanted.config, "num_replicas": await _replicas_of_tasks(bus)})


_AS_FOUND: Final = ReplicaPlan(granted_bytes=-1, for_new=1, for_existing=None, clustered=False)
_TAKEN: Final = frozenset({10099, 10100})
_NO_PEERS: Final = 10005
_NOT_CHANGEABLE: Final = 10052
_PLACING_S: Final = 20.0
_PAUSE_S: Final = 0.5


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
    if error.err_code != _NO_PEERS:
        return error
    return ApiError(
        f"{error.description}: the cluster has not {count} servers that are up and have room for a replica each; start "
        "them all, or look at their disks",
        error.code,
        error.err_code,
    )


async def place(bus: Bus, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    """Send a request that creates, changes or restores a stream.

    The servers of a cluster that has just started do not know each other's storage yet, and refuse. So that refusal is
    retried for a while.

    Raises:
        ApiError: any other refusal, or this one after 20 seconds.
    """
    async for attempt in retry_until(deadline_after(_PLACING_S), _PAUSE_S):
        try:
            return await bus.api(verb, body)
        except ApiError as error:
            if error.err_code != _NO_PEERS or attempt.last:
                raise
    raise AssertionError("the last attempt returns or raises")


async def _replicas_of_tasks(bus: Bus) -> int:
    try:
        return (await bus.stream_info(subjects.TASKS_STREAM)).num_replicas
    except SetupMissingError:
        return 1


def plan(
    streams: Sequence[Wanted], agents: Sequence[str], found: Found, replicas: ReplicaPlan, *, update: bool
) -> list[Step]:
    """Decide what set-up does with each stream and each agent's consumer, without I/O."""
    return [
        *(_plan_stream(item, found.streams.get(item.name), replicas, update=update) for item in streams),
        *(
            _plan_consumer(agent, config, found.consumers.get(config["durable_name"]), update=update)
            for agent in agents
            for config in wanted_consumers(agent)
        ),
    ]


def _plan_stream(wanted: Wanted, found: dict[str, Any] | None, replicas: ReplicaPlan, *, update: bool) -> Step:
    if found is None:
        config = {**wanted.config, **replicas.bound(wanted.share)}
        config |= wanted.bounded(config["max_bytes"])
        return Step(wanted.kind, wanted.name, "create", config, {**config, "num_replicas": replicas.for_new})
    asked = _asked(wanted, replicas)
    off = {key: False for key in SWITCHES_OFF if found.get(key) and key not in wanted.config}
    bounds = wanted.bounded(asked.get("max_bytes", found.get("max_bytes", -1)))
    config = {**wanted.config, **bounds, **asked, **off}
    if "max_bytes" not in asked:
        del config["max_bytes"]
    differences = _differences(config, found)
    changes = (
        config
        if update
        else {key: value for key, value in asked.items() if found.get(key) != value} | _lacking(wanted, found)
    )
    action = "update" if changes and differences else "leave"
    sent = {**found, **changes}
    for key in off.keys() & changes.keys():
        del sent[key]  # a missing field is off, also one that holds an object or a list
    return Step(wanted.kind, wanted.name, action, config, sent, differences)


def _asked(wanted: Wanted, replicas: ReplicaPlan) -> dict[str, Any]:
    """Select the fields that the caller asked for, which are changed in an existing stream without `update` as well.

    The administrator may have changed the limit of an existing stream: only a limit in the call replaces it.
    """
    limit = {"max_bytes": wanted.config["max_bytes"]} if wanted.config["max_bytes"] > 0 else {}
    return limit if replicas.for_existing is None else {**limit, "num_replicas": replicas.for_existing}


def _lacking(wanted: Wanted, found: dict[str, Any]) -> dict[str, Any]:
    """Return what a stream of an earlier version lacks: subjects, without which messages are refused; the audit."""
    has = list[str](found.get("subjects") or ())
    more = [subject for subject in wanted.config["subjects"] if subject not in has]
    audit = wanted.config.get("republish") if not found.get("republish") else None
    return {**({"subjects": [*has, *more]} if more else {}), **({"republish": audit} if audit else {})}


def _plan_consumer(agent: str, wanted: dict[str, Any], found: dict[str, Any] | None, *, update: bool) -> Step:
    name = wanted["durable_name"]
    if found is None:
        return Step("consumer", name, "create", wanted, wanted, agent=agent)
    differences = _differences(wanted, found)
    action = "update" if differences and update else "leave"
    return Step("consumer", name, action, wanted, {**found, **wanted}, differences, agent)


async def _look(bus: Bus, streams: Sequence[Wanted], agents: Sequence[str]) -> Found:
    """Read the configurations of those among `streams`, and among the consumers of `agents`, that exist."""
    found = Found()
    for item in streams:
        with suppress(SetupMissingError):
            found.streams[item.name] = (await bus.stream_info(item.name)).config
    for name in [config["durable_name"] for agent in agents for config in wanted_consumers(agent)]:
        with suppress(SetupMissingError):
            found.consumers[name] = (await bus.consumer_info(subjects.TASKS_STREAM, name)).config
    return found


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
    left = (*_differences(step.wanted, made), *refused)
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
        await ensure_consumer(bus, step.agent, stream=stream, name=step.name, of_parties=of_parties)
        return Finding(step.kind, step.name, "made")
    body = {"stream_name": stream, "config": step.config}
    await bus.api(f"CONSUMER.CREATE.{stream}.{step.name}.{step.wanted['filter_subject']}", body)
    return Finding(step.kind, step.name, "updated", step.differences)


def _differences(wanted: dict[str, Any], found: dict[str, Any]) -> tuple[str, ...]:
    return tuple(
        f"{key} is {_show(key, found.get(key))}, wanted {_show(key, value)}"
        for key, value in wanted.items()
        if found.get(key, _absent(value)) != value
    )


def _absent(value: Any) -> Any:
    """The value that a missing field has: servers leave out false."""
    return False if isinstance(value, bool) else None


def _show(key: str, value: Any) -> str:
    if key in ("max_age", "duplicate_window", "ack_wait", "inactive_threshold") and isinstance(value, int):
        return f"{value / SECOND_NS:g} s"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_show(name, part)}" for name, part in value.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, list):
        return " ".join(str(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return str(value)

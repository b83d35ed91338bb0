"""Makes the streams, buckets and consumers of `agentbus.bus.topology`, and compares what is there with them.

Set-up reads what exists, plans one step for each thing (`plan`, a function without I/O), and applies the steps. It
makes what is missing, and reports differences field by field. It changes what it finds only with `update=True`, and
then only what a server can change.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import read_stream_info
from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.bus.topology import SECOND_NS, SWITCHES_OFF, Copies, Wanted, consumer_config, wanted_files, wanted_streams
from agentbus.errors import ApiError, BusError, SetupMissingError, StreamFullError
from agentbus.protocol import subjects

Kind = Literal["stream", "bucket", "consumer"]
Outcome = Literal["made", "found", "different", "updated", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What set-up did with, or found of, one stream, bucket or consumer."""

    kind: Kind
    name: str
    outcome: Outcome
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """The configurations of streams and of consumers that exist, by name, as the server describes them."""

    streams: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    consumers: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])


@dataclass(frozen=True, slots=True)
class Step:
    """What set-up does with one stream, bucket or consumer.

    Attributes:
        wanted: the fields that it shall have; any others do not matter.
        config: the whole configuration to send. An update keeps the fields that agentbus does not know.
        differences: of what was found from `wanted`.
    """

    kind: Kind
    name: str
    action: Literal["create", "update", "leave"]
    wanted: dict[str, Any]
    config: dict[str, Any]
    differences: tuple[str, ...] = ()

    def as_found(self) -> Finding:
        """Report what was found, without a change."""
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
    """Make every stream and bucket, and for each agent its consumer and its files bucket.

    Args:
        replicas: copies in a cluster, also of what is found: a number that is given is meant. None means as many as
            the stream of the tasks has for what is made, and whatever it has for what is found. The server makes the
            copies in the background: see `agentbus.bus.replicas`.
        files_limit: the most bytes that the files bucket of each of `agents` may hold, also of what is found. None
            means no bound for what is made: one agent's outputs can then take all the storage of the account.
        update: apply the other differences that can be applied to what exists.

    Raises:
        PermissionDeniedError: the user may not administer the bus.
        BusError: the server refused, for instance for want of storage, or because it is not in a cluster.
    """
    granted = (await bus.account_info()).max_storage_bytes
    wanted = [*wanted_streams(), *(wanted_files(agent, files_limit) for agent in agents)]
    if replicas is not None and replicas > 1 and not bus.clustered:
        raise BusError(
            f"this server is not in a cluster, so there cannot be {replicas} copies: leave out --replicas, or make a "
            "cluster (docs/how-to/growing.md)"
        )
    made_with = replicas or await _replicas_of_tasks(bus)
    copies = Copies(granted, made_with, replicas, bus.clustered)
    steps = plan(wanted, agents, await _look(bus, wanted, agents), copies, update=update)
    try:
        findings = [await _apply_to_stream(bus, step) for step in steps[: len(wanted)]]
    except StreamFullError as error:
        raise BusError(
            f"the storage that the account may use does not hold {made_with} copies of everything: raise its max_file, "
            f"or lower the max_bytes of the streams ({error})"
        ) from error
    except ApiError as error:
        raise _no_copies(error, made_with) from error
    of_agents = zip(agents, steps[len(wanted) :], strict=True)
    return findings + [await _apply_to_consumer(bus, agent, step) for agent, step in of_agents]


async def compare(bus: Bus, names: Sequence[str], agents: Sequence[str] = ()) -> AsyncGenerator[Finding]:
    """Hold streams, and what each agent needs, against what is wanted; nothing is made or changed.

    Raises:
        PermissionDeniedError: the user may not look.
    """
    wanted = [item for item in wanted_streams() if item.name in names] + [wanted_files(agent) for agent in agents]
    for step in plan(wanted, agents, await _look(bus, wanted, agents), _AS_FOUND, update=False):
        yield step.as_found()


async def ensure_consumer(bus: Bus, agent: str, *, stream: str, name: str) -> None:
    """Make the durable consumer of one agent unless it exists.

    Raises:
        SetupMissingError: the stream does not exist.
        PermissionDeniedError: it is missing and this user may not make it.
        ApiError: another durable has the agent's tasks already; the message names it where that can be seen.
    """
    try:
        await bus.create_consumer(stream, name, consumer_config(agent, name))
    except ApiError as error:
        if error.err_code not in _TAKEN:
            raise
        raise await _taken(bus, agent, stream, name, error) from error


async def known_agents(bus: Bus) -> list[str]:
    """The agents that have a consumer for their tasks; none where there is no stream of tasks."""
    try:
        consumers = await bus.consumers(subjects.TASKS_STREAM)
    except SetupMissingError:
        return []
    found = (subjects.agent_of(item.filter_subject or "", "tasks") for item in consumers)
    return sorted({name for name in found if name is not None})


async def ensure_files_bucket(bus: Bus, agent: str) -> None:
    """Make the object store of one agent unless it exists.

    Raises:
        PermissionDeniedError: this user may not make it.
        ApiError: there is one of another kind.
    """
    wanted = wanted_files(agent)
    await bus.api(f"STREAM.CREATE.{wanted.name}", {**wanted.config, "num_replicas": await _replicas_of_tasks(bus)})


_AS_FOUND: Final = Copies(granted=-1, made_with=1, asked=None, clustered=False)
_TAKEN: Final = frozenset({10099, 10100})
_NO_PEERS: Final = 10005
_NOT_CHANGEABLE: Final = 10052
_PLACING_S: Final = 20.0
_PAUSE_S: Final = 0.5


async def _taken(bus: Bus, agent: str, stream: str, name: str, error: ApiError) -> ApiError:
    """Name the consumer that has an agent's tasks already: a work queue gives each subject to one consumer."""
    subject = subjects.tasks(agent)
    consumers = await bus.consumers(stream)
    holders = [item.name for item in consumers if item.filter_subject in (subject, None)]
    holder = ", ".join(holders) or "another consumer"
    return ApiError(
        f"the consumer {name} cannot be made: {holder} has the tasks of {subject} already; "
        f"set durable in [nats] to it, or delete it",
        error.code,
        error.err_code,
    )


def _no_copies(error: ApiError, count: int) -> ApiError:
    """Say what to do where the server cannot make so many copies."""
    if error.err_code != _NO_PEERS:
        return error
    return ApiError(
        f"{error.description}: the cluster has not {count} servers that are up and have room for a copy each; start "
        "them all, or look at their disks",
        error.code,
        error.err_code,
    )


async def place(bus: Bus, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask for a stream to be made, changed or restored.

    The servers of a cluster that has just started do not know of each other's room yet, and refuse: then again.

    Raises:
        ApiError: any other refusal, or still this one after a while.
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


def plan(streams: Sequence[Wanted], agents: Sequence[str], found: Found, copies: Copies, *, update: bool) -> list[Step]:
    """Decide what set-up does with each stream and each agent's consumer. Asks and changes nothing."""
    return [
        *(_plan_stream(item, found.streams.get(item.name), copies, update=update) for item in streams),
        *(_plan_consumer(agent, found.consumers.get(subjects.durable(agent)), update=update) for agent in agents),
    ]


def _plan_stream(wanted: Wanted, found: dict[str, Any] | None, copies: Copies, *, update: bool) -> Step:
    if found is None:
        config = {**wanted.config, **copies.bound(wanted.share)}
        return Step(wanted.kind, wanted.name, "create", config, {**config, "num_replicas": copies.made_with})
    asked = _asked(wanted, copies)
    off = {key: False for key in SWITCHES_OFF if found.get(key)}
    config = {**wanted.config, **asked, **off}
    if "max_bytes" not in asked:
        del config["max_bytes"]
    differences = _differences(config, found)
    changes = config if update else {key: value for key, value in asked.items() if found.get(key) != value}
    action = "update" if changes and differences else "leave"
    sent = {**found, **changes}
    for key in off.keys() & changes.keys():
        del sent[key]  # that is off, for a field which is an object or a list as well
    return Step(wanted.kind, wanted.name, action, config, sent, differences)


def _asked(wanted: Wanted, copies: Copies) -> dict[str, Any]:
    """What is meant for a stream that exists, too.

    A bound is the administrator's choice once the stream exists: only one that was asked for changes it.
    """
    bound = {"max_bytes": wanted.config["max_bytes"]} if wanted.config["max_bytes"] > 0 else {}
    return bound if copies.asked is None else {**bound, "num_replicas": copies.asked}


def _plan_consumer(agent: str, found: dict[str, Any] | None, *, update: bool) -> Step:
    name = subjects.durable(agent)
    wanted = consumer_config(agent, name)
    if found is None:
        return Step("consumer", name, "create", wanted, wanted)
    differences = _differences(wanted, found)
    action = "update" if differences and update else "leave"
    return Step("consumer", name, action, wanted, {**found, **wanted}, differences)


async def _look(bus: Bus, streams: Sequence[Wanted], agents: Sequence[str]) -> Found:
    """Read the configurations of what exists of `streams` and of the consumers of `agents`."""
    found = Found()
    for item in streams:
        with suppress(SetupMissingError):
            found.streams[item.name] = (await bus.stream_info(item.name)).config
    for name in map(subjects.durable, agents):
        with suppress(SetupMissingError):
            found.consumers[name] = (await bus.consumer_info(subjects.TASKS_STREAM, name)).config
    return found


async def _apply_to_stream(bus: Bus, step: Step) -> Finding:
    """Make or change one stream; what the server made of it may still differ from what was asked for."""
    if step.action == "leave":
        return step.as_found()
    verb = f"STREAM.{step.action.upper()}.{step.name}"
    try:
        made = read_stream_info(await place(bus, verb, step.config), verb).config
    except ApiError as error:
        if step.action == "create" or error.err_code != _NOT_CHANGEABLE:
            raise
        return Finding(
            step.kind, step.name, "different", (*step.differences, f"cannot be changed: {error.description}")
        )
    left = _differences(step.wanted, made)
    if step.action == "create":
        return Finding(step.kind, step.name, "made", left)
    return Finding(step.kind, step.name, "different" if left else "updated", left or step.differences)


async def _apply_to_consumer(bus: Bus, agent: str, step: Step) -> Finding:
    stream = subjects.TASKS_STREAM
    if step.action == "leave":
        return step.as_found()
    if step.action == "create":
        await ensure_consumer(bus, agent, stream=stream, name=step.name)
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
    """What a missing field means: servers leave out false and the like."""
    return False if isinstance(value, bool) else None


def _show(key: str, value: Any) -> str:
    if key in ("max_age", "duplicate_window", "ack_wait", "inactive_threshold") and isinstance(value, int):
        return f"{value / SECOND_NS:g} s"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_show(name, part)}" for name, part in value.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, list):
        return " ".join(str(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return str(value)

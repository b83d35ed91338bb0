"""Makes the streams, buckets and consumers of `agentbus.bus.topology`, and compares what is there with them.

Set-up makes what is missing, and reports differences field by field. It changes what it finds only with
`update=True`, and then only what a server can change.
"""

import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from agentbus.bus.jetstream import Bus
from agentbus.bus.retry import deadline_after, retry_until
from agentbus.bus.topology import SECOND_NS, Copies, Wanted, consumer_config, wanted_files, wanted_streams
from agentbus.errors import ApiError, BusError, SetupMissingError, StreamFullError
from agentbus.protocol import subjects

OLDEST_SERVER: Final = (2, 10, 0)
OLDEST_SAFE_SERVER: Final = (2, 10, 27)

Outcome = Literal["made", "found", "different", "updated", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What set-up did with, or found of, one stream, bucket or consumer."""

    kind: Literal["stream", "bucket", "consumer"]
    name: str
    outcome: Outcome
    differences: tuple[str, ...] = ()


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
    granted = await _granted_bytes(bus)
    wanted = [*wanted_streams(), *(wanted_files(agent, files_limit) for agent in agents)]
    if replicas is not None and replicas > 1 and not bus.clustered:
        raise BusError(
            f"this server is not in a cluster, so there cannot be {replicas} copies: leave out --replicas, or make a "
            "cluster (docs/how-to/growing.md)"
        )
    made_with = replicas or await _replicas_of_tasks(bus)
    copies = Copies(granted, made_with, replicas, bus.clustered)
    try:
        findings = [await _reconcile_stream(bus, item, copies, update=update) for item in wanted]
    except StreamFullError as error:
        raise BusError(
            f"the storage that the account may use does not hold {made_with} copies of everything: raise its max_file, "
            f"or lower the max_bytes of the streams ({error})"
        ) from error
    except ApiError as error:
        raise _no_copies(error, made_with) from error
    return findings + [await _reconcile_consumer(bus, agent, update=update) for agent in agents]


async def compare(bus: Bus, names: Sequence[str], agents: Sequence[str] = ()) -> AsyncGenerator[Finding]:
    """Hold streams, and what each agent needs, against what is wanted; nothing is made or changed.

    Raises:
        PermissionDeniedError: the user may not look.
    """
    wanted = [item for item in wanted_streams() if item.name in names]
    for item in [*wanted, *(wanted_files(agent) for agent in agents)]:
        try:
            found = (await bus.api(f"STREAM.INFO.{item.name}"))["config"]
        except SetupMissingError:
            yield Finding(item.kind, item.name, "missing")
        else:
            yield _compared(item.kind, item.name, {**item.config, "max_bytes": found.get("max_bytes")}, found)
    for agent in agents:
        name = subjects.durable(agent)
        try:
            found = (await bus.api(f"CONSUMER.INFO.{subjects.TASKS_STREAM}.{name}"))["config"]
        except SetupMissingError:
            yield Finding("consumer", name, "missing")
        else:
            yield _compared("consumer", name, consumer_config(agent, name), found)


def _compared(
    kind: Literal["stream", "bucket", "consumer"], name: str, wanted: dict[str, Any], found: dict[str, Any]
) -> Finding:
    differences = _differences(wanted, found)
    return Finding(kind, name, "different" if differences else "found", differences)


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


async def consumers_of(bus: Bus, stream: str) -> list[dict[str, Any]]:
    """Every consumer of a stream as the API describes it, read page by page."""
    found: list[dict[str, Any]] = []
    while True:
        page = await bus.api(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
        found += page["consumers"] or []
        if not page["consumers"] or len(found) >= page["total"]:
            return found


async def known_agents(bus: Bus) -> list[str]:
    """The agents that have a consumer for their tasks; none where there is no stream of tasks."""
    try:
        consumers = await consumers_of(bus, subjects.TASKS_STREAM)
    except SetupMissingError:
        return []
    found = (subjects.agent_of(str(item["config"].get("filter_subject")), "tasks") for item in consumers)
    return sorted({name for name in found if name is not None})


async def ensure_files_bucket(bus: Bus, agent: str) -> None:
    """Make the object store of one agent unless it exists.

    Raises:
        PermissionDeniedError: this user may not make it.
        ApiError: there is one of another kind.
    """
    wanted = wanted_files(agent)
    await bus.api(f"STREAM.CREATE.{wanted.name}", {**wanted.config, "num_replicas": await _replicas_of_tasks(bus)})


_TAKEN: Final = frozenset({10099, 10100})
_NO_PEERS: Final = 10005
_PLACING_S: Final = 20.0
_PAUSE_S: Final = 0.5


async def _taken(bus: Bus, agent: str, stream: str, name: str, error: ApiError) -> ApiError:
    """Name the consumer that has an agent's tasks already: a work queue gives each subject to one consumer."""
    subject = subjects.tasks(agent)
    consumers = await consumers_of(bus, stream)
    holders = [item["name"] for item in consumers if item["config"].get("filter_subject") in (subject, None)]
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
        return int((await bus.api(f"STREAM.INFO.{subjects.TASKS_STREAM}"))["config"]["num_replicas"])
    except SetupMissingError:
        return 1


async def _granted_bytes(bus: Bus) -> int:
    """File storage that the account may use, or -1 for no bound of its own."""
    info = await bus.api("INFO")
    return int(info.get("limits", {}).get("max_storage", -1))


async def _reconcile_stream(bus: Bus, wanted: Wanted, copies: Copies, *, update: bool) -> Finding:
    try:
        found = (await bus.api(f"STREAM.INFO.{wanted.name}"))["config"]
    except SetupMissingError:
        config = {**wanted.config, **copies.bound(wanted.share)}
        made = await place(bus, f"STREAM.CREATE.{wanted.name}", {**config, "num_replicas": copies.made_with})
        return Finding(wanted.kind, wanted.name, "made", _differences(config, made["config"]))
    # A bound is the administrator's choice once the stream exists: only one that was asked for changes it.
    bound = {"max_bytes": wanted.config["max_bytes"]} if wanted.config["max_bytes"] > 0 else {}
    config = {key: value for key, value in wanted.config.items() if key != "max_bytes"} | bound
    changes = config if update else {key: value for key, value in bound.items() if found.get(key) != value}
    if copies.asked is not None:
        config = {**config, "num_replicas": copies.asked}
        if found.get("num_replicas") != copies.asked:
            changes = {**changes, "num_replicas": copies.asked}
    differences = _differences(config, found)
    if not changes or not differences:
        return Finding(wanted.kind, wanted.name, "different" if differences else "found", differences)
    changed = await place(bus, f"STREAM.UPDATE.{wanted.name}", {**found, **changes})
    left = _differences(config, changed["config"])
    return Finding(wanted.kind, wanted.name, "different" if left else "updated", left or differences)


async def _reconcile_consumer(bus: Bus, agent: str, *, update: bool) -> Finding:
    name = subjects.durable(agent)
    wanted = consumer_config(agent, name)
    stream = subjects.TASKS_STREAM
    try:
        found = (await bus.api(f"CONSUMER.INFO.{stream}.{name}"))["config"]
    except SetupMissingError:
        await ensure_consumer(bus, agent, stream=stream, name=name)
        return Finding("consumer", name, "made")
    differences = _differences(wanted, found)
    if differences and update:
        body = {"stream_name": stream, "config": {**found, **wanted}}
        await bus.api(f"CONSUMER.CREATE.{stream}.{name}.{wanted['filter_subject']}", body)
        return Finding("consumer", name, "updated", differences)
    return Finding("consumer", name, "different" if differences else "found", differences)


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
    if key in ("max_age", "duplicate_window", "ack_wait") and isinstance(value, int):
        return f"{value / SECOND_NS:g} s"
    if isinstance(value, list):
        return " ".join(str(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return str(value)


def version_warning(version: str) -> str | None:
    """What a person should know about the age of a server, or None."""
    parts = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if parts < OLDEST_SERVER:
        return f"nats-server {version} is older than 2.10, the oldest that agentbus works with; upgrade it"
    if parts < OLDEST_SAFE_SERVER:
        return (
            f"nats-server {version} has known flaws that were fixed in 2.10.27 (CVE-2025-30215: any user with API "
            "rights can reach other accounts' streams); upgrade it"
        )
    return None

"""Decides what set-up does with each stream, bucket and consumer, by what exists and what is wanted; without I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from agentbus.bus.topology import SECOND_NS, SWITCHES_OFF, ReplicaPlan, Wanted, wanted_consumers
from agentbus.protocol.accounts import covers

Kind = Literal["stream", "bucket", "progress", "inputs", "consumer"]
"""`progress` is a stream with what the runs of an agent tell, `inputs` a bucket of what tasks bring to one:
without them work goes on."""
Outcome = Literal["made", "found", "different", "updated", "missing"]

_ABOVE_USED: Final = 1.25
"""A stream that gives way keeps a quarter more than it holds: its party must be able to go on."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What set-up did with one stream, bucket or consumer, or found about it."""

    kind: Kind
    name: str
    outcome: Outcome
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What exists, by name: the configurations of streams and consumers, and the bytes that streams hold."""

    streams: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    consumers: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    used_bytes: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class Step:
    """What set-up does with one stream, bucket or consumer.

    Attributes:
        wanted: the fields that are compared.
        config: the whole configuration to send. An update keeps the fields that agentbus does not know.
        differences: the differences between what exists and `wanted`.
        agent: whose consumer it is.
        turn: 0 for a stream that gives room, or is left; 1 for one that is made; 2 for one that gets more than it has.
    """

    kind: Kind
    name: str
    action: Literal["create", "update", "leave"]
    wanted: dict[str, Any]
    config: dict[str, Any]
    differences: tuple[str, ...] = ()
    agent: str = ""
    turn: int = 0

    def as_found(self) -> Finding:
        """Report what exists, when nothing is changed."""
        if self.action == "create":
            return Finding(self.kind, self.name, "missing")
        return Finding(self.kind, self.name, "different" if self.differences else "found", self.differences)


def plan(
    streams: Sequence[Wanted],
    agents: Sequence[str],
    found: Found,
    replicas: ReplicaPlan,
    *,
    update: bool,
    max_ack_pending: int | None = None,
) -> list[Step]:
    """Decide what set-up does with each stream and each agent's consumer, without I/O.

    Args:
        max_ack_pending: of the consumers, of existing ones as well; None leaves what an existing one has.
    """
    return [
        *(_plan_stream(item, found, replicas, update=update) for item in streams),
        *(
            _plan_consumer(
                agent, config, found.consumers.get(config["durable_name"]), update=update, asked=max_ack_pending
            )
            for agent in agents
            for config in wanted_consumers(agent)
        ),
    ]


def _plan_stream(wanted: Wanted, existing: Found, replicas: ReplicaPlan, *, update: bool) -> Step:
    found = existing.streams.get(wanted.name)
    if found is None:
        config = {**wanted.config, **replicas.bound(wanted.share)}
        config |= wanted.bounded(config["max_bytes"])
        sent = {**config, "num_replicas": replicas.for_new}
        return Step(wanted.kind, wanted.name, "create", config, sent, turn=1)
    asked = _asked(wanted, found, replicas, existing.used_bytes.get(wanted.name, 0))
    off = {key: False for key in SWITCHES_OFF if found.get(key) and key not in wanted.config}
    bounds = wanted.bounded(asked.get("max_bytes", found.get("max_bytes", -1)))
    config = {**wanted.config, **bounds, **asked, **off}
    if "max_bytes" not in asked:
        del config["max_bytes"]
    differences = differences_between(config, found)
    with_bounds = {**asked, **bounds} if "max_bytes" in asked else asked
    changes = config if update else _changed(with_bounds, found) | _lacking(wanted, found)
    action = "update" if changes and differences else "leave"
    sent = {**found, **changes}
    for key in off.keys() & changes.keys():
        del sent[key]  # a missing field is off, also one that holds an object or a list
    grows = sent.get("max_bytes", -1) > found.get("max_bytes", -1)
    return Step(wanted.kind, wanted.name, action, config, sent, differences, turn=2 if grows else 0)


def _asked(wanted: Wanted, found: dict[str, Any], replicas: ReplicaPlan, used_bytes: int) -> dict[str, Any]:
    """Select the fields that the caller asked for, which are changed in an existing stream without `update` as well.

    The administrator may have changed the limit of an existing stream: only a limit in the call replaces it.
    """
    asked = {name: wanted.config[name] for name in wanted.asked}
    share = replicas.bound(wanted.share)
    least = max(share.get("max_bytes", 0), int(used_bytes * _ABOVE_USED))
    has = found.get("max_bytes", -1)
    if share and wanted.message_bytes and (has < 0 or (wanted.gives_way and has > least)):
        asked["max_bytes"] = least  # the ledger of a party must have a bound
    if replicas.shares_anew:
        asked |= share
        if found.get("discard") == "old" and "max_bytes" in asked:  # less room would make the server delete
            asked["max_bytes"] = max(asked["max_bytes"], found.get("max_bytes", -1))
    return asked if replicas.for_existing is None else {**asked, "num_replicas": replicas.for_existing}


def _changed(asked: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in asked.items() if found.get(key) != value}


def _lacking(wanted: Wanted, found: dict[str, Any]) -> dict[str, Any]:
    """Return what a stream lacks: subjects, without which messages are refused; on one of an earlier version the audit.

    A subject that a lacking one covers gives way to it: a stream takes no two that meet.
    """
    found_subjects = list[str](found.get("subjects") or ())
    more = [subject for subject in wanted.config["subjects"] if subject not in found_subjects]
    has = [subject for subject in found_subjects if not any(covers(wide, subject) for wide in more)]
    audit = wanted.config.get("republish") if not found.get("republish") else None
    return {**({"subjects": [*has, *more]} if more else {}), **({"republish": audit} if audit else {})}


def _plan_consumer(
    agent: str, wanted: dict[str, Any], found: dict[str, Any] | None, *, update: bool, asked: int | None
) -> Step:
    name = wanted["durable_name"]
    changed = {} if asked is None else {"max_ack_pending": asked}
    if found is None:
        config = {**wanted, **changed}
        return Step("consumer", name, "create", config, config, agent=agent)
    # How many tasks an agent may have in work is a choice, too, which the consumer remembers.
    config = {**{key: value for key, value in wanted.items() if key != "max_ack_pending"}, **changed}
    differences = differences_between(config, found)
    changes = config if update else _changed(changed, found)
    action = "update" if changes and differences else "leave"
    return Step("consumer", name, action, config, {**found, **changes}, differences, agent)


def differences_between(wanted: dict[str, Any], found: dict[str, Any]) -> tuple[str, ...]:
    """Describe each field of `wanted` that `found` has otherwise."""
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
        return f"{value / SECOND_NS:.12g} s"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_show(name, part)}" for name, part in value.items())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, list):
        return " ".join(str(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return str(value)

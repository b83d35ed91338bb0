"""What a hostile party of a bus can send with its real credential, and what there is of others.

A subject that an attack uses holds `evil`, so that what an attacker did to its own subjects is told from the rest.
"""

import json
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from agentbus import Coordinator
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.nats_client import Msg
from agentbus.bus.progress.wanted import progress_config
from agentbus.bus.topology import wanted_files, wanted_streams
from agentbus.concurrently import concurrently
from agentbus.errors import AgentBusError
from agentbus.protocol import permissions, subjects
from agentbus.protocol.headers import MSG_ID
from agentbus.protocol.ids import random_token
from agentbus.protocol.json_codec import encode
from agentbus.protocol.parties.party import Party
from agentbus.protocol.progress import names as progress
from support.harness import BOUND_S, eventually, worker
from support.installation import OwnBus, own_bus

IDLE, BUSY, OTHER = "idle", "busy", "other"
"""The agents of the victims: one waits for a task, one works and has tasks queued, one shows that the bus goes on."""
HOSTILE: Final = ("code", "lead", "main", "alice", "bob")
"""A plain worker, one with `--may-task`, an operator, a member and a viewer."""
AT_ONCE: Final = 32
_CREATE: Final = "$JS.API.CONSUMER.CREATE."
_NS: Final = 10**9

PAYLOADS: Final = [
    b"", b"{}", b"+ACK", b"+TERM", b"-NAK", b'{"batch":100,"expires":60000000000}', b"100", b'{"seq":1}',
    b'{"seq":100000}', b'{"filter":">"}', b'{"config":{"name":"AGENT_TASKS","subjects":["x"]}}',
    b'{"pause_until":"2099-01-01T00:00:00Z"}', b'{"cancel":"victim"}',
]  # fmt: skip
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "durable": {"durable_name": True},
    "group of direct gets": {"deliver_group": "_sys_"},
    "group": {"deliver_group": "x"},
    "flow control": {"flow_control": True, "idle_heartbeat": _NS // 10},
    "acknowledged": {"ack_policy": "explicit", "ack_wait": _NS, "headers_only": True},
    "at a rate": {"rate_limit_bps": 10_000},
}


def headers_against(victim: str) -> dict[str, dict[str, str]]:
    """Headers that JetStream acts on, from 2.10 to 2.15, against the subjects of a victim."""
    queue, key = subjects.tasks(victim), f"$KV.AGENT_STATE.{victim}.victim"
    return {
        "ttl": {"Nats-TTL": "1s"},
        "ttl for ever": {"Nats-TTL": "never"},
        "schedule": {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": queue},
        "schedule once": {"Nats-Schedule": "@at 2026-01-01T00:00:00Z", "Nats-Schedule-Target": key},
        "schedule with a source": {"Nats-Schedule": "@every 1s", "Nats-Schedule-Target": key,
                                   "Nats-Schedule-Source": key, "Nats-Schedule-TTL": "1s"},
        "counter": {"Nats-Incr": "+1"},
        "rollup": {"Nats-Rollup": "all"},
        "rollup of the subject": {"Nats-Rollup": "sub"},
        "stream": {"Nats-Expected-Stream": subjects.TASKS_STREAM},
        "sequence": {"Nats-Expected-Last-Sequence": "0"},
        "sequence of another subject": {"Nats-Expected-Last-Subject-Sequence": "0",
                                        "Nats-Expected-Last-Subject-Sequence-Subject": key},
        "last id": {"Nats-Expected-Last-Msg-Id": "x"},
        "atomic": {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
        "half a batch": {"Nats-Batch-Id": "h", "Nats-Batch-Sequence": "1"},
        "fast batch": {"Nats-Fast-Batch-Id": "f", "Nats-Batch-Sequence": "1", "Nats-Flow": "1"},
        "removal": {"KV-Operation": "PURGE", "Nats-Marker-Reason": "Purge"},
        "message id": {MSG_ID: f"{victim}.victim"},
        "source": {"Nats-Stream-Source": "AGENT_TASKS 1 > >"},
    }  # fmt: skip


def targets(victim: str) -> list[str]:
    """Subjects of others that no party may reach by a detour, whether or not the server has a literal one like that."""
    tasks, durables = subjects.TASKS_STREAM, (subjects.durable(victim), subjects.durable_of_parties(victim))
    api = [
        f"$JS.API.CONSUMER.{verb}.{tasks}.{name}"
        for verb in ("MSG.NEXT", "RESET", "DELETE", "PAUSE", "UNPIN", "LEADER.STEPDOWN", "INFO")
        for name in durables
    ]
    streams = (tasks, subjects.RESULTS_STREAM, subjects.STATE_STREAM, subjects.REGISTRY_STREAM, subjects.DEAD_STREAM)
    api += [f"$JS.API.STREAM.{verb}.{name}" for verb in ("PURGE", "DELETE", "MSG.DELETE", "UPDATE") for name in streams]
    return [
        *api,
        *(f"$JS.ACK.{tasks}.{name}.1.1.1.1700000000000000000.0" for name in durables),
        subjects.tasks(victim), f"{subjects.tasks(victim)}.main", f"$KV.AGENT_STATE.{victim}.victim",
        f"$KV.AGENT_REGISTRY.{victim}.m", f"agent.main.results.{victim}", f"agent.{victim}.dead",
        f"$O.AGENT_FILES_{victim}.C.x", f"agent.{victim}.control", f"_INBOX_{victim}.x", "_INBOX_admin.x",
    ]  # fmt: skip


@dataclass
class Ground:
    """A bus of `agentbus init` with victims at work, and every party's connection."""

    own: OwnBus
    admin: Bus
    main: Coordinator
    parties: dict[str, Party]
    connections: dict[str, Bus]
    monitoring: int
    release: Path
    heard: list[str] = field(default_factory=list[str])

    def literals(self, account: str) -> list[str]:
        """The subjects without wildcards that the server has subscriptions on in an account of streams."""
        url = f"http://127.0.0.1:{self.monitoring}/subsz?subs=1&acc={account}&limit=10000"
        with urlopen(url, timeout=BOUND_S) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read()).get("subscriptions_list") or []
        return sorted({one["subject"] for one in found if not {"*", ">"} & set(one["subject"].split("."))})

    async def of_others(self) -> dict[str, Any]:
        """What is stored on the bus, and what its consumers have done, apart from what the attackers may change."""
        found: dict[str, Any] = {}
        for name in await self.admin.stream_names():
            info = await self.admin.stream_info(name, subjects_filter=">")
            counts = info.state.subjects or {}
            found[f"{name} is"] = info.config
            found |= {f"{name} {key}": n for key, n in counts.items() if not _of_attackers(key)}
        for one in await self.admin.consumers(subjects.TASKS_STREAM):
            agent = one.name.split("-", 1)[1]
            if agent in (IDLE, BUSY):
                found[one.name] = {"pending": one.num_pending, "running": one.num_ack_pending, "config": one.config}
            if agent == IDLE:  # the pulls of the busy one come and go by themselves
                found[f"pulls of {one.name}"] = one.num_waiting
        return found

    async def fence(self) -> None:
        """Have an honest task done: by then the server has acted on what was sent before."""
        task = await self.main.publish(OTHER, "say:here", task_type="test")
        waited = await self.main.wait([task.id], timeout_s=BOUND_S)
        assert waited.settled[task.id].state == "completed"


def _of_attackers(subject: str) -> bool:
    """Whether a subject is one that an attacker may publish to, or belongs to the task of a fence."""
    tokens = subject.split(".")
    own = tokens[0] == "agent" and tokens[1] in ("code", "lead")
    return own or "evil" in subject or "=" in subject or OTHER in tokens or tokens[-1] in HOSTILE


# -- what an attacker sends -------------------------------------------------------------------------------------


def concrete(pattern: str, number: int = 0) -> str:
    """A subject that matches a pattern."""
    tokens = ["evil" if token == "*" else f"evil{number}" if token == ">" else token for token in pattern.split(".")]
    return ".".join(tokens)


def creations(party: Party) -> Iterator[tuple[str, str]]:
    """The stream and the filter of each consumer that a party may make; an empty one where the subject names none."""
    for subject in party.publish:
        if subject.startswith(_CREATE):
            stream, _, filtered = f"{subject.removeprefix(_CREATE)}.".split(".", 2)
            yield stream, filtered.removesuffix(".")


def create_subject(stream: str, name: str, filtered: str) -> str:
    """Where a consumer with this filter is asked for."""
    return ".".join(one for one in ("CONSUMER.CREATE", stream, name, filtered) if one)


def meet(one: str, other: str) -> str | None:
    """The subjects that match two patterns, as a pattern; None if there are none."""
    left, right, both = one.split("."), other.split("."), list[str]()
    for number, (mine, theirs) in enumerate(zip_longest(left, right)):
        if ">" in (mine, theirs):
            rest = right[number:] if mine == ">" else left[number:]
            return ".".join([*both, *rest]) if rest else None
        if mine is None or theirs is None or (mine != theirs and "*" not in (mine, theirs)):
            return None
        both.append(theirs if mine == "*" else mine)
    return ".".join(both)


def contents(party: Party, stream: str, filtered: str) -> Iterator[str]:
    """Patterns of what a party may publish so that a consumer of a stream with this filter delivers it."""
    agent = stream.removeprefix("OBJ_AGENT_FILES_")
    told_by = progress.agent_of_stream(stream)
    configs = [one.config for one in (*wanted_streams(), wanted_files(agent))]
    configs += [] if told_by is None else [progress_config(told_by)]
    [stored_there] = [config["subjects"] for config in configs if config["name"] == stream]
    for subject in party.of("send"):
        stored = party.stored_as(subject)
        for held in stored_there:
            inside = meet(held, stored)
            found = meet(inside, filtered or ">") if inside is not None else None
            if found is not None:
                sent = subject if found == stored else found.removesuffix(f".{party.id}")
                yield found if stored == subject else sent


async def put_payloads(ground: Ground, stream: str, filtered: str) -> bool:
    """Store the payloads where a consumer with this filter reads them; False if no hostile party may."""
    for name in HOSTILE:
        for pattern in contents(ground.parties[name], stream, filtered):
            for number, payload in enumerate(PAYLOADS):
                await ground.connections[name].store(concrete(pattern, number), payload)
            return True
    return False


async def push(bus: Bus, stream: str, filtered: str, target: str, variant: str) -> bool:
    """Make a consumer that has the server deliver what a filter matches to a subject; False if that is refused."""
    name = f"evil-{random_token()}"
    config: dict[str, Any] = {
        "name": name, "filter_subject": filtered, "deliver_subject": target, "ack_policy": "none",
        "deliver_policy": "all", **VARIANTS[variant],
    }  # fmt: skip
    if config.get("durable_name"):
        config["durable_name"] = name
    if not filtered:
        del config["filter_subject"]
    body = {"stream_name": stream, "config": config, "action": "create"}
    try:
        await bus.api(create_subject(stream, name, filtered), body)
    except AgentBusError:
        return False
    return True


async def publish_with_replies(bus: Bus, party: Party, replies: Iterable[str]) -> None:
    """Send each payload on each subject that a party may publish to, with the subjects of others as the reply."""
    own = [concrete(subject) for subject in party.publish if not subject.startswith("$JS.ACK.")]
    for reply in replies:
        for subject in own:
            for payload in PAYLOADS[:8]:
                await bus.publish(subject, payload, reply=reply, flush=False)
    await flushed(bus)


async def store_with_headers(bus: Bus, party: Party, headers: Iterable[dict[str, str]]) -> None:
    """Store a message with each of the headers on each subject of a stream that a party may publish to."""
    own = [concrete(subject) for subject in party.of("send") if not subject.startswith("$JS.")]

    async def one(request: tuple[str, dict[str, str]]) -> None:
        with suppress(AgentBusError):
            await bus.request(request[0], b"1", headers=request[1], timeout_s=2)

    await concurrently([(subject, header) for subject in own for header in headers], one, at_once=AT_ONCE)


async def flushed(bus: Bus) -> None:
    """Wait until the server has read what was sent: it answers a request of its own connection after that."""
    with suppress(AgentBusError):
        await bus.request("$SYS.REQ.USER.INFO", timeout_s=5)


# -- the bus ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def battleground(folder: Path, monitoring: int) -> AsyncGenerator[Ground]:
    """A bus of `agentbus init` whose victims are at work; at the end they must have done all their tasks."""
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(
            own_bus(
                folder, ["code", IDLE, BUSY, OTHER], may_task={"lead": ["code"]}, lease_s=20,
                coordinators={"alice": ("member", ["code"]), "bob": ("viewer", None)},
            )
        )  # fmt: skip
        admin = await stack.enter_async_context(connect(own.settings("admin")))
        main = await stack.enter_async_context(own.coordinator("main"))
        agents = own.folder.agents
        parties = {
            "code": permissions.worker("code"),
            "lead": permissions.worker("lead", ["code"]),
            "main": permissions.coordinator("main", "operator", agents),
            "alice": permissions.coordinator("alice", "member", ["code"]),
            "bob": permissions.coordinator("bob", "viewer", agents),
        }
        connections = {name: await stack.enter_async_context(connect(own.settings(name))) for name in HOSTILE}
        for agent in (BUSY, OTHER):
            await stack.enter_async_context(worker(own.worker_toml(folder, agent, task_timeout_seconds=1_000)))
        release = folder / "release"
        ground = Ground(own, admin, main, parties, connections, monitoring, release)
        await _set_to_work(ground, stack)
        yield ground


async def _set_to_work(ground: Ground, stack: AsyncExitStack) -> None:
    """One victim works and has three tasks behind; one waits for a task with a pull of its own."""
    started = ground.release.with_name("started")
    first = await ground.main.publish(BUSY, f"touch:{started} wait:{ground.release} say:done", task_type="test")
    await eventually(started.exists, "the busy victim works")
    queued = [await ground.main.publish(BUSY, "say:done", task_type="test") for _ in range(3)]
    idle = await stack.enter_async_context(connect(ground.own.settings(IDLE)))

    def hear(message: Msg) -> None:
        ground.heard.append(f"{message.subject} {message.data[:80]!r}")

    inbox = f"_INBOX_{IDLE}.victim"
    for subject in (f"_INBOX_{IDLE}.>", subjects.control(IDLE)):
        stack.push_async_callback(await idle.subscribe(subject, hear))
    pull = encode({"batch": 1, "expires": 600 * _NS})
    await idle.publish(subjects.pull(subjects.TASKS_STREAM, subjects.durable(IDLE)), pull, reply=inbox)
    await ground.fence()

    async def finish(*_: object) -> None:
        ground.release.touch()
        waited = await ground.main.wait([task.id for task in (first, *queued)], timeout_s=BOUND_S)
        assert {(one.state, one.record.entry.attempt) for one in waited.settled.values()} == {("completed", 1)}
        assert len(waited.settled) == 4

    stack.push_async_callback(finish)

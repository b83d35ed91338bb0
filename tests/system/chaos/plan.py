"""The plan of a storm: its tasks and faults, drawn from a seed before it begins."""

import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agentbus.protocol.json_codec import Json
from system.chaos.faults import Fault, FaultKind

PROGRAMS: Final = Path(__file__).parent / "programs"
REAL_WORKER: Final = (sys.executable, "-m", "agentbus", "worker", "run")
FRAGILE_WORKER: Final = (sys.executable, str(PROGRAMS / "fragile_worker.py"))
BROKEN_WORKER: Final = (sys.executable, str(PROGRAMS / "broken_worker.py"))
BLOCKING_WORKER: Final = (sys.executable, str(PROGRAMS / "blocking_worker.py"))
UNRENEWING_WORKER: Final = (sys.executable, str(PROGRAMS / "unrenewing_worker.py"))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of task: how frequent it is, and what its result must say."""

    weight: int
    status: str = "completed"
    error: str = ""


KINDS: Final[Mapping[str, Kind]] = {
    "instant": Kind(38),
    "slow": Kind(18),
    "crash": Kind(12, "failed", "exited with status"),
    "hang": Kind(6, "failed", "timed out after"),
    "big": Kind(6),
    "fork": Kind(7),
    "setsid": Kind(7),
    "stubborn": Kind(6),
    "talk": Kind(0),
    "ask": Kind(0),
    "edit": Kind(0),
}

TALKER: Final = "talk"
"""The agent whose tasks are conversations: each begins a session, and follow-ups go on with it."""
_FOLLOW_UPS: Final = 2
ASKER: Final = "ask"
"""The agent whose tasks ask a person."""
EDITOR: Final = "edit"
"""The agent whose tasks change a repository."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task, and how its publisher behaves.

    Attributes:
        at_s: when it is published, in seconds from the beginning of the storm.
        impatient_s: the publisher is cancelled after so many seconds, in the middle.
        again: it is published once more although the first time has worked.
        cancel_after_s: a coordinator cancels it so many seconds after it was published.
        continues: the task with whose session it goes on.
    """

    task_id: str
    agent: str
    kind: str
    number: int
    at_s: float
    impatient_s: float | None = None
    again: bool = False
    cancel_after_s: float | None = None
    continues: str | None = None

    @property
    def relies(self) -> bool:
        """Whether nobody publishes it again if the bus knows it after its publisher was cancelled."""
        return self.number % 2 == 0

    @property
    def content(self) -> Json:
        """What the agent command is told."""
        return {"kind": self.kind, "number": self.number}


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of a storm.

    Attributes:
        task_timeout_s: of the workers: shorter than the tasks that hang, and far longer than the others take, also on
            a machine that is busy with something else.
        fragile: how many replicas of each agent die by themselves at the worst moments.
        copies: of each stream. With three there are three servers, and the faults `meta`, `tasks`, `results` and
            `ledger` kill the one that leads JetStream or that stream.
        conversations: how many there are, each a task and its follow-ups.
        questions: how many tasks ask a person.
        edits: how many tasks change a repository.
        one_account: one server has one account and one ledger for all, in place of one of each for each party.
    """

    seed: int
    faults: Mapping[FaultKind, int]
    agents: tuple[str, ...] = ("code", "doc")
    replicas: int = 3
    tasks: int = 400
    storm_s: float = 200.0
    settle_s: float = 120.0
    lease_s: float = 4.0
    task_timeout_s: float = 12.0
    worker: tuple[str, ...] = REAL_WORKER
    fragile: int = 1
    kinds: Mapping[str, Kind] = field(default_factory=lambda: KINDS)
    copies: int = 1
    conversations: int = 0
    questions: int = 0
    edits: int = 0
    one_account: bool = False

    @property
    def all_agents(self) -> tuple[str, ...]:
        """Those that get any task, and the ones that have conversations, ask and edit, if there are any."""
        more = {TALKER: self.conversations, ASKER: self.questions, EDITOR: self.edits}
        return (*self.agents, *(agent for agent, count in more.items() if count))

    @property
    def workers(self) -> Mapping[str, str]:
        """The name of each worker, and its agent."""
        return {f"{agent}-{number}": agent for agent in self.all_agents for number in range(self.replicas)}

    @property
    def fragile_workers(self) -> frozenset[str]:
        """The workers that die by themselves at the worst moments."""
        return frozenset(f"{agent}-{number}" for agent in self.all_agents for number in range(self.fragile))

    def draw(self) -> tuple[list[PlannedTask], list[Fault]]:
        """The tasks and the faults of this seed. Which fault meets which task is up to the machine."""
        rng = random.Random(self.seed)
        tasks = [self._task(rng, number) for number in range(self.tasks)]
        for _ in range(self.conversations):
            tasks += self._conversation(rng, len(tasks))
        tasks += [self._question(rng, number) for number in range(len(tasks), len(tasks) + self.questions)]
        tasks += [self._edit(rng, number) for number in range(len(tasks), len(tasks) + self.edits)]
        faults = [self._fault(rng, kind) for kind, count in self.faults.items() for _ in range(count)]
        return tasks, sorted(faults, key=lambda fault: fault.at_s)

    def _task(self, rng: random.Random, number: int) -> PlannedTask:
        [kind] = rng.choices(list(self.kinds), [kind.weight for kind in self.kinds.values()])
        return PlannedTask(
            task_id=f"chaos-{number:04d}-{kind}",
            agent=rng.choice(self.agents),
            kind=kind,
            number=number,
            at_s=rng.uniform(0, 0.95 * self.storm_s),
            impatient_s=rng.uniform(0, 0.02) if rng.random() < 0.08 else None,
            again=rng.random() < 0.05,
            cancel_after_s=rng.uniform(0, 3) if rng.random() < 0.04 else None,
        )

    def _conversation(self, rng: random.Random, number: int) -> list[PlannedTask]:
        """A task and its follow-ups, the second of which goes on with the first or with the task, at any time after."""
        at_s = sorted(rng.uniform(0, 0.95 * self.storm_s) for _ in range(1 + _FOLLOW_UPS))
        tasks: list[PlannedTask] = []
        for step, when_s in enumerate(at_s, number):
            before = rng.choice(tasks).task_id if tasks else None
            again = rng.random() < 0.1
            tasks.append(
                PlannedTask(f"chaos-{step:04d}-talk", TALKER, "talk", step, when_s, again=again, continues=before)
            )
        return tasks

    def _question(self, rng: random.Random, number: int) -> PlannedTask:
        """A task that asks a person once in each run; a few are cancelled meanwhile."""
        at_s, cancel_after_s = rng.uniform(0, 0.9 * self.storm_s), rng.uniform(0, 4) if rng.random() < 0.1 else None
        name = f"chaos-{number:04d}-ask"
        return PlannedTask(name, ASKER, "ask", number, at_s, again=rng.random() < 0.1, cancel_after_s=cancel_after_s)

    def _edit(self, rng: random.Random, number: int) -> PlannedTask:
        """A task that leaves a change and a file, which come home with its result."""
        at_s, again = rng.uniform(0, 0.9 * self.storm_s), rng.random() < 0.1
        return PlannedTask(f"chaos-{number:04d}-edit", EDITOR, "edit", number, at_s, again=again)

    def _fault(self, rng: random.Random, kind: FaultKind) -> Fault:
        shortest_s, longest_s = {
            "stop": (1.2 * self.lease_s, 2 * self.lease_s),
            "server": (0.1, self.lease_s),
            **dict.fromkeys(("meta", "tasks", "results", "ledger"), (0.1, 3 * self.lease_s)),
            "cut": (0.5, 1.25 * self.lease_s),
            "stall": (0.5, 2 * self.lease_s),
            "rights": (0.25 * self.lease_s, 3.5 * self.lease_s),
            "unread": (self.lease_s, 3 * self.lease_s),
            "vanish": (0.25 * self.lease_s, 1.5 * self.lease_s),
        }.get(kind, (0.0, 0.0))
        # A worker that may not claim a task puts it off for a minute, which should not begin at the end of the storm.
        latest = 0.7 if kind == "rights" else 0.95
        return Fault(
            at_s=rng.uniform(0.03, latest) * self.storm_s,
            kind=kind,
            target=rng.randrange(1000),
            length_s=rng.uniform(shortest_s, longest_s),
            odd=rng.random() < 0.5,
        )


def full(seed: int) -> Plan:
    """What `make chaos` runs: about five minutes."""
    faults: dict[FaultKind, int] = {
        "kill": 60,
        "stop": 14,
        "term": 12,
        "server": 9,
        "cut": 12,
        "stall": 8,
        "rights": 9,
        "unread": 9,
        "vanish": 6,
    }
    return Plan(seed, faults, conversations=30, questions=60, edits=40)


def short(seed: int) -> Plan:
    """What `make test` runs: about half a minute."""
    return Plan(
        seed,
        {"kill": 6, "stop": 2, "term": 2, "server": 2, "cut": 2, "stall": 1, "unread": 1, "vanish": 1},
        replicas=2,
        tasks=60,
        storm_s=12,
        settle_s=60,
        lease_s=2,
        task_timeout_s=8,
        conversations=4,
        questions=8,
        edits=8,
    )


def clustered(seed: int) -> Plan:
    """What `make cluster` runs: two minutes and a half over three servers, of which each leader is killed twice."""
    return Plan(
        seed,
        {"meta": 2, "tasks": 2, "results": 2, "ledger": 2, "kill": 12, "stop": 2, "term": 4},
        replicas=2,
        tasks=250,
        storm_s=150,
        copies=3,
    )


def clustered_short(seed: int) -> Plan:
    """What `make test` runs: the loss of the server that leads the ledger, in half a minute."""
    return Plan(
        seed,
        {"ledger": 1, "kill": 2},
        agents=("code",),
        replicas=2,
        tasks=30,
        storm_s=12,
        settle_s=60,
        lease_s=2,
        task_timeout_s=8,
        copies=3,
    )


def broken(seed: int) -> Plan:
    """A worker that acknowledges first, and some kills: the tasks that they hit are lost."""
    return Plan(
        seed,
        {"kill": 4},
        agents=("code",),
        replicas=2,
        tasks=12,
        storm_s=6,
        settle_s=30,
        lease_s=1,
        worker=BROKEN_WORKER,
        fragile=0,
        kinds={"slow": Kind(1)},
    )


def blocked(seed: int) -> Plan:
    """Workers that wait for their log to be written, and pipes that are not read for longer than a lease."""
    return Plan(
        seed,
        {"unread": 4},
        agents=("code",),
        replicas=2,
        tasks=12,
        storm_s=6,
        settle_s=30,
        lease_s=1,
        worker=BLOCKING_WORKER,
        fragile=0,
        kinds={"slow": Kind(1)},
    )


def unrenewed(seed: int) -> Plan:
    """Workers that do not renew their leases, and no faults: tasks that take longer than the lease are run again."""
    return Plan(
        seed,
        {},
        agents=("code",),
        replicas=2,
        tasks=4,
        storm_s=2,
        settle_s=30,
        lease_s=1,
        worker=UNRENEWING_WORKER,
        fragile=0,
        kinds={"slow": Kind(1)},
    )

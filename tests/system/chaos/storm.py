"""A storm from beginning to end: set-up, publishing and faults at the same time, a quiet end, and the account."""

import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agentbus.errors import BusUnavailableError
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.ledger import Ledger
from support.harness import worker_toml
from support.jobs import agent_keys
from support.repositories import source_repository
from system.chaos.command import Program
from system.chaos.faults import Fault
from system.chaos.fleet import Events, Fleet, Replica
from system.chaos.ground import Ground, OneServer, ThreeServers
from system.chaos.person import Person
from system.chaos.plan import ASKER, EDITOR, FRAGILE_WORKER, PROGRAMS, TALKER, Plan
from system.chaos.publisher import Publisher
from system.chaos.reruns import NONE, begun_during, counts, reruns
from system.chaos.users import RIGHTS
from system.chaos.verdict import Account, check, executions, longest_recovery, longest_silence_s, recovery_after_restart

if TYPE_CHECKING:
    from agentbus import Coordinator

_CATCH_UP_S = 20.0
_PROGRESS_S = 10.0
_DRAIN_S = 2.0
_RETRY_S = 0.2
_STALLED = 0.5
"""The share of the connections that a stall meets."""


class Storm:
    """One run of a plan."""

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._folder = folder
        self._say = say
        self._tasks, self._faults = plan.draw()
        self._rng = random.Random(plan.seed + 1)
        self._events = Events(folder / "events.log")
        self._record = folder / "executions"
        self._uses = folder / "uses"
        self._programs = {agent: Program(folder / "programs" / agent) for agent in plan.all_agents}
        self._ground: Ground = (ThreeServers if plan.copies > 1 else OneServer)(plan, folder, self._events)
        self._watched: list[tuple[int, float, str]] = []
        self._seen_all = asyncio.Event()
        self._unsettled = {task.task_id: task for task in self._tasks}
        self._quiet_since = 0.0
        self._coordinator: Coordinator
        self._person: Person
        self._publisher: Publisher

    async def run(self) -> Account:
        """Run the whole storm. Defer no process behind, also after an error."""
        fleet = self._fleet()
        try:
            await self._ground.open()
            async with self._ground.coordinator() as self._coordinator:
                await self._prepare()
                fleet.start()
                self._publisher = Publisher(self._coordinator, self._tasks, self._events, self._plan.storm_s)
                self._person = Person(self._coordinator, self._events, self._plan.seed + 2, self._publisher.insist)
                beside = [self._watch(), self._tell(), *([self._person.run()] if self._plan.questions else [])]
                async with _while_running(*beside):
                    with self._publisher.listening():
                        await self._blow(fleet)
                    await self._settle()
                    await self._watched_all()
                    wrong = await fleet.end()
                return await self._account(fleet, wrong)
        finally:
            fleet.kill_all()
            await self._ground.close()

    # -- before -------------------------------------------------------------------------------------------------

    def _fleet(self) -> Fleet:
        marker = f"CHAOS_MARK={os.urandom(8).hex()}"
        name, _, value = marker.partition("=")
        env = {**os.environ, name: value, "HOME": str(self._folder), "TMPDIR": str(self._folder)}
        replicas = [
            Replica(
                name,
                [*self._worker(name), "--config", str(self._folder / name / f"{agent}.toml"), "--verbose"],
                env,
                self._folder,
                self._events,
                program=self._programs[agent],
                mortal=name in self._plan.fragile_workers,
            )
            for name, agent in self._plan.workers.items()
        ]
        return Fleet(replicas, self._folder / "state", marker)

    def _worker(self, name: str) -> tuple[str, ...]:
        return FRAGILE_WORKER if name in self._plan.fragile_workers else self._plan.worker

    async def _prepare(self) -> None:
        """What is needed on the bus, and the configuration of the workers."""
        await self._ground.prepare()
        python = (sys.executable, "-I", "-S", str(PROGRAMS / "agent.py"))
        source = {"source": source_repository(self._folder / "source")} if self._plan.edits else {}
        for name, agent in self._plan.workers.items():
            nats = self._ground.nats(name)
            command = [str(self._programs[agent].path), *python, str(self._record)]
            if agent == ASKER:
                command = [*command[:-2], str(PROGRAMS / "asking_agent.py"), command[-1], str(self._uses)]
            (self._folder / name).mkdir()
            config = worker_toml(
                self._folder / name,
                str(nats.pop("url")),
                agent=agent,
                nats=nats,
                chat_cmd=command if agent == ASKER else [*command, "{input}"],
                log={"dir": self._folder / f"logs-{agent}"},
                repository=source if agent == EDITOR else {},
                worker={
                    "state_dir": self._folder / "state",
                    "concurrency": 2,
                    "keep_workdir": agent != EDITOR,
                    "task_timeout_seconds": self._plan.task_timeout_s,
                    "kill_grace_seconds": 0.5,
                    "drain_timeout_seconds": _DRAIN_S,
                    "reconnect_time_wait_seconds": 0.2,
                    "max_attempts": 20,
                    **({"open_questions": 2} if agent == ASKER else {}),
                },
            )
            if agent == ASKER:
                agent_keys(config, output="acp", permissions="ask")
            if agent == TALKER:
                agent_keys(config, output="claude", resume_cmd=[*command, "--resume", "{session}", "{input}"])

    # -- during -------------------------------------------------------------------------------------------------

    async def _blow(self, fleet: Fleet) -> None:
        """Publish all tasks and commit all faults, each at its time."""
        async with asyncio.TaskGroup() as group:
            for task in self._tasks:
                group.create_task(self._publisher.publish(task))
            for fault in self._faults:
                group.create_task(self._strike(fault, fleet))
        self._say(f"{self._clock()}  the storm is over; waiting for every task to be settled")

    async def _strike(self, fault: Fault, fleet: Fleet) -> None:
        await asyncio.sleep(fault.at_s)
        match fault.kind:
            case "kill":
                fleet.pick(fault.target).kill()
            case "stop":
                await fleet.pick(fault.target).pause(fault.length_s)
            case "term":
                fleet.pick(fault.target).ask()
            case "server" | "meta" | "tasks" | "results" | "ledger":
                await self._ground.strike(fault.kind, fault.length_s)
            case "cut":
                chosen = self._some_workers(fault)
                self._events.note("cut", f"{' '.join(chosen)}, for {fault.length_s:.1f} s")
                links = [self._ground.links[name] for name in chosen]
                await asyncio.gather(*(link.cut(fault.length_s, refuse=fault.odd) for link in links))
            case "stall":
                links = {name: link for name, link in self._ground.links.items() if self._rng.random() < _STALLED}
                self._events.note("stall", f"{' '.join(links)}, for {fault.length_s:.1f} s")
                await asyncio.gather(*(link.stall(fault.length_s) for link in links.values()))
            case "rights":
                right = tuple(RIGHTS)[fault.target // 10 % len(RIGHTS)]
                await self._ground.refuse(right, self._some_workers(fault), fault.length_s)
            case "unread":
                await fleet.pick(fault.target).leave_unread(fault.length_s)
            case "vanish":
                agent = self._plan.all_agents[fault.target % len(self._plan.all_agents)]
                self._events.note("vanish", f"the command of {agent}, for {fault.length_s:.1f} s")
                await self._programs[agent].vanish(fault.length_s)
                self._events.note("appear", f"the command of {agent}")

    def _some_workers(self, fault: Fault) -> list[str]:
        """One worker, those of one agent, or all of them."""
        names = list(self._plan.workers)
        one = names[fault.target % len(names)]
        of_agent = [name for name, agent in self._plan.workers.items() if agent == self._plan.workers[one]]
        return ([one], of_agent, names)[fault.target % 3]

    async def _watch(self) -> None:
        """Watch the inbox all the time: what is seen live must be what is there in the end."""
        async with self._coordinator.inbox(after=0) as inbox:
            while True:
                message = await inbox.next()
                name = message.result.id if message.result else ""
                self._watched.append((message.seq, message.stored_at.timestamp(), name))
                if len({name for _, _, name in self._watched}) >= len(self._tasks):
                    self._seen_all.set()

    async def _watched_all(self) -> None:
        """Give the watcher time to see what is there: its consumer may have gone down with a server of a cluster.

        A result that it has passed over is not seen later either.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_CATCH_UP_S):
                await self._seen_all.wait()

    async def _tell(self) -> None:
        self._began = time.time()
        while True:
            await asyncio.sleep(_PROGRESS_S)
            count, published = self._events.counts.get, len(self._publisher.published)
            self._say(
                f"{self._clock()}  published {published}/{len(self._tasks)}, results {len(self._watched)}, "
                f"executions {len(executions(self._record))}; killed {count('kill', 0)}, stopped {count('stop', 0)}, "
                f"terminated {count('term', 0)}, server killed {count('server', 0)}, cut {count('cut', 0)}, "
                f"rights refused {count('rights', 0)}, unread {count('unread', 0)}, vanished {count('vanish', 0)}"
            )

    def _clock(self) -> str:
        return f"{time.time() - self._began:4.0f} s"

    # -- after --------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Wait, without faults, until every task is settled and acknowledged, or until nothing changes any more."""
        deadline = time.time() + self._plan.settle_s
        self._quiet_since = time.time()
        while time.time() < deadline:
            try:
                if await self._settled():
                    return
            except BusUnavailableError:
                self._quiet_since = time.time()
            await asyncio.sleep(_RETRY_S)
        self._say(f"{self._clock()}  not settled within {self._plan.settle_s:g} s")

    async def _settled(self) -> bool:
        """Whether all is done; or, with no task left on the bus, nothing has come for several leases."""
        bus = self._coordinator.bus
        before = len(self._unsettled)
        for task in list(self._unsettled.values()):
            found = await Ledger(bus).read(TaskKey(task.agent, task.task_id))
            if isinstance(found, Record) and found.entry.terminal:
                del self._unsettled[task.task_id]
        if len(self._unsettled) < before:
            self._quiet_since = time.time()
        if (await bus.api(f"STREAM.INFO.{subjects.TASKS_STREAM}"))["state"]["messages"]:
            return False
        return (
            not self._unsettled
            or time.time() - self._quiet_since > 3 * self._plan.lease_s + 2 * self._plan.task_timeout_s
        )

    async def _account(self, fleet: Fleet, wrong: list[str]) -> Account:
        ran = executions(self._record)
        async with self._ground.administrator() as administrator:
            account = await check(self._coordinator, administrator, self._tasks, ran, self._publisher.seen)
        account.wrong += [*wrong, *await self._person.faults(self._tasks, self._uses)]
        stored = {name: at for _, at, name in self._watched}
        if (missed := int(account.numbers["results"]) - len(stored)) or len(stored) < len(self._watched):
            repeated = len(self._watched) - len(stored)
            account.wrong.append(f"the watcher of the inbox missed {missed} results and saw {repeated} twice")
        by_task = {task_id: stored[name] for name, task_id in account.result_ids.items() if name in stored}
        again = reruns(ran, self._events.troubles, by_task, lease_s=self._plan.lease_s)
        account.wrong += [str(one) for one in again if one.reason == NONE]
        count = self._events.counts.get
        silence_s = longest_silence_s(self._ground.deaths, stored.values())
        account.numbers |= {
            "questions answered": count("answer", 0),
            "answers that came late": count("late answer", 0),
            "cancel wishes": sum(1 for state in self._publisher.seen.values() if state in ("working", "cancelled")),
            "publisher retries": self._publisher.retries,
            "workers killed": count("kill", 0),
            "workers died at a bad moment": count("died", 0),
            "workers stopped": count("stop", 0),
            "workers terminated": count("term", 0),
            "server kills": count("server", 0),
            **{name: times for name, times in self._events.counts.items() if name.startswith("leader of ")},
            "cuts": count("cut", 0),
            "stalls": count("stall", 0),
            "rights refused for a while": count("rights", 0),
            "logs unread for a while": count("unread", 0),
            "runs begun beside an unread log": begun_during("unread", ran, self._events.troubles),
            "commands vanished for a while": count("vanish", 0),
            "tasks given back unrun": fleet.said("handed back unrun"),
            "workers that did not start without a command": count("missed", 0),
            "commands run again": len(again),
            **counts(again),
            "longest recovery of a task": longest_recovery(fleet.deaths, ran, by_task),
            "longest recovery after the restart of its worker": recovery_after_restart(fleet.restarts, ran, by_task),
            "claims handed back by restarted workers": fleet.said("handed back for another attempt"),
            "longest silence after a server's death": f"{silence_s:.1f} s",
        }
        return account


@asynccontextmanager
async def _while_running(*works: Awaitable[None]) -> AsyncGenerator[None]:
    """Run something beside the block that never ends by itself; if it fails, so does the block."""
    tasks = {asyncio.ensure_future(work) for work in works}
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def run_storm(plan: Plan, *, say: Callable[[str], None] = lambda _: None, keep: bool | None = None) -> Account:
    """Run a plan in a folder of its own, which stays, and is named, if anything was wrong; `keep` decides otherwise."""
    folder = Path(tempfile.mkdtemp(prefix="agentbus-chaos-"))
    try:
        account = await Storm(plan, folder, say).run()
    except BaseException:
        say(f"the storm itself failed; seed {plan.seed}, the logs are in {folder}")
        raise
    if keep is False or (keep is None and not account.wrong):
        shutil.rmtree(folder)
    elif account.wrong:
        account.wrong.append(f"seed {plan.seed}; the logs are in {folder}")
    else:
        say(f"the logs are in {folder}")
    return account

"""The supervised workers of a storm: started again whenever they end, with the same configuration and state folder."""

import asyncio
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from agentbus.cli import exit_codes
from agentbus_worker.claim_records import SUFFIX, LeftClaims
from agentbus_worker.repositories.clone import read_record
from support.harness import processes_with
from system.chaos.command import Program
from system.chaos.log_pipe import LogPipe
from system.chaos.troubles import Troubles

_POLL_S = 0.05
_STUCK_S = 60.0
"""How long a worker that was asked to stop may take, however the bus is, before that counts as a fault of its own."""

UNANSWERED = "whether it was claimed is not known"
"""What a worker says of a task when the answer to its claim is lost."""


@dataclass
class Events:
    """Logs to disk what the storm did and when, and counts it."""

    path: Path
    counts: dict[str, int] = field(default_factory=dict[str, int])
    troubles: Troubles = field(default_factory=Troubles)

    def note(self, kind: str, text: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{stamp} {kind} {text}\n")


class Replica:
    """One worker and its supervisor."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        env: dict[str, str],
        folder: Path,
        events: Events,
        *,
        program: Program,
        mortal: bool = False,
    ) -> None:
        self.name = name
        self._argv = argv
        self._env = env
        self._folder = folder
        self._events = events
        self._program = program
        self._mortal = mortal
        self._pipe = LogPipe(self.log)
        self._rng = random.Random(name)
        self._popen: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._asked_at: float | None = None
        self._starts = 0
        self._started_at = 0.0
        self._ending = False
        self.deaths: list[tuple[str, float]] = []
        self.restarts: list[tuple[str, float]] = []
        self.wrong: list[str] = []

    @property
    def log(self) -> Path:
        """What all its processes wrote to standard error, as far as it was read."""
        return self._folder / f"{self.name}.log"

    @property
    def process(self) -> str:
        """The name of its process: a process id may be used again."""
        return f"{self.name}.{self._starts}"

    @property
    def _pid(self) -> int:
        return self._popen.pid if self._popen is not None else 0

    @property
    def alive(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def ready(self) -> bool:
        """Whether it lives and has recovered what earlier ones have left."""
        _, began, said = self.log.read_text(encoding="utf-8").rpartition(f", pid {self._pid} ")
        return self.alive and bool(began) and "ready for tasks" in said

    async def supervise(self) -> None:
        """Start it, and start it again whenever it has ended, until `end()`."""
        self._pipe.open()
        try:
            await self._supervise()
        finally:
            self._pipe.close()

    async def _supervise(self) -> None:
        while not self._ending:
            code = await self._run_once()
            if self._mortal and code == -signal.SIGKILL and not self._killed:
                self._events.note("died", f"{self.name} pid {self._pid}")
                self._note_death()
            elif not self._killed and not (code == 0 and self._asked_at):
                await self._pipe.drained()
                self._judge(code)
            await asyncio.sleep(self._rng.uniform(0, 1))

    def _judge(self, code: int) -> None:
        """Find out why it has ended by itself."""
        missing = re.search(rf"chat_cmd: the command .* worker=\S+-{self._pid}-\w+$", self._logged(), re.MULTILINE)
        if code == exit_codes.FAILED and missing and self._program.was_away(self._started_at):
            self._events.note("missed", f"{self.name} pid {self._pid}: its command was away when it started")
        elif not self._was_not_listening(code):
            self.wrong.append(f"the worker {self.name} ended by itself with exit code {code}; see {self.log}")

    def _was_not_listening(self, code: int) -> bool:
        """Whether it ended by SIGTERM itself: it was still importing, or at its very end."""
        if not self._asked_at or code != -signal.SIGTERM:
            return False
        log = self._logged()
        return f"pid {self._pid} " not in log or re.search(rf"-{self._pid}-\w+ stopped ", log) is not None

    def _logged(self) -> str:
        """All logs, of other workers as well: what ends while its standard error is not read says why in its file."""
        paths = (self.log, *self._folder.glob("logs-*/*.log"))
        return "".join(path.read_text(encoding="utf-8") for path in paths)

    async def _run_once(self) -> int:
        popen = self._start()
        while (code := popen.poll()) is None:
            await asyncio.sleep(_POLL_S)
            if self._asked_at is not None and time.time() - self._asked_at > _STUCK_S:
                self.wrong.append(f"the worker {self.name} did not stop within {_STUCK_S:g} s; see {self.log}")
                self.kill()
        self._events.note("end", f"{self.name} pid {popen.pid} code {code}")
        return code

    def _start(self) -> subprocess.Popen[bytes]:
        died = self.process if self.deaths and self.deaths[-1][0] == self.process else ""
        self._starts += 1
        self._started_at = time.time()
        if died:
            self.restarts.append((died, self._started_at))
        with self.log.with_suffix(".out").open("ab") as sink:
            popen = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=self._pipe.write_end,
                cwd=self._folder,
                env={**self._env, "CHAOS_WORKER": self.process},
                start_new_session=True,
            )
        self._popen, self._killed, self._asked_at = popen, False, None
        self._events.note("start", f"{self.name} pid {popen.pid}")
        return popen

    def kill(self) -> None:
        """SIGKILL."""
        if self._popen is not None and self.alive:
            self._killed = True
            self._note_death()
            self._events.note("kill", f"{self.name} pid {self._popen.pid}")
            self._popen.kill()

    def ask(self, why: str = "term") -> None:
        """SIGTERM."""
        if self._popen is not None and self.alive:
            self._asked_at = self._asked_at or time.time()
            self._events.troubles.at("term", self.process)
            self._events.note(why, f"{self.name} pid {self._popen.pid}")
            self._popen.terminate()

    async def pause(self, length_s: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        popen = self._popen
        if popen is None or not self.alive:
            return
        self._events.note("stop", f"{self.name} pid {popen.pid} for {length_s:.1f} s")
        with self._events.troubles.lasting("stop", self.process):
            popen.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(length_s)
            finally:
                popen.send_signal(signal.SIGCONT)
        self._events.note("continue", f"{self.name} pid {popen.pid}")

    async def leave_unread(self, length_s: float) -> None:
        """Read nothing of what it logs for a while."""
        self._events.note("unread", f"{self.name} for {length_s:.1f} s")
        with self._events.troubles.lasting("unread", self.name):
            await self._pipe.stand_still(length_s)
        self._events.note("read", self.name)

    def _note_death(self) -> None:
        self.deaths.append((self.process, time.time()))
        self._events.troubles.at("death", self.process)

    def end(self) -> None:
        """Ask it to stop for good."""
        self._ending = True
        self.ask("last")


class Fleet:
    """All workers of a storm; none may leave a process behind."""

    def __init__(self, replicas: list[Replica], state: Path, marker: str) -> None:
        self._replicas = replicas
        self._state = state
        self._marker = marker
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def deaths(self) -> list[tuple[str, float]]:
        """Which process was killed when."""
        return [death for replica in self._replicas for death in replica.deaths]

    @property
    def restarts(self) -> list[tuple[str, float]]:
        """Which process died, and when another one was started in its place."""
        return [restart for replica in self._replicas for restart in replica.restarts]

    def said(self, text: str) -> int:
        """How often the workers have logged something."""
        return sum(replica.log.read_text(encoding="utf-8").count(text) for replica in self._replicas)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(replica.supervise()) for replica in self._replicas]

    def pick(self, target: int) -> Replica:
        """A living worker, if there is one."""
        count = len(self._replicas)
        order = [self._replicas[(target + step) % count] for step in range(count)]
        return next((replica for replica in order if replica.alive), order[0])

    async def end(self) -> list[str]:
        """Stop all workers with SIGTERM, once all of them are up; returns what was wrong with them, then and before."""
        late = [replica.name for replica in self._replicas if not await _comes_true(lambda one=replica: one.ready)]
        wrong = [f"the worker {name} did not come up again" for name in late]
        for replica in self._replicas:
            replica.end()
        await asyncio.gather(*self._tasks)
        wrong += [fault for replica in self._replicas for fault in replica.wrong]
        await _comes_true(lambda: not processes_with(self._marker), timeout_s=3)
        wrong += [f"a process was left behind: {_describe(pid)}" for pid in processes_with(self._marker)]
        return wrong + [f"left in the state folder: {path}" for path in self._left_on_disk()]

    def kill_all(self) -> None:
        """Kill every process that carries the marker of this storm."""
        for task in self._tasks:
            task.cancel()
        for pid in processes_with(self._marker):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _left_on_disk(self) -> list[Path]:
        names = ("outbox", "children", "claims", "tmp", "parcels")
        left = [path for name in names for path in self._state.glob(f"*/*/*/{name}/*")]
        clones = [path for path in self._state.glob("*/*/clones/*/") if not self._is_kept(path)]
        return sorted([*(path for path in left if not holds_unanswered_claims(path, self.said)), *clones])

    def _is_kept(self, clone: Path) -> bool:
        """Whether a clone holds what a killed worker was at work on, and a worker on another link has settled it.

        To each link belongs a state folder, as to a machine. There, `agentbus work rescue` lists the clone.
        """
        record = read_record(clone)
        return (
            record is not None
            and not record.home
            and not self.said(f"task {clone.name}: settled status=completed attempt=1 ")
        )


def holds_unanswered_claims(path: Path, said: Callable[[str], int]) -> bool:
    """Whether a file holds claims of tasks of which the answer of the bus was lost, and nothing else.

    The worker that made them has ended in order and does not know whether it held them, so the next one looks.

    Args:
        said: tells how often the workers have logged something.
    """
    if path.parent.name != "claims" or path.suffix != SUFFIX:
        return False
    claims = LeftClaims(path).claims
    return bool(claims) and all(not one.released and said(f"task {one.task_id}: {UNANSWERED}") for one in claims)


async def _comes_true(condition: Callable[[], bool], *, timeout_s: float = _STUCK_S) -> bool:
    for _ in range(int(timeout_s / _POLL_S)):
        if condition():
            return True
        await asyncio.sleep(_POLL_S)
    return condition()


def _describe(pid: int) -> str:
    with suppress(OSError):
        return f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode(errors='replace')}"
    return str(pid)

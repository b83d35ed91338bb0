"""What the tests share: real servers, real workers, and waiting for events with a bound."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentbus.config.toml_text import toml_text

SUPPORT = Path(__file__).parent
FAKE_AGENT = SUPPORT / "fake_agent.py"
ROOT = SUPPORT.parent.parent
BOUND_S = 60.0
"""How long any wait in a test may take before the test fails: only a failing test waits so long, on a busy machine."""


async def eventually(condition: Callable[[], Any | Awaitable[Any]], what: str, *, timeout_s: float = BOUND_S) -> Any:
    """Poll until `condition` gives something true, and return that; fail by name after the bound."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found  # pyright: ignore[reportUnknownVariableType]
        if found:
            return found  # pyright: ignore[reportUnknownVariableType]
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(0.02)


def worker_toml(
    folder: Path,
    url: str,
    *,
    agent: str = "code",
    chat_cmd: Any = None,
    extra_instruction: str | None = None,
    **sections: dict[str, Any],
) -> Path:
    """Write a worker's configuration with the fake agent; `worker={...}` and the like add keys to the sections."""
    values: dict[str, dict[str, Any]] = {
        "agent": {
            "id": agent,
            "chat_cmd": chat_cmd or [sys.executable, str(FAKE_AGENT), "{input}"],
            "extra_instruction": extra_instruction,
        },
        "worker": {
            "task_timeout_seconds": 600,  # longer than any test waits for what a task does
            "kill_grace_seconds": 1,
            "drain_timeout_seconds": 10,
            "reconnect_time_wait_seconds": 0.2,
            "state_dir": folder / "state",
        },
        "nats": {"url": url},
        "log": {"dir": folder / f"logs-{agent}"},
    }
    for section, extra in sections.items():
        values[section] = {**values.get(section, {}), **extra}
    path = folder / f"{agent}.toml"
    path.write_text(toml_text(values), encoding="utf-8")
    path.chmod(0o600)
    return path


@dataclass
class Process:
    """A child of a test, with what it wrote to stderr in a file."""

    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def said(self, text: str) -> bool:
        return text in self.log.read_text(encoding="utf-8", errors="replace")

    async def until_said(self, text: str, *, timeout_s: float = BOUND_S) -> None:
        def look() -> bool:
            if not self.said(text) and self.popen.poll() is not None:
                raise AssertionError(
                    f"ended with {self.popen.returncode} before saying {text!r}: {self.log.read_text(encoding='utf-8')}"
                )
            return self.said(text)

        await eventually(look, f"process {self.pid} says {text!r}", timeout_s=timeout_s)

    async def exit_code(self, *, timeout_s: float = BOUND_S) -> int:
        await eventually(lambda: self.popen.poll() is not None, f"process {self.pid} ends", timeout_s=timeout_s)
        return int(self.popen.returncode)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def terminate(self) -> None:
        self.popen.terminate()


@contextlib.contextmanager
def process(
    argv: list[str],
    log: Path,
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> Generator[Process]:
    """Start a child for the length of the block; whatever happens, it is gone afterwards."""
    with log.open("ab") as sink:
        popen = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd=cwd,
            env=env,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    try:
        yield Process(popen, log)
    finally:
        if popen.poll() is None:
            popen.terminate()
            try:
                popen.wait(10)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()


@contextlib.asynccontextmanager
async def worker(
    config: Path,
    *,
    ready: bool = True,
    pass_fds: tuple[int, ...] = (),
    env: dict[str, str] | None = None,
    prefix: tuple[str, ...] = (),
) -> AsyncGenerator[Process]:
    """A real `agentbus worker run`, ready for tasks; `env` adds to the environment of the tests.

    `prefix` are words before the command: of a program that becomes it.
    """
    log = config.with_suffix(f".{os.urandom(3).hex()}.log")
    argv = [*prefix, sys.executable, "-m", "agentbus", "worker", "run", "--config", str(config)]
    with process(argv, log, env={**os.environ, **(env or {})}, pass_fds=pass_fds) as child:
        if ready:
            await child.until_said("ready for tasks")
        yield child


@dataclass(frozen=True)
class Ran:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


async def run_cli(
    *args: str, env: dict[str, str] | None = None, timeout_s: float = 60.0, module: str = "agentbus"
) -> Ran:
    """Run `agentbus ARGS` as a process of its own."""
    return await run_python("-m", module, *args, env=env, timeout_s=timeout_s)


async def run_python(
    *args: str, env: dict[str, str] | None = None, timeout_s: float = 60.0, cwd: Path | None = None
) -> Ran:
    """Run `python ARGS` as a process of its own."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *args,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
        cwd=cwd,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        raise AssertionError(f"python {' '.join(args)} did not end within {timeout_s:g} s") from None
    return Ran(child.returncode or 0, out.decode(), err.decode())


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # no /proc, or gone in between
        return not Path("/proc/self").exists()
    return stat.rpartition(")")[2].split()[0] != "Z"


def processes_with(marker: str) -> list[int]:
    """Living processes (Linux) whose environment holds `marker`."""
    found: list[int] = []
    with os.scandir("/proc") as folders:
        pids = [entry.name for entry in folders if entry.name.isdecimal()]
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as environ:  # noqa: PTH123  # three times as fast
            if marker.encode() in environ.read() and alive(int(pid)):
                found.append(int(pid))
    return found


def is_killed(pid: int) -> bool:
    """Whether a process (Linux) has got SIGKILL, and only has to get a processor to end, or has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return True
    pending = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending)


def interrupt(pid: int) -> None:
    os.kill(pid, signal.SIGINT)

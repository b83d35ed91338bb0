"""The real Claude Code, in a pseudo-terminal, as a person has it who types lines and then leaves it alone."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

KEY: Final = "sk-ant-api03-of-the-test-" + "x" * 40
BOUND_S: Final = 90.0
PROMPT: Final = "\u276f"
_CONTROLS: Final = re.compile(rb"\x1b(\[[0-9;?<>=]*[a-zA-Z]|\][^\x07\x1b]*(\x07|\x1b\\))")


def prepare(home: Path, work: Path) -> None:
    """Write what a first start of Claude Code would ask."""
    answers: dict[str, Any] = {
        "hasCompletedOnboarding": True,
        "autoUpdates": False,
        "theme": "dark",
        "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
        "projects": {str(work): {"hasTrustDialogAccepted": True, "allowedTools": []}},
    }
    home.mkdir(parents=True, exist_ok=True)
    (home / ".claude.json").write_text(json.dumps(answers), encoding="utf-8")


def environment(home: Path, model: str, path: str, **more: str) -> dict[str, str]:
    """Return all that Claude Code gets: nothing of the machine that runs the test."""
    return {
        "PATH": path,
        "HOME": str(home),
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
        "ANTHROPIC_BASE_URL": model,
        "ANTHROPIC_API_KEY": KEY,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "MCP_TIMEOUT": "60000",
        **more,
    }


@dataclass
class Session:
    """One session."""

    pid: int
    terminal: int
    got: bytearray = field(default_factory=bytearray)

    @property
    def shown(self) -> str:
        return _CONTROLS.sub(b" ", bytes(self.got)).decode(errors="replace")

    def type(self, line: str) -> None:
        """Type a line, and then Enter: together they would be a paste."""
        os.write(self.terminal, line.encode())
        time.sleep(0.5)
        os.write(self.terminal, b"\r")

    def children(self, name: str) -> list[int]:
        """Return the processes below this session with a word in their command lines."""
        found: list[int] = []
        rows = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, encoding="utf-8", check=True)
        parents: dict[int, tuple[int, str]] = {}
        for row in rows.stdout.splitlines():
            pid, parent, *args = row.split(None, 2)
            parents[int(pid)] = int(parent), args[0] if args else ""
        for pid, (above, args) in parents.items():
            while above not in (0, 1, self.pid) and above in parents:
                above = parents[above][0]  # noqa: PLW2901  # up to the session
            if above == self.pid and name in args:
                found.append(pid)
        return found


@contextlib.contextmanager
def session(env: Mapping[str, str], work: Path, *args: str) -> Generator[Session]:
    """Run `claude ARGS` for the length of the block, with all that it has started."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.chdir(work)
            os.execvpe("claude", ["claude", *args], dict(env))
        finally:
            os._exit(127)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 140, 0, 0))
    running = Session(pid, terminal)
    ended = threading.Event()

    def read() -> None:
        while not ended.is_set():
            ready, _, _ = select.select([terminal], [], [], 0.2)
            if ready:
                try:
                    running.got += os.read(terminal, 65_536)
                except OSError:
                    return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        eventually(lambda: PROMPT in running.shown, "Claude Code shows its prompt", running)
        yield running
    finally:
        left = running.children("")
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if _ended(pid):
                break
        ended.set()
        reader.join()
        os.close(terminal)
        for child in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def connections(home: Path) -> int:
    """Return how often Claude Code has connected to an MCP server so far, as its log says."""
    logs = home.glob(".cache/**/mcp-logs-plugin-agentbus-agentbus/*.jsonl")
    return sum(log.read_text(encoding="utf-8").count("Successfully connected") for log in logs)


def _ended(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if os.waitpid(pid, os.WNOHANG) != (0, 0):
                return True
        except ChildProcessError:
            return True
        time.sleep(0.05)
    return False


def eventually(condition: Callable[[], object], what: str, seen: Session | None = None) -> None:
    """Wait until a condition holds; fail with what the terminal shows."""
    deadline = time.monotonic() + BOUND_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {BOUND_S:g} s: {what}\n{seen.shown[-3000:] if seen else ''}")
        time.sleep(0.1)

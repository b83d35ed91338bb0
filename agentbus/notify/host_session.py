"""Names the session of a host, such as one Claude Code, that a process belongs to: an MCP server, or its monitor.

Both are children of the host, often through a shell or `uvx`. So the session is the nearest ancestor that is none of
those, beside the id that a host gives to its children. Two processes belong together where either is the same.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

ENVIRONMENT: Final = "AGENTBUS_SESSION"
"""Names the session by hand; then nothing else counts."""
_IDS_OF_HOSTS: Final = ("CLAUDE_CODE_SESSION_ID",)
_LAUNCHERS: Final = frozenset({
    "sh", "bash", "dash", "ash", "zsh", "fish", "ksh", "busybox", "env", "timeout", "nice", "setsid", "xargs",
    "uv", "uvx", "pipx", "pyenv", "npx", "cmd", "cmd.exe", "powershell", "pwsh", "agentbus", "agentbus-mcp",
})  # fmt: skip
_PYTHON: Final = ("python", "pypy")
_MOST_ID_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class HostSession:
    """One session.

    Attributes:
        id: as a person or the host names it; empty where neither does.
        process: the process of the host, with the time when it was started: a pid is used again. Empty where it is not
            known, as on Windows.
        pid: that of `process`; 0 where it is not known.
    """

    id: str = ""
    process: str = ""
    pid: int = 0

    def is_that_of(self, other: "HostSession") -> bool:
        """Whether both belong to one session."""
        return bool(self.id and self.id == other.id) or bool(self.process and self.process == other.process)

    @property
    def lives(self) -> bool:
        """Whether the process of the host is there, as far as that is known."""
        return not self.pid or _started(self.pid) == self.process


def host_session(environ: Mapping[str, str] = os.environ) -> HostSession:
    """Return the session that this process belongs to."""
    if named := _id_in(environ.get(ENVIRONMENT, "")):
        return HostSession(f"named:{named}")
    found = (f"{name}:{value}" for name in _IDS_OF_HOSTS if (value := _id_in(environ.get(name, ""))))
    pid = _host_pid()
    return HostSession(next(found, ""), _started(pid) if pid else "", pid)


def _id_in(text: str) -> str:
    return text if text.isprintable() and len(text) <= _MOST_ID_CHARS else ""


def _host_pid() -> int:
    """Return the nearest ancestor that is no launcher; 0 where that cannot be told."""
    if sys.platform == "win32":
        return 0
    import psutil  # noqa: PLC0415  # not on Windows, and not before it is needed

    with suppress(psutil.Error):
        for process in psutil.Process().parents():
            name = process.name().lower()
            if process.pid > 1 and name not in _LAUNCHERS and not name.startswith(_PYTHON):
                return process.pid
    return 0


def _started(pid: int) -> str:
    """Return a process with the time of its start; empty if it is gone, or not known."""
    if sys.platform == "win32":
        return ""
    import psutil  # noqa: PLC0415

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return f"{pid}@{process.create_time():.2f}"
    return ""

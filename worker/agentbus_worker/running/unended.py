"""Tells of processes that SIGKILL does not end: which they are, and why."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from agentbus_worker.running.supervising.supervisor import read

_UNINTERRUPTIBLE: Final = b"D"
_ZOMBIE: Final = b"Z"


class Unended(NamedTuple):
    """Processes that are there after SIGKILL, and why, as the rest of a sentence that begins with `it`."""

    pids: tuple[int, ...]
    why: str


def unended_of(pids: Iterable[int]) -> Unended | None:
    """Return those of `pids` that no signal of this process ends; None if there are none.

    A process that is only slow to end, because the machine is busy or its memory large, is none of them. Whether one
    hangs in the system is known on Linux alone.
    """
    reasons = {pid: why for pid in pids if (why := _why(pid))}
    return Unended(tuple(reasons), " and ".join(dict.fromkeys(reasons.values()))) if reasons else None


def have_ended(pids: Iterable[int]) -> bool:
    """Return whether none of `pids` is there, other than as a zombie (Linux). A pid that is used again is there."""
    return all(_states_of_threads(pid) <= {_ZOMBIE} for pid in pids)


def _why(pid: int) -> str:
    """Return why a process does not end; empty if it has ended, or is about to."""
    states = _states_of_threads(pid) if sys.platform == "linux" else {b"?"}
    if states <= {_ZOMBIE}:
        return ""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return f"runs as another user{_name_of_user(pid)}"
    except ProcessLookupError:
        return ""
    if _UNINTERRUPTIBLE in states:
        return "hangs in the system, on a disk or a network file system that does not answer, or is frozen"
    return ""


def _states_of_threads(pid: int) -> set[bytes]:
    """The states of all threads of a process: the first one may have ended before the others."""
    found: set[bytes] = set()
    try:
        threads = [*Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return found
    for thread in threads:
        try:
            found.add(read(f"{thread}/stat").rpartition(b")")[2].split()[0])
        except (OSError, IndexError):  # it has ended
            continue
    return found


def _name_of_user(pid: int) -> str:
    """The user of a process, for the end of a sentence; nothing where that is not known."""
    import pwd  # noqa: PLC0415  # only for a process that does not end

    try:
        user = Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return ""
    try:
        return f" ({pwd.getpwuid(user).pw_name})"
    except KeyError:
        return f" ({user})"

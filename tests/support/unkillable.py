"""Commands that a worker cannot end: it has no right to signal other users, and they run as one; or they are frozen.

Needs root, because only root may be another user. Root without the capability to kill is like any user in that.
"""

import contextlib
import os
import shutil
import signal
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Final

import pytest

from support.harness import alive

UID: Final = 61_236
WITHOUT_KILL: Final = ("setpriv", "--bounding-set=-kill", "--inh-caps=-kill", "--")
"""What stands before a command to run it without the right to signal processes of other users."""
AS_ANOTHER: Final = f"setpriv --reuid={UID} --regid={UID} --clear-groups --"
"""What stands before a command, in a shell, to run it as another user."""
_FREEZER: Final = Path("/sys/fs/cgroup/freezer")

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root and setpriv: another user's process is what a worker cannot end",
)


@contextlib.contextmanager
def freezer(name: str) -> Generator[Path]:
    """A cgroup whose processes can be frozen: not even SIGKILL ends them then. What is left in it is killed."""
    group = _FREEZER / f"agentbus-test-{name}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no cgroup of the first version can be made here")
    try:
        yield group
    finally:
        (group / "freezer.state").write_text("THAWED", encoding="utf-8")
        end(map(int, (group / "cgroup.procs").read_text(encoding="utf-8").split()))
        with contextlib.suppress(OSError):
            group.rmdir()


def end(pids: Iterable[int]) -> None:
    """Kill processes, and wait until they are gone: a test leaves none."""
    left = [*pids]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while any(alive(pid) for pid in left):
        pass

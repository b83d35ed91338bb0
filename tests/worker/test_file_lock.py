"""The locks of workers: one at a time, those of other releases included, and none that outlives its holder."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentbus_worker.disk.file_lock import locked, locked_within, try_lock
from support.harness import BOUND_S

# How every release has locked: flock on the file, and nothing written into it.
HOLDS = """
import fcntl, sys
lock = open(sys.argv[1], "wb")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another(path: Path) -> Generator[subprocess.Popen[bytes]]:
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        yield holder
    finally:
        holder.kill()
        holder.communicate(timeout=BOUND_S)


def is_free(path: Path) -> bool:
    with path.open("wb") as other:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_a_lock_is_held_until_it_is_closed_and_its_file_stays(tmp_path: Path):
    path = tmp_path / "lock"
    lock = try_lock(path)
    assert lock is not None
    assert try_lock(path) is None
    assert not is_free(path)
    lock.close()
    assert is_free(path)
    assert path.exists(), "one that waits for it has opened this file"


def test_a_lock_of_a_worker_of_another_release_is_not_taken_until_that_is_killed(tmp_path: Path):
    path = tmp_path / "lock"
    with held_by_another(path) as holder:
        assert try_lock(path) is None
        with (
            pytest.raises(TimeoutError, match=r"another worker has held .*lock for 0\.05 s"),
            locked_within(path, 0.05),
        ):
            pytest.fail("the lock was taken")
        os.kill(holder.pid, signal.SIGKILL)
        with locked_within(path, BOUND_S):
            assert not is_free(path)
    assert is_free(path)


def test_a_lock_is_released_when_the_block_ends_in_an_error(tmp_path: Path):
    path = tmp_path / "lock"
    for lock in (locked(path), locked_within(path, BOUND_S)):
        with pytest.raises(RuntimeError, match="held"), lock:
            raise RuntimeError("free" if is_free(path) else "held")
        assert is_free(path)


def test_a_lock_is_for_its_user_alone(tmp_path: Path):
    before = os.umask(0)
    try:
        with locked_within(tmp_path / "state", 1), locked(tmp_path / "log"):
            pass
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"state": 0o600, "log": 0o600}


def test_a_lock_file_that_cannot_be_made_is_an_error_of_the_file_system(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        try_lock(tmp_path / "file" / "lock")

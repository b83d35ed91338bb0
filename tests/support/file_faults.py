"""Faults of files: a process that dies before it replaces one, a folder that may not be written to, a full disk."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_DIES = """
import os
from pathlib import Path
replace, left = Path.replace, [{nth}]
def dies(*paths):
    left[0] -= 1
    return replace(*paths) if left[0] else os._exit(9)
Path.replace = dies
"""
_NOBODY = 65534


def dies_before_replacing(script: str, *args: str | Path, nth: int = 1) -> None:
    """Run a script that writes files, in a process that ends when the nth one is to take the place of an old one."""
    argv = [sys.executable, "-c", _DIES.format(nth=nth) + script, *map(str, args)]
    ran = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    assert ran.returncode == 9, ran.stderr


@contextmanager
def _acting_as_no_root() -> Generator[None]:
    """Have the modes of files bind this process for the length of the block, which they do not if it is root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(_NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextmanager
def as_no_root() -> Generator[Path]:
    """A folder of a user whom the modes of files bind, as whom this process acts for the length of the block.

    It is beside the folders of pytest: these let only their owner in.
    """
    folder = Path(tempfile.mkdtemp(prefix="no-root-", dir="/tmp"))  # its name cannot be guessed
    try:
        if os.geteuid() == 0:
            os.chown(folder, _NOBODY, -1)
        with _acting_as_no_root():
            yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def read_only(*names: str) -> Generator[Path]:
    """A folder with files of these names that may not be written to, not by root either for the length of the block.

    It is beside the folders of pytest: these let only their owner in.
    """
    folder = Path(tempfile.mkdtemp(prefix="read-only-", dir="/tmp"))  # its name cannot be guessed
    try:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("old", encoding="utf-8")
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        with _acting_as_no_root():
            yield folder
    finally:
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(folder)


@contextmanager
def full_disk(folder: Path, *, kib: int = 256) -> Generator[Callable[[], None]]:
    """A file system of so many KiB at `folder`, and what fills it, with the file `filler`."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.decode().strip()}")

    def fill() -> None:
        with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(b"x" * 1024):
                pass

    try:
        yield fill
    finally:
        subprocess.run(["umount", folder], check=True)

"""The clone of one task or conversation: its folders, its record on disk, and git for it that the agent has no say in.

`tree` is what the agent works in, with a repository of its own in `tree/.git`. `own.git` belongs to the worker: it has
settings and an index of its own and borrows the objects of the other two. So nothing that the agent writes into its own
repository is ever read as a setting.
"""

import contextlib
import functools
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from pydantic import TypeAdapter, ValidationError

from agentbus.git.running import Git
from agentbus_worker.state_folder import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

TREE: Final = "tree"
OWN: Final = "own.git"
RECORD: Final = "record.json"
_MAX_RECORD_BYTES: Final = 65_536
_CONFIG: Final = "[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tlogAllRefUpdates = false\n"
_VARIABLES: Final = {
    "GIT_ALLOC_LIMIT": "1g",  # an object of the agent may claim any size
    "GIT_AUTHOR_NAME": "agentbus",
    "GIT_AUTHOR_EMAIL": "agentbus@localhost",
    "GIT_COMMITTER_NAME": "agentbus",
    "GIT_COMMITTER_EMAIL": "agentbus@localhost",
}


@dataclass(frozen=True, slots=True)
class CloneRecord:
    """What is known of a clone.

    Attributes:
        task: the task that it was made for, with its owner.
        base: the commit from which it starts.
        base_ref: the name by which that was asked for.
        branch: the one that it is on.
        used_at: when a run in it began or ended last.
        home: whether all that is in it was brought home, or no run has begun in it, so that it may be removed.
        bytes: what it takes on the disk, as measured when a run in it ended.
        kept: whether it stays once all is home: until it is old, or there are too many.
    """

    task: str
    owner: str
    source: str
    base: str
    base_ref: str | None
    branch: str
    used_at: float
    home: bool = False
    bytes: int = 0
    kept: bool = True


class Clone:
    """A clone that this process has the lock of, until `close`.

    Attributes:
        keep: whether it stays once all that is in it is home; asked when a run in it has ended.
    """

    def __init__(self, folder: Path, record: CloneRecord, lock: BinaryIO) -> None:
        self.folder = folder
        self.record = record
        self.keep: Callable[[], bool] = lambda: True
        self._lock = lock

    @property
    def tree(self) -> Path:
        """Where the agent works."""
        return self.folder / TREE

    @property
    def own(self) -> Path:
        """The repository of the worker."""
        return self.folder / OWN

    @property
    def git(self) -> Git:
        """Git for the files of the agent, with the settings of the worker."""
        return Git(git_dir=self.own, work_tree=self.tree, variables=_VARIABLES)

    def note(self, *, home: bool, size: int | None = None, kept: bool = True) -> None:
        """Write the record: the clone was used just now.

        Raises:
            OSError: the disk refuses it.
        """
        size = self.record.bytes if size is None else size
        self.record = replace(self.record, home=home, used_at=time.time(), bytes=size, kept=kept)
        write_record(self.folder, self.record)

    def close(self) -> None:
        """Let others have it."""
        self._lock.close()


def prepare_own(folder: Path, objects: Path) -> None:
    """Make the repository of the worker in a clone whose files were just checked out.

    Args:
        objects: those of the mirror.
    """
    own, repository = folder / OWN, folder / TREE / ".git"
    info = own / "objects" / "info"
    for path in (info, own / "refs" / "heads", own / "info"):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    (own / "config").write_text(_CONFIG, encoding="ascii")
    (own / "HEAD").write_text("ref: refs/heads/agentbus/none\n", encoding="ascii")
    # Those of the mirror first: what both have is taken from there.
    (info / "alternates").write_text(f"{objects}\n{repository / 'objects'}\n", encoding="utf-8")
    if (repository / "index").exists():  # not in a repository whose commit has no files
        shutil.copyfile(repository / "index", own / "index")


def write_record(folder: Path, record: CloneRecord) -> None:
    """Write the record of a clone."""
    write_atomically(folder / RECORD, json.dumps(asdict(record)).encode())


def read_record(folder: Path) -> CloneRecord | None:
    """Read the record of a clone; None if it has none: it was never complete."""
    try:
        with (folder / RECORD).open("rb") as file:
            return _adapter().validate_json(file.read(_MAX_RECORD_BYTES))
    except (OSError, ValidationError):
        return None


def size_on_disk(folder: Path) -> int:
    """Return what a folder takes, with all that is in it; links are not followed."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118  # for 100,000 of them
    return total


@functools.cache
def _adapter() -> TypeAdapter[CloneRecord]:
    return TypeAdapter(CloneRecord)

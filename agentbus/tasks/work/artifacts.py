"""Reads the files that a run has left, and saves them: below one folder, under names that were checked, and whole.

Names and content are those of an agent. What is written to a disk is written with this module only.
"""

import hashlib
import os
import stat
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from agentbus.bus.jetstream import Bus
from agentbus.config.atomic_files import open_to_write, why_not_written
from agentbus.errors import CorruptFileError, NotSettledError, WorkError
from agentbus.protocol.json_codec import Json
from agentbus.protocol.work.file_names import check_together, name_fault
from agentbus.protocol.work.results import Artifact, Changes, artifacts_in, changes_in
from agentbus.tasks.output_store import read_file
from agentbus.tasks.status import TaskStatus

_NEW_FILE: Final = 0o666
"""Less the umask, and never executable."""
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file that was saved; `new` is False where it lay there already, with the same content."""

    artifact: Artifact
    path: Path
    new: bool


def artifacts_of(status: TaskStatus) -> tuple[Artifact, ...]:
    """Return the files that the run of a settled task has left; none of one that left none.

    Raises:
        NotSettledError: the task has no result yet.
    """
    return artifacts_in(_result_of(status))


def changes_of(status: TaskStatus) -> Changes | None:
    """Return what changed in the repository of the run of a settled task; None of a run without a repository.

    Raises:
        NotSettledError: the task has no result yet.
    """
    return changes_in(_result_of(status))


def _result_of(status: TaskStatus) -> Mapping[str, Json]:
    if not status.settled:
        raise NotSettledError(f"the task {status.task_id} is {status.state}; its work comes home with its result")
    return status.record.entry.result or {}


def artifact_named(status: TaskStatus, name: str) -> Artifact:
    """Return the file of a name that the run of a settled task has left.

    Raises:
        NotSettledError: the task has no result yet.
        WorkError: there is none of this name.
    """
    found = artifacts_of(status)
    for one in found:
        if one.name == name:
            return one
    names = ", ".join(one.name for one in found[:10]) or "none"
    raise WorkError(f"the task {status.task_id} has left no file {name[:200]!r}; it has left: {names}")


async def read_artifact(bus: Bus, status: TaskStatus, artifact: Artifact) -> AsyncGenerator[bytes]:
    """Yield the content of a file that a run has left, piece by piece, in constant memory.

    An error after the last piece means that the pieces are not what the result says.

    Raises:
        FileMissingError: it is not, or no longer, there.
        CorruptFileError: it is not what the result says.
    """
    digest, size = hashlib.sha256(), 0
    async with aclosing(read_file(bus, status.agent, artifact.object, owner=status.owner)) as pieces:
        async for piece in pieces:
            size += len(piece)
            digest.update(piece)
            if size > artifact.bytes:
                break
            yield piece
    if size != artifact.bytes or digest.hexdigest() != artifact.sha256:
        raise CorruptFileError(
            f"the file {artifact.name} of the task {status.task_id} is not what its result says: its size or digest is "
            "different"
        )


async def save_artifacts(
    bus: Bus, status: TaskStatus, artifacts: Iterable[Artifact], folder: Path
) -> AsyncGenerator[SavedFile]:
    """Save files below `folder`, which is made if it is missing, and yield each when it is there whole.

    Nothing is replaced, and no link is followed: a file that exists must have the same content.

    Raises:
        WorkError: a name is taken, a folder of it is a link, or the disk refuses it; says what to do.
        FileMissingError, CorruptFileError: see `read_artifact`; nothing is left of that file.
    """
    wanted = list(artifacts)
    check_together(one.name for one in wanted)
    for one in wanted:
        path = target(folder, one.name)
        try:
            if _is_there(path, one):
                yield SavedFile(one, path, new=False)
                continue
            await save_artifact(bus, status, one, path)
        except OSError as error:
            raise WorkError(f"cannot write {path}: {why_not_written(error)}") from None
        yield SavedFile(one, path, new=True)


def target(folder: Path, name: str) -> Path:
    """Return where the file of a name lies below a folder, and make the folders on the way to it.

    Raises:
        WorkError: the name is none, a folder on the way is a link or no folder, or it cannot be made.
    """
    if (fault := name_fault(name)) is not None:
        raise WorkError(f"no name for a file: {name[:200]!r}: {fault}")
    *parents, last = name.split("/")
    there = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in parents:
            there /= part
            with suppress(FileExistsError):
                there.mkdir()
            if not stat.S_ISDIR(there.lstat().st_mode):
                raise WorkError(f"{there} is a link, or no folder; move it away, or save into another folder")
    except OSError as error:
        raise WorkError(f"cannot make the folder {there}: {why_not_written(error)}") from None
    return there / last


def _is_there(path: Path, artifact: Artifact) -> bool:
    """Return whether a file lies there that is this one already.

    Raises:
        WorkError: something else lies there.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if stat.S_ISREG(found.st_mode) and found.st_size == artifact.bytes and _digest(path) == artifact.sha256:
        return True
    raise WorkError(f"{path} exists, and is another file; move it away, or save into another folder")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


async def save_artifact(bus: Bus, status: TaskStatus, artifact: Artifact, path: Path) -> None:
    """Write a file whole under a path at which nothing is; what is cut in between leaves nothing.

    Raises:
        FileMissingError, CorruptFileError: see `read_artifact`.
        OSError: the disk refuses it.
    """
    part = path.with_name(f".agentbus-{os.getpid()}-{artifact.sha256[:16]}.part")
    part.unlink(missing_ok=True)  # of a process that had this id and was killed
    try:
        with open_to_write(part, _NEW_FILE) as file:
            await _fill(file, bus, status, artifact)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


async def _fill(file: BinaryIO, bus: Bus, status: TaskStatus, artifact: Artifact) -> None:
    async with aclosing(read_artifact(bus, status, artifact)) as pieces:
        async for piece in pieces:
            file.write(piece)

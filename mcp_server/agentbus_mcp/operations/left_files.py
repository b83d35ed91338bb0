"""Reads the files that runs have left: parts of a text for tools, whole ones for resources, and saves them."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agentbus.coordinator import Coordinator, TaskStatus
from agentbus.errors import ArgumentError, WorkError
from agentbus.protocol.work.results import Artifact
from agentbus.tasks.work.artifacts import artifact_named, artifacts_of, read_artifact, save_artifacts
from agentbus_mcp.operations.output import OutputPart, read_pieces

MAX_RESOURCE_BYTES: Final = 1 << 20
"""Of a file as a resource: hosts put a resource into the context of a model as a whole, and an image has this size."""
_TEXTS: Final = frozenset(("application/json", "application/xml", "application/toml", "application/yaml"))


@dataclass(frozen=True, slots=True)
class Saved:
    """What was saved, and where."""

    folder: Path
    files: int
    bytes: int


def is_text(media_type: str) -> bool:
    """Whether files of a type are read as text."""
    kind = media_type.partition(";")[0]
    return kind.startswith("text/") or kind in _TEXTS or kind.endswith(("+json", "+xml"))


async def read_left_part(
    coordinator: Coordinator, status: TaskStatus, name: str, offset: int, max_bytes: int
) -> OutputPart:
    """Read a part of a text that the run of a settled task has left, in bounded memory; see `read_part`.

    A part is not held against the digest in the result, as only the whole file can be.

    Raises:
        NotSettledError, WorkError: the task has no result yet, or has left no such file.
        ArgumentError: it is no text, or ends before `offset`.
        FileMissingError, CorruptFileError, BusError: it cannot be read.
    """
    artifact = artifact_named(status, name)
    if not is_text(artifact.media_type):
        raise ArgumentError(
            f"artifact: {name} is no text ({artifact.media_type}); save it with save_to, or have the user run "
            f"agentbus work fetch {status.name}"
        )
    if offset > artifact.bytes:
        raise ArgumentError(f"offset: {offset} is beyond the end; {name} has {artifact.bytes} bytes")
    part = await read_pieces(read_artifact(coordinator.bus, status, artifact), offset, max_bytes, artifact.bytes)
    return replace(part, artifact=name)


async def read_left_file(coordinator: Coordinator, status: TaskStatus, name: str) -> tuple[Artifact, bytes]:
    """Read a whole file that the run of a settled task has left.

    Raises:
        NotSettledError, WorkError: the task has no result yet, or has left no such file, or it is too large.
        FileMissingError, CorruptFileError, BusError: it cannot be read.
    """
    artifact = artifact_named(status, name)
    if artifact.bytes > MAX_RESOURCE_BYTES:
        raise WorkError(
            f"{name} has {artifact.bytes} bytes, and a resource at most {MAX_RESOURCE_BYTES}; get_results reads any "
            "part of a text, and saves any file with save_to"
        )
    async with aclosing(read_artifact(coordinator.bus, status, artifact)) as pieces:
        return artifact, b"".join([piece async for piece in pieces])


async def save_left_files(coordinator: Coordinator, status: TaskStatus, names: Sequence[str], folder: Path) -> Saved:
    """Save files that the run of a settled task has left below a folder; all of them if none is named.

    Raises:
        NotSettledError, WorkError: the task has no result yet, or has left no such file or none at all, or another one
            lies there.
        FileMissingError, CorruptFileError, BusError: it cannot be read.
    """
    wanted = [artifact_named(status, name) for name in names] or artifacts_of(status)
    if not wanted:
        raise WorkError(f"the task {status.task_id} has left no files")
    async with aclosing(save_artifacts(coordinator.bus, status, wanted, folder)) as saving:
        saved = [one.artifact async for one in saving]
    return Saved(folder, len(saved), sum(one.bytes for one in saved))

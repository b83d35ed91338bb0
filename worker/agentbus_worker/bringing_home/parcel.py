"""Keeps on disk what a run has left, until it is at home: the files, and the outcome whose result will name them.

A parcel is a folder in the state folder of the worker. Its record is written and synced before the first file is
uploaded, so that the next worker on this machine can do what is left, whenever this one dies.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from agentbus.config.atomic_files import replace_file
from agentbus.errors import MessageError
from agentbus.protocol.json_codec import decode, encode
from agentbus.protocol.work.results import Artifact
from agentbus_worker.running.folders.working_folder import remove_tree
from agentbus_worker.settling.outbox import OutboxEntry

log = logging.getLogger("agentbus.worker")

RESCUE: Final = "rescue"
"""Beside the state folders: what no result names any more, or could not be brought home."""
_RECORD: Final = "parcel.json"
_MAX_RECORD_BYTES: Final = 64 << 20
"""A result has at most the size of a message of the server."""


@dataclass(frozen=True, slots=True)
class ParcelFile:
    """A file of a parcel: the artifact that it becomes, and its name in the folder."""

    artifact: Artifact
    file: str


class _Listed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    bytes: int
    sha256: str
    media_type: str
    object: str
    file: str


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    outcome: OutboxEntry
    files: tuple[_Listed, ...]
    clone: str | None = None


class Parcel:
    """A parcel in its folder.

    Attributes:
        outcome: what is committed once all files are uploaded.
        clone: the folder of the clone that it comes from.
    """

    def __init__(self, folder: Path, outcome: OutboxEntry, files: list[ParcelFile], clone: Path | None) -> None:
        self.folder = folder
        self.outcome = outcome
        self.files = files
        self.clone = clone

    def path(self, file: ParcelFile) -> Path:
        """Where a file of it lies."""
        return self.folder / file.file

    def write(self) -> None:
        """Write the record; with it, the whole parcel survives a crash of the machine.

        Raises:
            OSError: the disk refuses it.
        """
        listed: list[dict[str, Any]] = [{**one.artifact.to_json(), "file": one.file} for one in self.files]
        record = {
            "outcome": self.outcome.to_json(),
            "files": listed,
            "clone": str(self.clone) if self.clone is not None else None,
        }
        replace_file(self.folder / _RECORD, encode(record), durable=True)

    def remove(self) -> None:
        """Remove it: all is at home."""
        if why := remove_tree(self.folder):
            log.warning("what is at home already cannot be removed from %s: %s", self.folder, why)

    def rescue(self, base: Path) -> Path:
        """Keep it for `agentbus work rescue`, in the folder of the agent; returns where that is.

        Raises:
            OSError: the disk refuses it.
        """
        folder = base / RESCUE / self.folder.name
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.rename(folder)
        self.folder = folder
        return folder


def read_parcel(folder: Path) -> Parcel | None:
    """Read a parcel; None if its record was never written, or cannot be read."""
    try:
        with (folder / _RECORD).open("rb") as file:
            record = _Record.model_validate(decode(file.read(_MAX_RECORD_BYTES)))
    except (OSError, MessageError, ValidationError):
        return None
    files = [
        ParcelFile(Artifact(one.name, one.bytes, one.sha256, one.media_type, one.object), one.file)
        for one in record.files
        if Path(one.file).name == one.file
    ]
    return Parcel(folder, record.outcome, files, Path(record.clone) if record.clone else None)


def left_parcels(folder: Path) -> Iterator[tuple[Path, Parcel | None]]:
    """Yield what lies in the folder of the parcels of a worker."""
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                yield path, read_parcel(path)

"""Finds on this machine what runs have left and no result names, and copies it, for `agentbus work rescue`."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agentbus.config.atomic_files import why_not_written
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import WorkError
from agentbus.protocol.json_codec import Json
from agentbus.protocol.work.file_names import name_fault
from agentbus_worker.bringing_home.parcel import RESCUE, Parcel, read_parcel
from agentbus_worker.repositories.clone import CloneRecord, read_record
from agentbus_worker.repositories.clones import FOLDER as CLONES
from agentbus_worker.repositories.clones import is_in_use
from agentbus_worker.running.folders.working_folder import remove_tree


@dataclass(frozen=True, slots=True)
class KeptWork:
    """What one run has left and no result names.

    Attributes:
        folder: where it is.
        parcel: its files, if they were collected; else it is a clone that a run was at work in.
    """

    task: str
    owner: str
    at: str
    folder: Path
    parcel: Parcel | None = None

    def to_json(self) -> dict[str, Json]:
        """Return it as a line of JSON."""
        files: list[Json] = [one.artifact.name for one in self.parcel.files] if self.parcel else []
        kind = "files" if self.parcel is not None else "clone"
        return {
            "task_id": self.task, "owner": self.owner, "kind": kind, "at": self.at, "folder": str(self.folder),
            "files": files,
        }  # fmt: skip


def kept_work(config: WorkerConfig) -> Iterator[KeptWork]:
    """Yield what the workers of an agent have kept on this machine: collected files first, then clones."""
    places = sorted(config.worker.state_dir.glob(f"*/{config.agent.id}"))
    for base in places:
        for folder in sorted((base / RESCUE).glob("*")):
            if (parcel := read_parcel(folder)) is not None:
                outcome = parcel.outcome
                yield KeptWork(outcome.task_id, outcome.owner, _time(outcome.written_at), folder, parcel)
    for base in places:
        for folder in sorted((base / CLONES).glob("*")):
            record = read_record(folder) if folder.is_dir() else None
            if record is not None and not record.home and not is_in_use(folder):
                yield _of_clone(record, folder)


def take(kept: KeptWork, to: Path) -> list[Path]:
    """Copy the collected files of a run below a folder, under their names; returns where they are.

    Raises:
        WorkError: one of them is there already, is not what was collected, or cannot be written.
    """
    if kept.parcel is None:
        raise WorkError(f"the work of {kept.task} was not collected; it is the clone {kept.folder / 'tree'}")
    written: list[Path] = []
    for file in kept.parcel.files:
        name, path = file.artifact.name, to / file.artifact.name
        if (fault := name_fault(name)) is not None:
            raise WorkError(f"{name!r} is no name for a file: {fault}")
        try:
            content = kept.parcel.path(file).read_bytes()
            if hashlib.sha256(content).hexdigest() != file.artifact.sha256:
                raise WorkError(f"{kept.parcel.path(file)} is not what was collected")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out:
                out.write(content)
        except FileExistsError:
            raise WorkError(f"{path} is there already; name another folder with --to") from None
        except OSError as error:
            raise WorkError(f"{path} cannot be written: {why_not_written(error)}") from None
        written.append(path)
    return written


def forget(kept: KeptWork) -> None:
    """Remove it from where it was kept.

    Raises:
        WorkError: something is left.
    """
    if why := remove_tree(kept.folder):
        raise WorkError(f"{kept.folder} cannot be removed: {why}")


def _of_clone(record: CloneRecord, folder: Path) -> KeptWork:
    return KeptWork(record.task, record.owner, _time(record.used_at), folder)


def _time(since_epoch: float) -> str:
    return datetime.fromtimestamp(since_epoch, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

"""Brings home what one run has left, however it ended: its changes, its artifacts, and what could not be taken.

The order: the outcome with the list of what is to be uploaded is on disk, then that is uploaded while the lease is
renewed, then the result is committed, which so never points to nothing. A run that has left nothing costs one look.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentbus.errors import GitError, MachineFaultError
from agentbus.protocol.work.results import (
    ARTIFACTS,
    BUNDLE,
    CHANGES,
    MAX_LEFT_OUT,
    MAX_MEDIA_TYPE_CHARS,
    Artifact,
    Changes,
    within,
)
from agentbus_worker.bringing_home.collected import REFUSED, Collected, Collection, collect, described, has_entries
from agentbus_worker.bringing_home.parcel import Parcel, ParcelFile
from agentbus_worker.bringing_home.upload import Upload
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.repositories.changes import changes_of
from agentbus_worker.repositories.clone import Clone, size_on_disk
from agentbus_worker.running.spawn import Command
from agentbus_worker.settling.context import Context
from agentbus_worker.settling.lease import Lease
from agentbus_worker.settling.outbox import OutboxEntry
from agentbus_worker.settling.outcome import Outcome

if TYPE_CHECKING:
    from agentbus.protocol.json_codec import Json

log = logging.getLogger("agentbus.worker")

_STOPPING_S: Final = 1.0
"""How long it goes on when the worker must end at once."""
_CANCELLED_S: Final = 60.0
"""How long it goes on when the task was cancelled: what is there is worth a minute."""
_COLLECTING_S: Final = 600.0
"""How long the copies of the artifacts may take to be made."""
OBJECT_OF_STOPPED: Final = "the worker was stopped, or the task cancelled, before it was stored"


@dataclass(slots=True)
class _Found:
    """What a run has left."""

    collection: Collection
    changes: Changes | None = None
    complete: bool = True


class Homecoming:
    """What one job brings home.

    Args:
        stopping: is set when the worker must end at once.
    """

    def __init__(self, context: Context, lease: Lease, stopping: asyncio.Event, log: TaskLog) -> None:
        self._context = context
        self._lease = lease
        self._stopping = stopping
        self._log = log
        self._parcel: Parcel | None = None
        self._clone: Clone | None = None
        self._complete = False

    async def begin(self, command: Command) -> None:
        """Note that a run begins in a clone: from now on it holds what is not at home.

        Raises:
            MachineFaultError: the disk refuses it, or does not answer.
        """
        if (clone := command.clone) is not None:
            try:
                await self._context.disk.folders.run(lambda: clone.note(home=False))
            except OSError as error:
                raise MachineFaultError(
                    f"the clone {clone.folder} cannot be written to: {error.strerror or error}"
                ) from None

    @asynccontextmanager
    async def brought(
        self, outcome: Outcome, command: Command, kept: Callable[[Outcome], OutboxEntry]
    ) -> AsyncGenerator[Outcome]:
        """Bring home what the run of a command has left; gives the outcome that names it, which the block settles.

        Args:
            kept: makes the outcome as it is kept on disk.

        Raises:
            BusError: the connection has ended for good.
        """
        if command.clone is None and (command.artifacts is None or not has_entries(command.artifacts)):
            yield outcome
            return
        try:
            yield await self._brought(outcome, command, kept)
        finally:
            await self._clear_up()

    async def _brought(self, outcome: Outcome, command: Command, kept: Callable[[Outcome], OutboxEntry]) -> Outcome:
        self._clone, found = command.clone, _Found(Collection())
        unnamed = kept(outcome)
        folder = self._context.state_folder.parcels / unnamed.nonce
        upload: Upload | None = None
        try:
            async with self._bounded():
                await self._collect(command, folder, found)
                listed, unlisted = within(_artifacts(found.collection.files, unnamed.result_id))
                for one in unlisted:
                    found.collection.leave(one.name, "the result has no room to list it")
                files = _files(found.collection.files, listed)
                if files:
                    if self._clone is not None and not self._clone.keep():
                        await self._context.disk.folders.run(_noting_end(self._clone))
                    whole = _with(outcome, found, listed)
                    self._parcel = Parcel(folder, kept(whole), files, command.clone.folder if command.clone else None)
                    await self._write(self._parcel)
                    upload = Upload(
                        self._context.bus, self._parcel.outcome.key, self._parcel, self._context.disk.folders
                    )
                    await upload.run()
                else:
                    self._context.disk.folders.begin(lambda: _rmdir(folder))
        except TimeoutError:
            found.complete = False
            if upload is None:
                found.collection.leave(BUNDLE if command.clone else ARTIFACTS, OBJECT_OF_STOPPED)
        except OSError as error:
            found.complete = False
            found.collection.leave(ARTIFACTS, f"{REFUSED}: {error.strerror or error}")
        return self._told(outcome, found, upload)

    async def _write(self, parcel: Parcel) -> None:
        """Write the record of a parcel. Without it the upload is the only chance, should this worker die meanwhile."""
        try:
            await self._context.disk.syncs.run(parcel.write, timeout_s=_COLLECTING_S)
        except OSError as error:
            self._log.warning("what is brought home has no copy that outlives this worker: %s", error.strerror or error)

    def _told(self, outcome: Outcome, found: _Found, upload: Upload | None) -> Outcome:
        stored: list[Artifact] = []
        if upload is not None:
            stored = upload.stored
            for one in upload.refused:
                found.collection.leave(one.name, one.why)
            for missing in upload.missing:
                found.collection.leave(missing.name, OBJECT_OF_STOPPED)
            found.complete = found.complete and not upload.refused and not upload.missing
        self._complete = found.complete
        if found.collection.left_out:
            names = ", ".join(f"{one.name} ({one.why})" for one in found.collection.left_out)
            self._log.warning("not all of its work is brought home: %s", names)
        return _with(outcome, found, stored)

    async def _collect(self, command: Command, folder: Path, found: _Found) -> None:
        threads, section = self._context.disk.folders, self._context.config.repository
        await threads.run(lambda: _empty(folder))
        if (clone := command.clone) is not None:
            try:
                brought = await changes_of(
                    clone,
                    folder,
                    max_bytes=section.max_changes_bytes,
                    timeout_s=section.timeout_seconds,
                    threads=threads,
                )
            except GitError as error:
                found.complete = False
                found.collection.leave(BUNDLE, str(error))
            except OSError as error:
                found.complete = False
                found.collection.leave(BUNDLE, f"{REFUSED}: {error.strerror or error}")
            else:
                found.changes = brought.changes
                for name, path in brought.files.items():
                    found.collection.files.append(await threads.run(_describing(name, path), timeout_s=_COLLECTING_S))
                for one in brought.left_out:
                    found.complete = found.complete and one.name != BUNDLE
                    found.collection.leave(one.name, one.why)
        if (artifacts := command.artifacts) is not None:
            room = self._context.config.worker.max_artifacts_bytes + found.collection.bytes
            await threads.run(
                lambda: collect(artifacts, folder, found.collection, max_bytes=room), timeout_s=_COLLECTING_S
            )

    @asynccontextmanager
    async def _bounded(self) -> AsyncGenerator[None]:
        """Bound the time of the block once the worker must end, the task is cancelled, or another worker has it.

        Raises:
            TimeoutError: the time is over.
        """
        async with asyncio.timeout(None) as limit:
            watching = asyncio.create_task(self._watch(limit))
            try:
                yield
            finally:
                watching.cancel()

    async def _watch(self, limit: asyncio.Timeout) -> None:
        clock, interrupted = asyncio.get_running_loop().time, self._lease.interrupted
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({stopping, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                limit.reschedule(clock() + (0 if self._lease.lost else _CANCELLED_S))
                await stopping
            limit.reschedule(clock() + _STOPPING_S)
        finally:
            stopping.cancel()

    async def _clear_up(self) -> None:
        """Remove what is at home; what is not, and will not get there by itself, is kept for a rescue."""
        settled, parcel, clone = self._lease.entry.terminal and not self._lease.lost, self._parcel, self._clone
        threads = self._context.disk.folders
        if clone is not None and settled and self._complete:
            with suppress(TimeoutError):
                await threads.run(lambda: _note_home(clone), timeout_s=_COLLECTING_S)
            if (clones := self._context.clones) is not None:
                clones.begin_to_remove_old()
        if parcel is not None:  # after the clone: a worker that dies in between is followed by one that finds it
            if settled and self._complete:
                threads.begin(parcel.remove)
            elif settled or self._lease.lost:
                base = self._context.state_folder.path.parent
                threads.begin(lambda: _rescue(parcel, base, self._log))


def _with(outcome: Outcome, found: _Found, artifacts: list[Artifact]) -> Outcome:
    """Return an outcome with the fields that tell what was brought home."""
    extra: dict[str, Json] = dict(outcome.extra)
    if artifacts:
        extra[ARTIFACTS] = [one.to_json() for one in artifacts]
    if found.changes is not None:
        extra[CHANGES] = found.changes.to_json()
    if found.collection.left_out:
        extra["left_out"] = [one.to_json() for one in found.collection.left_out[:MAX_LEFT_OUT]]
        extra["left_out_count"] = found.collection.left_out_count
    return replace(outcome, extra=extra)


def _artifacts(files: list[Collected], object_prefix: str) -> list[Artifact]:
    return [
        Artifact(
            file.name, file.bytes, file.sha256, file.media_type[:MAX_MEDIA_TYPE_CHARS], f"{object_prefix}.{number}"
        )
        for number, file in enumerate(files)
    ]


def _files(collected: list[Collected], listed: list[Artifact]) -> list[ParcelFile]:
    paths = {file.name: file.path.name for file in collected}
    return [ParcelFile(artifact, paths[artifact.name]) for artifact in listed]


def _noting_end(clone: Clone) -> Callable[[], None]:
    """Return what notes that a clone goes once its work is home, for the worker that takes over from a killed one."""
    return lambda: clone.note(home=False, kept=False)


def _describing(name: str, path: Path) -> Callable[[], Collected]:
    return lambda: described(name, path)


def _empty(folder: Path) -> None:
    """Make the folder of a parcel, without what an attempt to make it has left."""
    if folder.exists():
        for path in folder.iterdir():
            path.unlink()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _rmdir(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _rescue(parcel: Parcel, base: Path, log: TaskLog) -> None:
    try:
        folder = parcel.rescue(base)
    except OSError as error:
        log.warning("its work stays in %s: %s", parcel.folder, error.strerror or error)
    else:
        log.warning("its work is kept in %s; agentbus work rescue lists it", folder)


def _note_home(clone: Clone) -> None:
    try:
        kept = clone.keep()
        clone.note(home=True, size=size_on_disk(clone.folder) if kept else 0, kept=kept)
    except OSError as error:
        log.warning("the clone %s stays: %s", clone.folder, error.strerror or error)

"""Brings home what dead workers of this machine have left: uploads it, and commits the results that name it.

That is done where the ledger still names the very claim of the dead worker. Where another worker has the task, or it
has another result, the work is kept for the one who looks for it: `agentbus work rescue`.
"""

import functools
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import BusError, BusUnavailableError, StreamFullError
from agentbus.protocol.ledger_entry import renewed
from agentbus.protocol.messages import Result
from agentbus.protocol.work.results import ARTIFACTS, MAX_LEFT_OUT, left_out_in
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.settle import compare_and_set, publish_committed
from agentbus_worker.bringing_home.parcel import Parcel, left_parcels
from agentbus_worker.bringing_home.upload import Upload
from agentbus_worker.disk.threads import DiskThreads
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.repositories.clones import note_home
from agentbus_worker.running.folders.working_folder import remove_tree
from agentbus_worker.settling.decisions import CommitOutbox, DropOutbox, RepublishOutbox, on_outbox
from agentbus_worker.settling.outbox import OutboxEntry
from agentbus_worker.settling.unsettled import DUPLICATE_WINDOW_S, commit_outcome

if TYPE_CHECKING:
    from agentbus.protocol.json_codec import Json

log = logging.getLogger("agentbus.worker")

_DISK_S: Final = 60.0


class LeftParcels:
    """The parcels in the state folder of a worker that has not begun to take tasks.

    Args:
        folder: where they lie.
        base: the folder of the agent, in which those are kept that do not get home.
    """

    def __init__(self, bus: Bus, folder: Path, base: Path, threads: DiskThreads) -> None:
        self._bus = bus
        self._folder = folder
        self._base = base
        self._threads = threads

    async def settle(self) -> None:
        """Bring home each of them, or keep it.

        Raises:
            BusUnavailableError, StreamFullError: the bus does not take it now; calling again is safe.
        """
        for path, parcel in await self._threads.run(lambda: list(left_parcels(self._folder)), timeout_s=None):
            if parcel is None:  # its worker died before all was in it: the task is run again
                await self._threads.run(functools.partial(remove_tree, path), timeout_s=_DISK_S)
                continue
            task_log = TaskLog(parcel.outcome.task_id)
            try:
                await self._settle(parcel, task_log)
            except (BusUnavailableError, StreamFullError):
                raise
            except BusError as error:
                task_log.error("its result is refused: %s", error)
                await self._keep(parcel, task_log)

    async def _settle(self, parcel: Parcel, task_log: TaskLog) -> None:
        entry, ledger, upload = parcel.outcome, Ledger(self._bus), None
        expired = time.time() - entry.written_at > DUPLICATE_WINDOW_S
        while True:
            found = await ledger.read_newer(entry.key, entry.revision - 1)
            match on_outbox(found, nonce=entry.nonce, result_id=entry.result_id, expired=expired):
                case DropOutbox(reason):
                    task_log.warning("its work from before the restart is not brought home: %s", reason)
                    await self._keep(parcel, task_log)
                    return
                case CommitOutbox(base, revision):
                    if upload is None:
                        upload = Upload(self._bus, entry.key, parcel, self._threads, lambda: self._renew(entry))
                        await upload.run()
                        continue  # with the ledger entry as it is by now
                    if not await commit_outcome(self._bus, base, revision, _without_refused(entry, upload)):
                        continue
                case RepublishOutbox(record):
                    await publish_committed(self._bus, record.entry)
            break
        task_log.info("its work from before the restart is at home", status=entry.status)
        if upload is not None and upload.refused:
            await self._keep(parcel, task_log)
            return
        await self._threads.run(parcel.remove, timeout_s=_DISK_S)
        if (clone := parcel.clone) is not None:
            await self._threads.run(lambda: note_home(clone), timeout_s=_DISK_S)

    async def _renew(self, entry: OutboxEntry) -> None:
        """Renew the lease of the dead worker for the length of an upload; the decision after it counts."""
        ledger = Ledger(self._bus)
        found = await ledger.read_newer(entry.key, entry.revision - 1)
        decision = on_outbox(found, nonce=entry.nonce, result_id=entry.result_id, expired=False)
        if isinstance(decision, CommitOutbox):
            await compare_and_set(ledger, entry.key, renewed(decision.base), revision=decision.revision)

    async def _keep(self, parcel: Parcel, task_log: TaskLog) -> None:
        try:
            folder = await self._threads.run(lambda: parcel.rescue(self._base), timeout_s=_DISK_S)
        except OSError as error:
            task_log.warning("its work stays in %s: %s", parcel.folder, error.strerror or error)
        else:
            task_log.warning("its work is kept in %s; agentbus work rescue lists it", folder)


def _without_refused(entry: OutboxEntry, upload: Upload) -> OutboxEntry:
    """Return an outcome whose result names what could be uploaded, and what could not."""
    if not upload.refused:
        return entry
    fields: dict[str, Json] = dict(entry.result.to_json())
    fields[ARTIFACTS] = [one.to_json() for one in upload.stored]
    left = [*left_out_in(fields), *upload.refused]
    fields["left_out"] = [one.to_json() for one in left[:MAX_LEFT_OUT]]
    return entry.model_copy(update={"result": Result.model_validate(fields)})

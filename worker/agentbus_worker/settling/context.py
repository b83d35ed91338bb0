"""The objects that all jobs of one worker share."""

from collections.abc import Container
from dataclasses import dataclass, field

from agentbus.bus.jetstream import Bus
from agentbus.config.worker_schema import WorkerConfig
from agentbus.protocol.ledger_entry import Setbacks
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.ledger import Ledger
from agentbus_worker.asking.waiting_runs import WaitingRuns
from agentbus_worker.claim_records import ClaimRecords
from agentbus_worker.conversations.own_place import OwnPlace
from agentbus_worker.disk.threads import Disk
from agentbus_worker.metrics import Metrics
from agentbus_worker.pausing.pause import Cause, Pause
from agentbus_worker.progress.run_progress import Progress
from agentbus_worker.repositories.clones import Clones
from agentbus_worker.running.command import Limits
from agentbus_worker.running.folders.inputs import Inputs
from agentbus_worker.running.folders.place_of_run import Places
from agentbus_worker.running.folders.temporary_folders import TemporaryFolders
from agentbus_worker.running.process_tree import Children
from agentbus_worker.settling.decisions import Policy, on_setback
from agentbus_worker.settling.lease_monitor import LeaseMonitor
from agentbus_worker.settling.outbox import Outbox
from agentbus_worker.settling.unsettled import Unsettled
from agentbus_worker.state_folder import StateFolder
from agentbus_worker.timers import Timers


@dataclass(frozen=True, slots=True)
class Context:
    """The bus, the configuration, and the worker's own state on disk and in the process table.

    `held` has the keys of the tasks that this worker has claimed and not settled yet. `dead_letters` has, by the place
    of the message, how each was kept whose sender could not be notified yet.
    `place` is that of the sessions of the agent. `clones` are those of its repository, if it has one.
    """

    bus: Bus
    ledger: Ledger
    lease_monitor: LeaseMonitor
    config: WorkerConfig
    instance: str
    lease_s: float
    state_folder: StateFolder
    outbox: Outbox
    claims: ClaimRecords
    unsettled: Unsettled
    pause: Pause
    children: Children
    held: Container[TaskKey]
    metrics: Metrics
    temporary: TemporaryFolders
    limits: Limits
    place: OwnPlace
    progress: Progress
    clones: Clones | None = None
    disk: Disk = field(default_factory=lambda: Disk(threads=False))
    lease_timers: Timers = field(default_factory=Timers)
    waiting: WaitingRuns = field(default_factory=WaitingRuns)
    dead_letters: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def places(self) -> Places:
        """Where the folders of runs lie."""
        inputs = Inputs(self.bus, self.config.agent.id, self.disk.folders)
        return Places(self.state_folder.tmp, self.temporary, self.clones, inputs)

    @property
    def agent(self) -> str:
        """The agent that this worker belongs to."""
        return self.config.agent.id

    @property
    def policy(self) -> Policy:
        """The limits of attempts."""
        worker = self.config.worker
        return Policy(max_attempts=worker.max_attempts, retry_lost="lost" in worker.retry_on)

    async def setbacks_after(self, key: TaskKey, earlier: Setbacks | None, code: str, cause: Cause) -> Setbacks | None:
        """Note that a task could not be done here, for no fault of its own, and decide about it: see `on_setback`."""
        return on_setback(
            earlier,
            place=self.state_folder.place,
            code=code,
            now=await self.lease_monitor.now(),
            limit_s=self.config.agent.setback_limit_seconds,
            others_succeed=self.pause.others_succeeded_since(key, cause),
        )

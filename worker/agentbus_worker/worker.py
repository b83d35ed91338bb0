"""The worker: takes a task when a slot is free, runs it, settles it, and drains when it is asked to stop."""

import asyncio
import functools
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple, cast

from agentbus.admin.server_versions import version_warning
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.nats_client import Msg
from agentbus.bus.pull_consumer import Delivery
from agentbus.config.connection_settings import connection_settings
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import BusError, BusUnavailableError, MessageError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import decode, object_in
from agentbus.protocol.subjects import COORDINATOR, TaskKey
from agentbus.protocol.timestamps import now
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.presence import HEARTBEAT_S, MOST_RUNNING, Presence, announce, withdraw
from agentbus.version import __version__
from agentbus_worker.claim_records import ClaimRecords
from agentbus_worker.consumers import require_consumer
from agentbus_worker.conversations.own_place import OwnPlace
from agentbus_worker.conversations.waiting import FOLLOW_UP, FollowUps
from agentbus_worker.disk.threads import Disk
from agentbus_worker.identity import Place, host_name
from agentbus_worker.intake import Intake
from agentbus_worker.metrics import Metrics, metrics_of
from agentbus_worker.pausing.operator_control import OperatorControl
from agentbus_worker.pausing.pause import Pause
from agentbus_worker.predecessors import Predecessors
from agentbus_worker.progress.run_progress import Progress
from agentbus_worker.repositories.clones import clones_of
from agentbus_worker.running.folders.temporary_folders import TemporaryFolders
from agentbus_worker.running.orphans import end_orphans
from agentbus_worker.running.process_tree import HAS_SUPERVISORS, Children
from agentbus_worker.running.spawn import close_on_exec
from agentbus_worker.running.supervising.supervisor import become_subreaper
from agentbus_worker.running.task_command import command_limits, from_anywhere
from agentbus_worker.settling.claim import claim, kept_back_s
from agentbus_worker.settling.context import Context
from agentbus_worker.settling.job import Job
from agentbus_worker.settling.lease_monitor import LeaseMonitor
from agentbus_worker.settling.outbox import Outbox
from agentbus_worker.settling.outcome import NOT_STARTED, OUT_OF_MEMORY
from agentbus_worker.settling.server_clock import ServerClock
from agentbus_worker.settling.slots import Reservation, Slots
from agentbus_worker.settling.unsettled import Unsettled
from agentbus_worker.signals import Stop, unless_set
from agentbus_worker.state_folder import StateFolder, lock_state
from agentbus_worker.watchdog import Watchdog, watched

log = logging.getLogger("agentbus.worker")

_RETRY_S: Final = 2.0
_PATROL_S: Final = 2.0
_PRESENCE_PAUSE_S: Final = 2.0
"""How soon a change of the free slots is announced. People look at it, so more often would only load the bus."""


class _Local(NamedTuple):
    """What a worker has on its machine, and what earlier ones have left there."""

    folder: StateFolder
    disk: Disk
    outbox: Outbox
    claims: ClaimRecords
    left: Predecessors
    children: Children
    temporary: TemporaryFolders
    metrics: Metrics


class Worker:
    """One worker process of one agent."""

    def __init__(self, config: WorkerConfig, stop: Stop, instance: str) -> None:
        """`instance` names this process among all workers: see `identity.new_instance()`."""
        self._config = config
        self._stop = stop
        self._slots = Slots(config.worker.concurrency)
        self._jobs: dict[TaskKey, Job] = {}
        self._changed = asyncio.Event()
        self._pause = Pause(self._changed.set)
        self._control: OperatorControl | None = None
        self._place: OwnPlace | None = None
        self._follow_ups: FollowUps | None = None
        self._started_at = now()
        self._watchdog = Watchdog.from_environment()
        self.instance = instance

    async def run(self) -> None:
        """Run until a stop is requested.

        Raises:
            ConfigError: the agent command does not exist.
            AuthenticationError: the server refuses the credentials, at the start or at a reconnect.
            BusUnavailableError: the connection was given up after the configured number of attempts.
            SetupMissingError, ApiError: the consumer is missing and cannot be made by this worker.
        """
        config = self._config = from_anywhere(self._config)
        settings = connection_settings(
            config.nats,
            agent=config.agent.id,
            name=f"agentbus worker {config.agent.id}",
            reconnect_wait_s=config.worker.reconnect_time_wait_seconds,
            max_reconnect_attempts=config.worker.max_reconnect_attempts,
        )
        log.info("worker %s of the agent %s, pid %d", self.instance, config.agent.id, os.getpid())
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(watched(self._watchdog))
            metrics = stack.enter_context(metrics_of(config, self._watchdog.why_unhealthy))
            disk = Disk()
            stack.callback(disk.close)
            lock = functools.partial(lock_state, config.worker.state_dir, settings.urls, config.agent.id)
            if (folder := await unless_set(self._stop.drain, disk.state.run(lock, timeout_s=None))) is None:
                log.info("worker %s stopped before it had a state folder", self.instance)
                return
            stack.enter_context(folder)
            await stack.enter_async_context(disk)  # so that all is written before another worker may have the folder
            # Not later: a bus that is away is no failed start, nor is a command of an earlier worker that does not end.
            self._watchdog.ready("connecting to the bus")
            outbox = Outbox(folder.outbox, config.outcomes_on_disk, disk)
            metrics.show("outbox_entries", outbox.count)
            if HAS_SUPERVISORS:
                become_subreaper()
            close_on_exec()
            left = await disk.state.run(lambda: Predecessors(folder.claims, disk.state), timeout_s=None)
            orphans = await end_orphans(folder.children, config.worker.kill_grace_seconds, left.workers, disk.state)
            left.ended(orphans)
            temporary = stack.enter_context(TemporaryFolders(folder.temporary, disk.folders))
            children = Children(folder.children, slots=config.worker.concurrency, left=orphans.left, disk=disk.state)
            stack.enter_context(children)
            claims = ClaimRecords(folder.claims, children.worker, Place.here())
            await disk.state.run(claims.__enter__, timeout_s=None)
            stack.push(claims)
            stack.push_async_callback(children.close)
            dial = stack.enter_async_context(connect(settings, retry_on_failed_connect=True, on_state=self._on_state))
            bus = await unless_set(self._stop.drain, dial)
            if bus is not None:
                await self._serve(bus, _Local(folder, disk, outbox, claims, left, children, temporary, metrics))
        log.info("worker %s stopped", self.instance)

    async def _serve(self, bus: Bus, local: _Local) -> None:
        if warning := version_warning(bus.server_version):
            log.warning("%s", warning)
        config, outbox, left = self._config, local.outbox, local.left
        lease_s = await unless_set(self._stop.drain, require_consumer(bus, config))
        self._register_gauges(local.metrics, bus)
        if lease_s is None:
            return
        context = self._context(bus, local, lease_s)
        unsettled = context.unsettled
        if await unless_set(self._stop.drain, left.recover(bus, config, outbox, unsettled)) is None:
            return
        if await unless_set(self._stop.drain, self._look_at_place(context.place)) is None:
            return
        follow_ups = self._follow_ups = FollowUps(bus, config, context.place, self._jobs)
        remove_listener = bus.on_reconnect(self._renew_all)
        self._control = OperatorControl(bus, config.agent.id, self._pause)
        await bus.subscribe(subjects.control(config.agent.id), self._on_control)
        await unless_set(self._stop.drain, self._control.first_look())
        try:
            async with asyncio.TaskGroup() as group:
                side_tasks = [
                    group.create_task(_fail_when_ended(bus)),
                    group.create_task(self._stop_jobs_on_request()),
                    group.create_task(self._show_presence(bus, unsettled)),
                    group.create_task(unsettled.keep_on()),
                    group.create_task(self._control.follow()),
                    group.create_task(left.keep_on(bus, config, outbox)),
                    group.create_task(self._patrol(local.children)),
                ]
                running: set[asyncio.Task[None]] = set()
                local.metrics.show("questions_open", lambda: context.waiting.questions)
                handler = self._handler(context, group, running)
                taking = group.create_task(Intake(bus, config, self._slots, self._pause, handler, follow_ups).run())
                await self._stop.drain.wait()
                self._watchdog.stopping(f"stopping: {len(running)} tasks running")
                taking.cancel()
                self._slots.close()
                context.waiting.stop()
                await asyncio.wait({taking})
                await self._drain(running)
                for side_task in side_tasks:
                    side_task.cancel()
        except ExceptionGroup as failed:
            raise _root_cause(failed) from failed
        finally:
            remove_listener()

    def _context(self, bus: Bus, local: _Local, lease_s: float) -> Context:
        config, outbox, metrics, changed = self._config, local.outbox, local.metrics, self._changed.set
        clock = ServerClock(bus, config.nats.stream, config.durable)
        unsettled = Unsettled(bus, outbox, clock, metrics, lease_s=lease_s, held=self._jobs, on_change=changed)
        return Context(
            bus=bus,
            ledger=Ledger(bus),
            lease_monitor=LeaseMonitor(bus, clock),
            config=config,
            instance=self.instance,
            lease_s=lease_s,
            state_folder=local.folder,
            outbox=outbox,
            claims=local.claims,
            unsettled=unsettled,
            pause=self._pause,
            children=local.children,
            temporary=local.temporary,
            limits=command_limits(config),
            place=OwnPlace(bus, config, local.folder, clock, local.disk),
            held=self._jobs,
            metrics=metrics,
            progress=Progress(bus, config),
            clones=clones_of(config, local.folder.path.parent, local.disk.folders),
            disk=local.disk,
        )

    def _register_gauges(self, metrics: Metrics, bus: Bus) -> None:
        """Register the gauges, which another thread reads at each scrape."""
        slots = self._slots
        metrics.show("slots_taken", lambda: slots.running)
        metrics.show("slots_lost", lambda: slots.lost)
        metrics.show("tasks_held", lambda: len(self._jobs))
        metrics.show("backlog_tasks", lambda: slots.backlog if slots.running >= slots.count else 0)
        metrics.show("bus_connected", lambda: bus.connected)
        metrics.show("paused", lambda: self._pause.shown is not None)
        bus.on_reconnect(lambda: metrics.count("reconnect"))

    def _handler(
        self, context: Context, group: asyncio.TaskGroup, running: set[asyncio.Task[None]]
    ) -> Callable[[Delivery], asyncio.Task[None]]:
        """Return what starts the handling of a delivery, and keeps it in `running` until it is done."""

        def handle(delivery: Delivery) -> asyncio.Task[None]:
            task = group.create_task(self._handle(context, delivery, self._slots.reserve()))
            running.add(task)
            task.add_done_callback(running.discard)
            return task

        return handle

    async def _handle(self, context: Context, delivery: Delivery, reservation: Reservation) -> None:
        """Handle one delivery from the claim to the acknowledgement."""
        with reservation:
            job = await self._claim(context, delivery)
            if job is None:
                return
            self._jobs[job.key] = job
            self._changed.set()
            try:
                if self._stop.now.is_set():
                    job.stop_now()
                with job.traced():
                    await job.run(reservation)
            except MemoryError:  # once more, while the job was to go back: its lease expires instead
                self._pause.begin(NOT_STARTED, OUT_OF_MEMORY)
            finally:
                del self._jobs[job.key]
                self._changed.set()
                if self._follow_ups is not None:
                    self._follow_ups.task_ended()

    async def _claim(self, context: Context, delivery: Delivery) -> Job | None:
        try:
            return await claim(context, delivery)
        except (BusError, OSError, MemoryError) as error:
            log.warning("a task could not be claimed: %s; it will be delivered again", error)
            with suppress(BusUnavailableError):
                await delivery.nak(kept_back_s(context, delivery, error))
            return None

    async def _drain(self, running: set[asyncio.Task[None]]) -> None:
        """Wait up to `drain_timeout_seconds` for running tasks, then end them."""
        if running:
            timeout_s = self._config.worker.drain_timeout_seconds
            log.info("stopping: %d running; waiting for up to %g s (signal again to end now)", len(running), timeout_s)
            await unless_set(self._stop.now, asyncio.wait(set(running), timeout=timeout_s))
            if running:
                log.warning("stopping: %d tasks are still running and are ended now", len(running))
        self._stop.now.set()
        for job in self._jobs.values():
            job.stop_now()
        if running:
            await asyncio.wait(set(running))

    async def _look_at_place(self, place: OwnPlace) -> bool:
        """Find out which conversations this worker can go on with; a bus that is away is waited for."""
        while True:
            try:
                await place.look()
            except BusError as error:
                log.debug("whether follow-ups can be taken is not known yet: %s", error)
                await asyncio.sleep(_RETRY_S)
                continue
            self._place = place
            if self._config.agent.can_resume and not place.can_continue:
                log.warning(
                    "no follow-ups are taken: the bus has an older layout; run there: agentbus init --upgrade; restart"
                )
            return True

    def _renew_all(self) -> None:
        if self._follow_ups is not None:
            self._follow_ups.look_again()
        for job in self._jobs.values():
            job.renew_now()

    async def _stop_jobs_on_request(self) -> None:
        await self._stop.now.wait()
        for job in self._jobs.values():
            job.stop_now()

    def _on_control(self, message: Msg) -> None:
        """Read the entry of a task that a message cancels or answers, or what operators ask: only that decides."""
        try:
            asked = object_in(decode(message.data))
        except MessageError:
            return
        if asked.get("control") is True and self._control is not None:
            self._control.look()
        if self._follow_ups is not None and FOLLOW_UP in asked:
            self._follow_ups.told(asked)
        key = (self._config.agent.id, asked.get("cancel", asked.get("answer")), asked.get("owner", COORDINATOR))
        for held, job in self._jobs.items():
            if held == key:
                job.renew_now()

    def _on_state(self, text: str) -> None:
        log.info(text)
        self._watchdog.status(text)

    async def _show_presence(self, bus: Bus, unsettled: Unsettled) -> None:
        """Announce this worker at the start, with each heartbeat and after a change; withdraw it at the end."""
        trouble = ""
        try:
            while True:
                if bus.connected and not self._stop.drain.is_set():
                    self._watchdog.status(self._slots.in_words)
                try:
                    await announce(bus, self._presence(unsettled))
                    trouble = ""
                except BusError as error:
                    away = isinstance(error, BusUnavailableError) and not bus.connected
                    if type(error).__name__ != trouble and not away:
                        log.warning("this worker cannot be seen by others: %s", error)
                    trouble = type(error).__name__
                self._changed.clear()
                await asyncio.sleep(_PRESENCE_PAUSE_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S - _PRESENCE_PAUSE_S):
                        await self._changed.wait()
        finally:
            if bus.connected:
                await withdraw(bus, self._presence(unsettled))

    async def _patrol(self, children: Children) -> None:
        while True:
            await asyncio.sleep(_PATROL_S)
            if children.patrol():
                self._changed.set()  # a lost slot is free again

    def _presence(self, unsettled: Unsettled) -> Presence:
        config, paused = self._config, self._pause.shown
        return Presence(
            agent=config.agent.id,
            instance=self.instance,
            host=host_name(),
            pid=os.getpid(),
            version=__version__,
            description=config.agent.description,
            command=Path(config.agent.chat_cmd[0]).name,
            slots=config.worker.concurrency,
            free=0 if paused else config.worker.concurrency - self._slots.running,
            lost=self._slots.lost,
            running=tuple(key.id for key in self._jobs)[:MOST_RUNNING],
            started_at=self._started_at,
            paused=paused,
            refused=unsettled.overdue,
            place=self._place.id if self._place is not None and self._place.can_continue else None,
            needs=(self._place.needs or None) if self._place is not None else None,
        )


async def _fail_when_ended(bus: Bus) -> None:
    raise await bus.wait_closed() or BusUnavailableError("the connection to the bus is closed")


def _root_cause(group: ExceptionGroup[Exception]) -> Exception:
    """Return the error to report: a fault of the program rather than the bus errors that it caused."""
    flat = [
        _root_cause(cast("ExceptionGroup[Exception]", error)) if isinstance(error, ExceptionGroup) else error
        for error in group.exceptions
    ]
    return next((error for error in flat if not isinstance(error, BusError)), flat[0])

"""What a worker has when a task comes, in the process of the test."""

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from agentbus import Coordinator
from agentbus.bus.pull_consumer import Delivery, PullConsumer
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import load_worker
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus_worker.claim_records import ClaimRecord, ClaimRecords
from agentbus_worker.conversations.own_place import OwnPlace
from agentbus_worker.disk.threads import Disk
from agentbus_worker.identity import Place
from agentbus_worker.metrics import metrics_of
from agentbus_worker.pausing.pause import Pause
from agentbus_worker.progress.run_progress import Progress
from agentbus_worker.running.folders.temporary_folders import TemporaryFolders
from agentbus_worker.running.process_tree import Children
from agentbus_worker.running.task_command import command_limits
from agentbus_worker.settling.context import Context
from agentbus_worker.settling.lease_monitor import LeaseMonitor
from agentbus_worker.settling.outbox import Outbox
from agentbus_worker.settling.server_clock import ServerClock
from agentbus_worker.settling.unsettled import Unsettled
from agentbus_worker.state_folder import lock_state
from support.harness import worker_toml

UNUSABLE = "-job"
"""A task id for which the command is not started, because it would take it for an option: the task has failed."""


@contextlib.asynccontextmanager
async def delivered(
    coordinator: Coordinator, server: NatsServer, folder: Path, *, lease_s: float = 30, **worker: Any
) -> AsyncGenerator[tuple[Context, Delivery]]:
    """What a worker has when a task comes: its context, and the delivery.

    Run no command with it: this process has children that are not the command's, and they would be ended with it.
    """
    path = worker_toml(
        folder, server.url, chat_cmd=["/bin/sh", "-c", "exit 3", "sh", "{input}", "{task_id}"], worker=worker
    )
    config, bus = load_worker(path)[0], coordinator.bus
    urls = connection_settings(config.nats, agent="code", name="test").urls
    clock = ServerClock(bus, config.nats.stream, config.durable)
    with (
        metrics_of(config) as metrics,
        lock_state(folder / "state", urls, "code") as state_folder,
        Children(state_folder.children) as children,
        ClaimRecords(state_folder.claims, children.worker, Place.here()) as claims,
    ):
        async with PullConsumer(bus, config.nats.stream, config.durable) as consumer:
            outbox = Outbox(state_folder.outbox, config.outcomes_on_disk)
            context = Context(
                bus=bus, ledger=Ledger(bus), lease_monitor=LeaseMonitor(bus, clock), config=config, instance="me",
                lease_s=lease_s, state_folder=state_folder, outbox=outbox, children=children, held=(), metrics=metrics,
                claims=claims, pause=Pause(), progress=Progress(bus, config),
                temporary=TemporaryFolders(state_folder.temporary), limits=command_limits(config),
                place=OwnPlace(bus, config, state_folder, clock, Disk(threads=False)),
                unsettled=Unsettled(bus, outbox, clock, metrics, lease_s=lease_s),
            )  # fmt: skip
            yield context, await consumer.next()


def unrecorded(key: TaskKey) -> ClaimRecord:
    """A record that is on no disk."""
    return ClaimRecord(ClaimRecords(Path(), "token", Place()), key, "nonce", "")

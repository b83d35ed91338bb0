"""Finds the durable consumers of an agent, or makes them where its workers may: without accounts, all may."""

import asyncio
import logging
from contextlib import suppress
from typing import Final

from agentbus.bus.inputs.buckets import ensure_inputs_bucket
from agentbus.bus.jetstream import Bus
from agentbus.bus.progress.streams import ensure_progress_stream
from agentbus.bus.setup import ensure_consumer, ensure_files_bucket
from agentbus.bus.topology import ACK_WAIT_S
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import (
    ApiError,
    BusUnavailableError,
    ConfigError,
    PermissionDeniedError,
    SetupMissingError,
    StreamFullError,
)
from agentbus.protocol import subjects
from agentbus_worker.task_queues import TaskQueues

log = logging.getLogger("agentbus.worker")

_RETRY_S: Final = 2.0


async def require_consumer(bus: Bus, config: WorkerConfig) -> float:
    """Check that the durable consumer of `main`'s tasks exists, or make it; returns its ack_wait in seconds.

    That is the lease of a task.

    Raises:
        ConfigError: the consumer takes the tasks of another agent.
        SetupMissingError, ApiError: it is missing and cannot be made by this worker.
    """
    agent, stream, name = config.agent.id, config.nats.stream, config.durable
    while True:
        try:
            info = await bus.consumer_info(stream, name)
        except PermissionDeniedError:
            return ACK_WAIT_S  # this worker may not read it; the first pull fails if it does not exist
        except SetupMissingError:
            await make_consumers(bus, config)
        except BusUnavailableError:
            await asyncio.sleep(_RETRY_S)
        else:
            if info.filter_subject not in (None, subjects.tasks(agent)):
                raise ConfigError(
                    f"the consumer {name} takes {info.filter_subject}, not {subjects.tasks(agent)}; "
                    "set durable in [nats] to the consumer of this agent"
                )
            return info.ack_wait_s


async def make_consumers(bus: Bus, config: WorkerConfig) -> None:
    """Make the consumers of the agent that do not exist, its bucket for files, and the stream of what its runs tell.

    Raises:
        SetupMissingError: this worker may not make the consumer of `main`'s tasks; an administrator must.
        ApiError: another consumer has the tasks of the agent.
    """
    agent, stream, name = config.agent.id, config.nats.stream, config.durable
    try:
        await ensure_consumer(bus, agent, stream=stream, name=name)
    except PermissionDeniedError:
        raise SetupMissingError(
            f"the consumer {name} of the stream {stream} does not exist and this worker may not make it; "
            f"an administrator must run: agentbus setup --agent {agent}"
        ) from None
    log.info("made the consumer %s of the stream %s", name, stream)
    with suppress(PermissionDeniedError, ApiError):  # a bus of an earlier layout: no coordinator but `main` publishes
        await ensure_consumer(bus, agent, stream=stream, name=subjects.durable_of_parties(agent), of_parties=True)
    with suppress(PermissionDeniedError, ApiError):  # without the bucket, only the beginning of large output is kept
        await ensure_files_bucket(bus, agent)
    with suppress(PermissionDeniedError, ApiError, StreamFullError):  # without it, no run can be followed
        await ensure_progress_stream(bus, agent)
    with suppress(PermissionDeniedError, ApiError, StreamFullError):  # without it, no task can bring files
        await ensure_inputs_bucket(bus, agent)


async def add_durable_of_parties(bus: Bus, config: WorkerConfig, queues: TaskQueues) -> None:
    """Take the tasks of other coordinators than `main` too, as soon as the bus has a consumer for them.

    A bus of an earlier layout has none. It gets one while its server is stopped, so this looks again after reconnects.
    """
    reconnected = asyncio.Event()
    unregister = bus.on_reconnect(reconnected.set)
    try:
        while not await _has_durable_of_parties(bus, config):
            await reconnected.wait()
            reconnected.clear()
    finally:
        unregister()
    await queues.add(subjects.durable_of_parties(config.agent.id))


async def _has_durable_of_parties(bus: Bus, config: WorkerConfig) -> bool:
    agent, stream, name = config.agent.id, config.nats.stream, subjects.durable_of_parties(config.agent.id)
    while True:
        try:
            await bus.consumer_info(stream, name)
        except SetupMissingError:
            try:
                await ensure_consumer(bus, agent, stream=stream, name=name, of_parties=True)
            except (PermissionDeniedError, ApiError, SetupMissingError) as error:
                log.info("no tasks of other coordinators than main: %s", error)
                return False
        except (PermissionDeniedError, ApiError):
            return False
        except BusUnavailableError:
            await asyncio.sleep(_RETRY_S)
        else:
            return True

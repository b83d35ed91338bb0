"""Brings a bus that an earlier version made to the newest layout, for `agentbus init --upgrade`.

From the first layout, the command is run twice, and the operator restarts the server in between: a reload cannot divide
the storage of one account among two. From a later one, it is run once, before the restart, or before a reload where
only streams and rights are added. Each run can be repeated, also after it was interrupted: what it finds done, it
leaves. The folder says which of them is due.
"""

import asyncio
import shlex
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from agentbus.admin.consumers import consumers_of_bus, remove_consumers
from agentbus.admin.queue_move import check_room, move_queue
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.progress.streams import remove_progress
from agentbus.bus.setup import known_agents, set_up
from agentbus.cli import output
from agentbus.cli.operator.next_steps import apply_change, reload_command, restart_text
from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.errors import AuthenticationError, BusUnavailableError
from agentbus.protocol import subjects
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.manifest import FILE_OF_QUEUE

_CONNECT_S: Final = 5.0


async def upgrade(bus: BusFolder) -> None:
    """Do the part of the upgrade that is due, and print what comes next.

    Raises:
        BusError: the bus cannot be reached, has no room for the new layout, or failed; nothing is lost, and the
            command can be repeated.
        ConfigError: the folder cannot be read or written.
    """
    if not bus.queue_apart:
        await _prepare(bus)
    elif not bus.has_audit:
        await _add_audit(bus)
    elif not bus.has_newest_layout:
        await _add_streams_and_rights(bus)
    else:
        await _finish(bus)


async def _prepare(bus: BusFolder) -> None:
    """Make what the new layout needs on the bus as it is, and write the new accounts."""
    async with _in_account_of_streams(bus) as administrator:
        await remove_progress(administrator)  # until the queue has moved, it needs their room; then they are made again
        await check_room(administrator, FILE_OF_QUEUE)
        await set_up(administrator, await known_agents(administrator))
        await remove_progress(administrator)
    bus.set_newest_layout()
    output.line("the streams are ready, and the accounts of the new layout are written. Now " + restart_text(bus))
    output.line("From then on publishing is refused until the queue has moved, so move it at once:")
    output.line(f"  {shlex.join(['agentbus', 'init', '--upgrade', str(bus.path)])}")


async def _add_audit(bus: BusFolder) -> None:
    """Make the streams of the audit, and write accounts in which the queue reaches them."""
    async with _connected(_settings(bus)) as administrator:
        await set_up(administrator, await known_agents(administrator))
    bus.set_newest_layout()
    output.line(f"the accounts of the newest layout are written. Now {restart_text(bus)}")


async def _add_streams_and_rights(bus: BusFolder) -> None:
    """Make the bucket in which operators pause agents, and write accounts in which parties may do more.

    A reload lets them.
    """
    async with _connected(_settings(bus)) as administrator:
        await set_up(administrator, await known_agents(administrator))
    bus.set_newest_layout()
    output.line(f"the accounts of the newest layout are written. Now {apply_change(bus)}:\n  {reload_command(bus)}")


async def _finish(bus: BusFolder) -> None:
    """Move the queue into its account, unless that is done, and delete foreign consumers."""
    settings = _settings(bus)
    try:
        async with _connected(settings) as administrator, _in_account_of_streams(bus) as streams:
            if not await administrator.misplaced_streams():
                output.line(f"the bus in {bus.path} has the newest layout")
                return
            moved = await move_queue(streams, administrator.of_stream(subjects.TASKS_STREAM))
            await set_up(administrator, await known_agents(administrator))
            foreign = [one for one in await consumers_of_bus(administrator) if one.foreign]
            deleted = await remove_consumers(administrator, foreign)
    except AuthenticationError as error:
        raise AuthenticationError(
            f"the server does not know the accounts of the new layout yet: {restart_text(bus)}, and run this again "
            f"({error})"
        ) from error
    if moved is not None:
        output.line(f"moved {moved.stream} into an account of its own: {moved.messages} messages")
    for one in deleted:
        output.line(f"deleted the foreign consumer {one.path}: {one.foreign}")
    output.line(f"the bus in {bus.path} has the newest layout")


def _settings(bus: BusFolder) -> ConnectionSettings:
    config, _ = load_coordinator(path=bus.administrator)
    return connection_settings(config.nats, agent=ADMINISTRATOR, name="agentbus init --upgrade")


@asynccontextmanager
async def _connected(settings: ConnectionSettings) -> AsyncGenerator[Bus]:
    try:
        async with asyncio.timeout(_CONNECT_S) as within, connect(settings) as bus:
            within.reschedule(None)
            yield bus
    except TimeoutError:
        raise BusUnavailableError(f"no answer from {settings.servers} within {_CONNECT_S:g} s") from None


@asynccontextmanager
async def _in_account_of_streams(bus: BusFolder) -> AsyncGenerator[Bus]:
    """Connect with the first credential alone: until the move, its account has every stream."""
    async with _connected(replace(_settings(bus), tasks_credentials=None)) as administrator:
        yield administrator

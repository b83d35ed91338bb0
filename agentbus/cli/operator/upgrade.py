"""Brings a bus that an earlier version made to the newest layout, for `agentbus init --upgrade`.

Where the ledger is to be divided, the command is run twice, and the operator restarts the server in between: a reload
cannot divide the storage of one account among two, and clients learn by their reconnect that the ledger is another one.
Where it is divided already, only rights are added: the command is run once, before a reload. Each run can be repeated,
also after it was interrupted: what it finds done, it leaves. The folder says which of them is due.
"""

import asyncio
import shlex
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final

from agentbus.admin import ledger_division
from agentbus.admin.consumers import consumers_of_bus, remove_consumers
from agentbus.admin.queue_move import check_room, move_queue
from agentbus.bus.inputs.buckets import remove_unused_inputs
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.progress.streams import remove_progress
from agentbus.bus.setup import known_agents, set_up, set_up_coordinators
from agentbus.cli import output
from agentbus.cli.operator.next_steps import apply_change, reload_command, restart_text
from agentbus.cli.operator.setup import clear_retired
from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.errors import (
    AuthenticationError,
    BusError,
    BusUnavailableError,
    PermissionDeniedError,
    SetupMissingError,
)
from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import ledger_of
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.manifest import FILE_OF_QUEUE

_NAME: Final = "agentbus init --upgrade"
_CONNECT_S: Final = 5.0


async def upgrade(bus: BusFolder) -> None:
    """Do the part of the upgrade that is due, and print what comes next.

    Raises:
        BusError: the bus cannot be reached, has no room for the new layout, or failed; nothing is lost, and the
            command can be repeated.
        ConfigError: the folder cannot be read or written.
    """
    if bus.has_newest_layout:
        await _finish(bus)
    elif bus.ledgers_apart:
        await _add_rights(bus)
    else:
        await _prepare(bus)


async def _add_rights(bus: BusFolder) -> None:
    """Write accounts in which parties may do more, which a reload lets them.

    The run before this one may have been the first half of another version's, so what that has left to do is done.
    """
    await _complete(bus)
    bus.set_newest_layout()
    output.line(f"the accounts of the newest layout are written. Now {apply_change(bus)}:\n  {reload_command(bus)}")


async def _prepare(bus: BusFolder) -> None:
    """Make what the new layout needs on the bus as it is, and write the new accounts."""
    connected = _connected(_settings(bus)) if bus.queue_apart else _in_account_of_streams(bus)
    async with connected as administrator:
        streams = administrator.accounts[0]
        await ledger_division.check_server(streams)
        # The room of this account: an administrator with two of them is told the sum of both.
        granted = (await Bus.account_info(streams)).max_storage_bytes
        await ledger_division.check_room(streams, granted if bus.queue_apart else _without_queue(granted))
        if not bus.queue_apart:  # what runs have told, and room for inputs, give way to the queue, and are made again
            await remove_progress(streams)
            await remove_unused_inputs(streams)
            await check_room(administrator, FILE_OF_QUEUE)
        await set_up(administrator, await known_agents(administrator))
        if not bus.queue_apart:
            await remove_progress(streams)
            await remove_unused_inputs(streams)
        # Also what has a consumer, and no task in the ledger any more: so it is deleted.
        parties = [*await ledger_division.parties_of_ledger(streams), *await known_agents(administrator)]
    bus.set_newest_layout([one for one in parties if one not in (*bus.agents, *bus.coordinators)])
    output.line("the streams are ready, and the accounts of the new layout are written. Now " + restart_text(bus))
    output.line("From then on no task can be published, taken or read until the bus is changed, so do that at once:")
    output.line(f"  {shlex.join(['agentbus', 'init', '--upgrade', str(bus.path)])}")


def _without_queue(granted_bytes: int) -> int:
    """Return the storage of the other streams once the queue has an account of its own; -1 for no limit."""
    return granted_bytes * (100 - FILE_OF_QUEUE) // 100 if granted_bytes > 0 else -1


async def _finish(bus: BusFolder) -> None:
    await _complete(bus)
    output.line(f"the bus in {bus.path} has the newest layout")


async def _set_bounds(administrator: Bus, bus: BusFolder) -> None:
    """Give the streams of a divided ledger their bounds, and make what the bus lacks beside.

    Raises:
        BusError: there is no room for them, or another reason.
    """
    try:
        await set_up(administrator, await known_agents(administrator))
        await set_up_coordinators(administrator, bus.with_ledgers)
    except (AuthenticationError, BusUnavailableError, PermissionDeniedError):
        raise
    except BusError as error:
        raise BusError(
            f"{error}. The ledger is divided and nothing is lost, but not all of its streams have their bounds: make "
            "room, and run this again"
        ) from error


async def _complete(bus: BusFolder) -> None:
    """Move the queue into its account and divide the ledger, unless that is done, and delete foreign consumers."""
    settings, moved = _settings(bus), None
    try:
        async with _connected(settings) as administrator, _in_account_of_streams(bus) as streams:
            await _check_restarted(bus)
            misplaced = await administrator.misplaced_streams()
            if misplaced:
                moved = await move_queue(streams, administrator.of_stream(subjects.TASKS_STREAM))
            divided = await ledger_division.divide_ledger(administrator, bus.coordinators)
            # Also where nothing was left to do: it may have been interrupted here.
            await clear_retired(administrator, bus)
            await _set_bounds(administrator, bus)
            foreign = [one for one in await consumers_of_bus(administrator) if one.foreign]
            deleted = await remove_consumers(administrator, foreign)
    except AuthenticationError as error:
        raise AuthenticationError(f"{_not_restarted(bus)} ({error})") from error
    if moved is not None:
        output.line(f"moved {moved.stream} into an account of its own: {moved.messages} messages")
    if divided is not None:
        count, streams_of = sum(divided.entries.values()), len(divided.entries)
        output.line(f"divided the ledger: {count} entries in {streams_of} streams, one for each party")
    for one in deleted:
        output.line(f"deleted the foreign consumer {one.path}: {one.foreign}")


async def _check_restarted(bus: BusFolder) -> None:
    """Check that the server has read the accounts, without which no party could read a ledger that is divided.

    Raises:
        BusError: it has not.
    """
    if not bus.secret_file(subjects.COORDINATOR).exists():
        return
    config, _ = load_coordinator(path=bus.administrator)
    of_administrator = dict.fromkeys(("tasks_user", "tasks_password_file", "tasks_nkey_file", "inbox_prefix"))
    nats = config.nats.model_copy(update={**of_administrator, **bus.sign_in_as(subjects.COORDINATOR)})
    try:
        async with _connected(connection_settings(nats, agent=subjects.COORDINATOR, name=_NAME)) as coordinator:
            with suppress(SetupMissingError):
                await coordinator.stream_info(ledger_of(subjects.COORDINATOR))
    except PermissionDeniedError as error:
        raise BusError(_not_restarted(bus)) from error


def _not_restarted(bus: BusFolder) -> str:
    return f"the server does not know the accounts of the new layout yet: {restart_text(bus)}, and run this again"


def _settings(bus: BusFolder) -> ConnectionSettings:
    config, _ = load_coordinator(path=bus.administrator)
    return connection_settings(config.nats, agent=ADMINISTRATOR, name=_NAME)


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

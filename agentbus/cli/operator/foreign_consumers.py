"""Deletes foreign consumers when a party loses a credential: they would stay, and could make others wait."""

import asyncio
import shlex
from typing import Final

from agentbus.admin.consumers import Consumer, consumers_of_bus, remove_consumers
from agentbus.cli import output
from agentbus.cli.session import connected
from agentbus.errors import AgentBusError
from agentbus.provision.bus_folder.folder import BusFolder

_WITHIN_S: Final = 10.0
"""The party is removed by then, and a person waits for the command."""


def delete_foreign_consumers(bus: BusFolder) -> None:
    """Delete them with the administrator's credential of the folder, and print which; or print why that failed.

    In the older layout, all consumers lie in one account, and this does nothing: an operator may have made some there.
    """
    if not bus.queue_apart:
        return
    try:
        deleted = asyncio.run(_delete(bus))
    except (AgentBusError, TimeoutError) as error:
        why = str(error) or f"the bus did not answer within {_WITHIN_S:g} s"
        command = shlex.join(["agentbus", "consumers", "remove", "--foreign", "--config", str(bus.administrator)])
        output.line(f"consumers that it may have left on the bus were not deleted: {why}\n  later: {command}")
        return
    for one in deleted:
        output.line(f"deleted the foreign consumer {one.path}: {one.foreign}")


async def _delete(bus: BusFolder) -> list[Consumer]:
    async with asyncio.timeout(_WITHIN_S), connected(None, bus.administrator) as administrator:
        found = await consumers_of_bus(administrator.bus)
        return await remove_consumers(administrator.bus, [one for one in found if one.foreign])

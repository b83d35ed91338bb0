"""Checks the server: its version, its connections, and its clock against that of this machine."""

import asyncio
import http.client
import time
from collections.abc import AsyncIterator
from typing import Final

from agentbus.admin.doctor.check_context import CheckContext
from agentbus.admin.doctor.finding import RAISE_LIMIT, Finding, ok, warning
from agentbus.admin.server_versions import version_warning
from agentbus.bus.bounds.fill import WARNED_FROM
from agentbus.config.addresses import Address
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import MessageError, PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json, decode, object_in

# NTP keeps clocks closer than that; a larger difference makes times in logs misleading.
_CLOCK_OFFSET_S: Final = 2.0
_MONITORING_TIMEOUT_S: Final = 2.0
_MAX_ANSWER_BYTES: Final = 1 << 20
"""Of the monitoring port: a server of agentbus answers with some 10 KB."""


async def check_version(context: CheckContext) -> AsyncIterator[Finding]:
    """Check that the server is not too old, and has no known flaws."""
    version = context.bus.server_version
    if text := version_warning(version):
        yield warning("server", text, "upgrade the server")
    else:
        yield ok("server", f"nats-server {version}")


async def check_clock(context: CheckContext) -> AsyncIterator[Finding]:
    """Compare this machine's clock with the time in an answer of the JetStream API.

    Yields nothing if the role may not ask for one, or the server is too old to put a time into it.
    """
    config, bus = context.config, context.bus
    before = time.time()
    try:
        if isinstance(config, WorkerConfig):
            server_time = (await bus.consumer_info(config.nats.stream, config.durable)).server_time
        else:
            server_time = (await bus.stream_info(subjects.TASKS_STREAM)).server_time
    except (PermissionDeniedError, SetupMissingError):
        return
    took_s = time.time() - before
    if server_time is None:
        return
    # The server read its clock at some time within the round trip; the middle is the best estimate.
    offset_s = server_time.timestamp() - (before + took_s / 2)
    if abs(offset_s) > _CLOCK_OFFSET_S + took_s:
        text = f"this machine is {abs(offset_s):.1f} s {'behind' if offset_s > 0 else 'ahead of'} the server"
        fix = "set it by NTP: leases go by the server's clock, but logs and times of tasks do not"
        yield warning("clock", text, fix)
    else:
        yield ok("clock", "agrees with the server's")


async def check_connections(context: CheckContext) -> AsyncIterator[Finding]:
    """Ask the server on its monitoring port, where that is known, how many connections it has of those that it takes.

    Yields nothing if it does not answer there.
    """
    if context.folder.monitoring is None:
        return
    try:
        told = object_in(decode(await asyncio.to_thread(_varz, context.folder.monitoring)))
    except (OSError, http.client.HTTPException, MessageError):
        return
    count, bound = (_number(told, name) for name in ("connections", "max_connections"))
    if 0 < WARNED_FROM * bound <= count:
        yield warning("connections", f"the server has {count} connections, and takes {bound}", RAISE_LIMIT)


def _varz(monitoring: Address) -> bytes:
    connection = http.client.HTTPConnection(monitoring.host, monitoring.port, timeout=_MONITORING_TIMEOUT_S)
    try:
        connection.request("GET", "/varz")
        return connection.getresponse().read(_MAX_ANSWER_BYTES)
    finally:
        connection.close()


def _number(told: dict[str, Json], name: str) -> int:
    value = told.get(name)
    return value if isinstance(value, int) else 0

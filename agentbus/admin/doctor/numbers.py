"""Checks how near to their bounds numbers are: tasks in work, connections of an agent, connections in all."""

import asyncio
import http.client
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Final

from agentbus.admin.doctor.check_context import CheckContext
from agentbus.admin.doctor.finding import Finding, warning
from agentbus.bus.bounds.fill import WARNED_FROM
from agentbus.bus.jetstream_answers import ConsumerInfo
from agentbus.config.addresses import Address
from agentbus.errors import MessageError, PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json, decode, object_in
from agentbus.tasks.presence import present

_TIMEOUT_S: Final = 2.0
_MAX_ANSWER_BYTES: Final = 1 << 20
"""Of the monitoring port: a server of agentbus answers with some 10 KB."""
_RAISE: Final = "raise it: docs/how-to/growing.md#limits"


async def check_numbers(context: CheckContext) -> AsyncIterator[Finding]:
    """Yield a warning for each number that has reached eight tenths of its bound, as far as the role can see it."""
    with suppress(PermissionDeniedError, SetupMissingError):  # other checks say so
        for consumer in await context.bus.consumers(subjects.TASKS_STREAM):
            for finding in tasks_in_work(consumer):
                yield finding
        for finding in await _workers(context):
            yield finding
    if context.folder.monitoring is not None:
        for finding in await _connections(context.folder.monitoring):
            yield finding


def tasks_in_work(consumer: ConsumerInfo) -> Iterator[Finding]:
    """Yield a warning if a consumer has nearly as many tasks in work as it may have."""
    bound, agent = consumer.config.get("max_ack_pending"), subjects.agent_of_filter(consumer.filter_subject)
    if agent is not None and isinstance(bound, int) and 0 < WARNED_FROM * bound <= consumer.num_ack_pending:
        text = f"{agent} has {consumer.num_ack_pending} tasks in work, and may have {bound} ({consumer.name})"
        fix = f"agentbus setup --agent {agent} --max-ack-pending {2 * bound}, as the administrator: the others wait"
        yield warning("tasks in work", text, fix)


async def _workers(context: CheckContext) -> list[Finding]:
    """Compare the living workers of each agent, which have a connection each, with what `bus.toml` allows."""
    bound = context.folder.connections_of_agent
    if bound is None:
        return []
    alive = Counter(worker.agent for worker in await present(context.bus))
    return [
        warning("connections", f"{agent} has {count} workers, a connection each, and may have {bound}", _RAISE)
        for agent, count in sorted(alive.items())
        if count >= WARNED_FROM * bound
    ]


async def _connections(monitoring: Address) -> list[Finding]:
    """Ask the server on its monitoring port how many connections it has; nothing if it does not answer there."""
    try:
        told = decode(await asyncio.to_thread(_varz, monitoring))
    except (OSError, http.client.HTTPException, MessageError):
        return []
    count, bound = _number(told, "connections"), _number(told, "max_connections")
    if not 0 < WARNED_FROM * bound <= count:
        return []
    return [warning("connections", f"the server has {count} connections, and takes {bound}", _RAISE)]


def _varz(monitoring: Address) -> bytes:
    connection = http.client.HTTPConnection(monitoring.host, monitoring.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/varz")
        return connection.getresponse().read(_MAX_ANSWER_BYTES)
    finally:
        connection.close()


def _number(told: Json, name: str) -> int:
    value = object_in(told).get(name)
    return value if isinstance(value, int) else 0

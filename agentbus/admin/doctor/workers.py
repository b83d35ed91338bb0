"""Checks the living workers: nothing keeps them from their work, and each agent may have more of them."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

from agentbus.admin.doctor.check_context import CheckContext
from agentbus.admin.doctor.finding import RAISE_LIMIT, Finding, warning
from agentbus.bus.bounds.fill import WARNED_FROM
from agentbus.errors import PermissionDeniedError, SetupMissingError
from agentbus.tasks.presence import present

_FIX: Final = "see the log of that worker, and run there: agentbus doctor --role worker"


async def check_workers(context: CheckContext) -> AsyncIterator[Finding]:
    """Yield a warning for each trouble of a living worker, and for an agent that has nearly all its connections."""
    try:
        workers = await present(context.bus)
    except (PermissionDeniedError, SetupMissingError):  # the permissions and the streams are checked by themselves
        return
    for worker in workers:
        for trouble in worker.troubles:
            yield warning("workers", f"{worker.agent}: {trouble}", _FIX)
    bound = context.folder.connections_of_agent
    for agent, count in sorted(Counter(worker.agent for worker in workers).items()):
        if bound is not None and count >= WARNED_FROM * bound:
            text = f"{agent} has {count} workers, a connection each, and may have {bound}"
            yield warning("connections", text, RAISE_LIMIT)

"""Checks what living workers say of themselves: that nothing keeps them from their work."""

from collections.abc import AsyncIterator
from typing import Final

from agentbus.admin.doctor.check_context import CheckContext
from agentbus.admin.doctor.finding import Finding, warning
from agentbus.errors import PermissionDeniedError, SetupMissingError
from agentbus.tasks.presence import present

_FIX: Final = "see the log of that worker, and run there: agentbus doctor --role worker"


async def check_workers(context: CheckContext) -> AsyncIterator[Finding]:
    """Yield a warning for each trouble of a living worker."""
    try:
        workers = await present(context.bus)
    except (PermissionDeniedError, SetupMissingError):  # the permissions and the streams are checked by themselves
        return
    for worker in workers:
        for trouble in worker.troubles:
            yield warning("workers", f"{worker.agent}: {trouble}", _FIX)

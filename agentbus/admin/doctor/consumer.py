"""Checks the consumers: that of a worker takes the tasks of its agent, and no stream has a foreign one."""

from collections.abc import AsyncIterator
from typing import Final

from agentbus.admin.consumers import consumers_of_bus
from agentbus.admin.doctor.check_context import CheckContext, how_to_grant
from agentbus.admin.doctor.finding import Finding, failed, ok, warning
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects


async def check_consumer(context: CheckContext) -> AsyncIterator[Finding]:
    """Check the consumer that the worker pulls from, and count its tasks."""
    config = context.config
    assert isinstance(config, WorkerConfig), "only workers have a consumer"
    name, stream = config.durable, config.nats.stream
    try:
        info = await context.bus.consumer_info(stream, name)
    except SetupMissingError:
        fix = f"agentbus setup --agent {config.agent.id}, as the administrator"
        yield failed("consumer", f"the consumer {name} of {stream} does not exist", fix)
        return
    except PermissionDeniedError as error:
        yield failed("consumer", str(error), how_to_grant(error))
        return
    if info.filter_subject == subjects.tasks(config.agent.id):
        yield ok("consumer", f"{name}: {info.num_pending} tasks wait, {info.num_ack_pending} are running")
    else:
        fix = "set durable in [nats] to that of this agent"
        yield failed("consumer", f"the consumer {name} takes {info.filter_subject}", fix)


_MOST_NAMED: Final = 5


async def check_foreign_consumers(context: CheckContext) -> AsyncIterator[Finding]:
    """Check that no stream has a consumer that agentbus cannot have made."""
    try:
        consumers = await consumers_of_bus(context.bus)
    except PermissionDeniedError as error:
        yield failed("consumers", str(error), how_to_grant(error))
        return
    foreign = [one for one in consumers if one.foreign]
    if not foreign:
        yield ok("consumers", f"{len(consumers)} consumers, none of them foreign")
        return
    named = "; ".join(f"{one.path}: {one.foreign}" for one in foreign[:_MOST_NAMED])
    more = f"; and {len(foreign) - _MOST_NAMED} more" if len(foreign) > _MOST_NAMED else ""
    yield warning(
        "consumers",
        f"{len(foreign)} foreign of {len(consumers)} consumers: {named}{more}",
        "agentbus consumers remove --foreign, as the administrator, unless you made them on purpose",
    )

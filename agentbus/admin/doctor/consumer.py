"""Checks that the consumer of a worker exists and delivers the tasks of its agent."""

from collections.abc import AsyncIterator

from agentbus.admin.doctor.check_context import CheckContext, how_to_grant
from agentbus.admin.doctor.finding import Finding, failed, ok
from agentbus.config.schema import WorkerConfig
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

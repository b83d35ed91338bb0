"""Checks the consumers: those of a worker take its tasks, none is near its bound, and no stream has a foreign one."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Final

from agentbus.admin.consumers import consumers_of_bus
from agentbus.admin.doctor.check_context import CheckContext, how_to_grant
from agentbus.admin.doctor.finding import Finding, failed, ok, warning
from agentbus.bus.bounds.fill import WARNED_FROM
from agentbus.bus.jetstream_answers import ConsumerInfo
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects


async def check_consumer(context: CheckContext) -> AsyncIterator[Finding]:
    """Check the two consumers that the worker pulls from, and count their tasks."""
    config = context.config
    assert isinstance(config, WorkerConfig), "only workers have a consumer"
    agent = config.agent.id
    name, wanted = config.durable, subjects.tasks(agent)
    for finding in await _check_one(context, config, "consumer", name, wanted, unusable=failed):
        yield finding
    # On a bus of the older layout there is none, and the worker takes the tasks of `main` all the same.
    name, wanted = subjects.durable_of_parties(agent), subjects.tasks_of(agent, "*")
    for finding in await _check_one(context, config, "named tasks", name, wanted, unusable=warning):
        yield finding


async def _check_one(
    context: CheckContext,
    config: WorkerConfig,
    check: str,
    name: str,
    wanted: str,
    *,
    unusable: Callable[[str, str, str], Finding],
) -> list[Finding]:
    stream = config.nats.stream
    try:
        info = await context.bus.consumer_info(stream, name)
    except SetupMissingError:
        fix = f"agentbus setup --agent {config.agent.id}, as the administrator"
        return [unusable(check, f"the consumer {name} of {stream} does not exist", fix)]
    except PermissionDeniedError as error:
        return [unusable(check, str(error), how_to_grant(error))]
    if info.filter_subject == wanted:
        counts = ok(check, f"{name}: {info.num_pending} tasks wait, {info.num_ack_pending} are running")
        return [counts, *_tasks_in_work(info)]
    fix = "set durable in [nats] to that of this agent"
    return [failed(check, f"the consumer {name} takes {info.filter_subject}", fix)]


async def check_tasks_in_work(context: CheckContext) -> AsyncIterator[Finding]:
    """Yield a warning for each agent that has nearly as many tasks in work as it may have."""
    with suppress(PermissionDeniedError, SetupMissingError):  # other checks say so
        for consumer in await context.bus.consumers(subjects.TASKS_STREAM):
            for finding in _tasks_in_work(consumer):
                yield finding


def _tasks_in_work(consumer: ConsumerInfo) -> Iterator[Finding]:
    bound, agent = consumer.config.get("max_ack_pending"), subjects.agent_of_filter(consumer.filter_subject)
    if agent is not None and isinstance(bound, int) and 0 < WARNED_FROM * bound <= consumer.num_ack_pending:
        text = f"{agent} has {consumer.num_ack_pending} tasks in work, and may have {bound} ({consumer.name})"
        fix = f"agentbus setup --agent {agent} --max-ack-pending {2 * bound}, as the administrator: the others wait"
        yield warning("tasks in work", text, fix)


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

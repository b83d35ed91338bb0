"""Checks permissions: a role must have all that it needs, and none that it must not have."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress

from agentbus.admin.doctor.check_context import CheckContext, Role, RoleConfig
from agentbus.admin.doctor.finding import Finding, failed, ok, warning
from agentbus.admin.doctor.permission_probe import PLACEHOLDER, example_subject, may_publish
from agentbus.admin.doctor.reachability import is_local
from agentbus.bus.reading.ledger_parts import agent_ledgers, agent_of_ledger, has_ledger, part_of
from agentbus.config.connection_settings import Credentials
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import BusError, PermissionDeniedError, SetupMissingError
from agentbus.protocol import accounts, permissions, subjects
from agentbus.protocol.parties.party import Party
from agentbus.protocol.subjects import TaskKey


async def check_required(context: CheckContext) -> AsyncIterator[Finding]:
    """Check that the user may publish and subscribe to all that its role needs."""
    if context.role == "coordinator" and not await has_ledger(context.bus):
        text = "not checked: which ones are needed shows the ledger, and there is none yet"
        yield warning("permissions", text, "agentbus setup, as the administrator; then run this again")
        return
    party = await _party(context)
    refused = [subject async for subject in _refused(context, party)]
    missing = [subject for subject in refused if party.since(subject) == 1]
    newer = [subject for subject in refused if subject not in missing]
    missing += await _refused_before(context, party, newer)
    if missing:
        text = f"this user may not use {', '.join(missing)}"
        yield failed("permissions", text, "grant it: see the table in docs/explanation/security.md")
    if newer:
        yield warning(
            "layout",
            f"this bus has an older layout: this user may not use {', '.join(newer)}",
            "agentbus init --upgrade, in the folder of the bus; elsewhere, grant it: see the table in "
            "docs/explanation/security.md",
        )
    if not refused:
        yield ok("permissions", f"everything that the {context.role} needs")


async def check_excessive(context: CheckContext) -> AsyncIterator[Finding]:
    """Check that the user may not do what its role must not do."""
    bus, role, settings = context.bus, context.role, context.settings
    found = [what for what, subject in _forbidden(role, context.config) if await may_publish(bus, subject)]
    if not found:
        yield ok("limits", f"nothing that a {role} must not do")
    elif settings.credentials == Credentials() and all(is_local(url) for url in settings.urls):
        yield ok("limits", "none: every user of this machine may do everything, as with `agentbus up`")
    else:
        yield warning(
            "limits",
            f"this user may also {', '.join(found)}",
            "give each party a user of its own with the permissions in docs/explanation/security.md; "
            "agentbus init makes such a bus",
        )


async def _party(context: CheckContext) -> Party:
    """Return who the user is to be on this bus, with one ledger or with one for each party."""
    if isinstance(context.config, WorkerConfig):
        return permissions.worker(context.config.agent.id)
    if context.role == "administrator":
        return permissions.administrator()
    who, ledgers = context.config.coordinator, await agent_ledgers(context.bus)
    if ledgers is None:
        one_ledger = accounts.LAYOUT_WITH_LEDGERS_APART - 1
        return permissions.coordinator(who.id, who.effective_role, who.agents or (), layout=one_ledger)
    others = [agent for info in ledgers if (agent := agent_of_ledger(info)) is not None]
    return permissions.coordinator(who.id, who.effective_role, who.agents or (), others=others)


async def _refused_before(context: CheckContext, party: Party, newer: Iterable[str]) -> list[str]:
    """Return what this user may not use of what an older layout grants in place of newer subjects."""
    before = dict.fromkeys(one for subject in newer for one in party.before(subject))
    return [one for one in before if not await may_publish(context.bus, example_subject(one))]


async def _refused(context: CheckContext, party: Party) -> AsyncIterator[str]:
    """Yield the subjects that the role needs and this user may not use."""
    bus = context.bus
    for account in bus.accounts[1:]:  # a subject with `>` lies in each of them
        if not await may_publish(account, example_subject(subjects.api(">"))):
            yield subjects.api(">")
    # Of a stream that does not exist the server answers nothing, and another check tells so to a user who may use it.
    complete = await _is_set_up(context)
    for subject in party.of("send") + party.of("pull"):
        if subject.startswith("$JS.ACK.*"):
            continue  # only servers with domains use this form; the other form is tested
        # The server does not answer a pull from a consumer that does not exist.
        answered = complete and (subject not in party.of("pull") or "*" not in subject)
        if not await may_publish(bus, example_subject(subject), answered=answered):
            yield subject
    for subject in party.of("tell"):
        if not await may_publish(bus, example_subject(subject), answered=False):
            yield subject
    async for subject in _refused_subscriptions(context, party):
        yield subject


async def _refused_subscriptions(context: CheckContext, party: Party) -> AsyncIterator[str]:
    bus = context.bus
    for subject in party.of("listen"):
        end = await bus.subscribe(subject, lambda _: None)
        with suppress(BusError):
            # After one round trip the server has reported the subscription if it refused it.
            await may_publish(bus, bus.new_inbox(), answered=False)
        await end()
        if any(f"subscribe to {subject.lower()}" in text.lower() for text in context.messages):
            yield subject


async def _is_set_up(context: CheckContext) -> bool:
    """Return whether there is all that `agentbus setup` makes, as far as this user may look."""
    bus, config = context.bus, context.config
    try:
        if isinstance(config, WorkerConfig):
            with suppress(PermissionDeniedError):
                await bus.consumer_info(config.nats.stream, config.durable)
            return True
        ledger = (await part_of(bus, subjects.mcp_tasks(context.agent))).stream
        for name in (subjects.TASKS_STREAM, subjects.RESULTS_STREAM, ledger, subjects.REGISTRY_STREAM):
            with suppress(PermissionDeniedError):
                await bus.stream_info(name)
    except SetupMissingError:
        return False
    return True


def _forbidden(role: Role, config: RoleConfig) -> Iterator[tuple[str, str]]:
    yield "delete streams", subjects.api(f"STREAM.DELETE.{PLACEHOLDER}")
    yield "empty streams", subjects.api(f"STREAM.PURGE.{PLACEHOLDER}")
    yield "make streams", subjects.api(f"STREAM.CREATE.{PLACEHOLDER}")
    yield "delete messages", subjects.api(f"STREAM.MSG.DELETE.{PLACEHOLDER}")
    yield "delete consumers", subjects.api(f"CONSUMER.DELETE.{PLACEHOLDER}.{PLACEHOLDER}")
    if role == "worker":
        yield "give tasks to other agents", subjects.tasks(PLACEHOLDER)
        yield "write the states of other agents' tasks", subjects.state(TaskKey(PLACEHOLDER, PLACEHOLDER))
    elif role == "coordinator" and _role_on_bus(config) != "operator":
        yield "give tasks as main", subjects.tasks(PLACEHOLDER)
        yield "change the tasks of others", subjects.state(TaskKey(PLACEHOLDER, PLACEHOLDER, PLACEHOLDER))


def _role_on_bus(config: RoleConfig) -> str:
    return "worker" if isinstance(config, WorkerConfig) else config.coordinator.effective_role

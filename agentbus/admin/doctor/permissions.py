"""Checks of permissions: that a role may do all that it needs, and nothing that it must not do."""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

from agentbus.admin.doctor.examination import Examination, Role, RoleConfig
from agentbus.admin.doctor.finding import Finding, failed, ok, warning
from agentbus.admin.doctor.permission_probe import STAND_IN, concrete, may_send
from agentbus.admin.doctor.reachability import is_local
from agentbus.config.connection_settings import Credentials
from agentbus.config.schema import WorkerConfig
from agentbus.errors import BusError
from agentbus.protocol import permissions, subjects
from agentbus.protocol.permissions import Party


async def check_needed(examination: Examination) -> AsyncIterator[Finding]:
    """Check that the user may publish and subscribe to all that its role needs."""
    party = _party(examination.role, examination.config)
    missing = [subject async for subject in _refused(examination, party)]
    if missing:
        text = f"this user may not use {', '.join(missing)}"
        yield failed("permissions", text, "grant it: see the table in docs/explanation/security.md")
    else:
        yield ok("permissions", f"everything that the {examination.role} needs")


async def check_excessive(examination: Examination) -> AsyncIterator[Finding]:
    """Check that the user may not do what its role must not do."""
    bus, role, settings = examination.bus, examination.role, examination.settings
    found = [what for what, subject in _forbidden(role) if await may_send(bus, subject)]
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


def _party(role: Role, config: RoleConfig) -> Party:
    if isinstance(config, WorkerConfig):
        return permissions.worker(config.agent.id)
    return permissions.administrator() if role == "administrator" else permissions.coordinator([])


async def _refused(examination: Examination, party: Party) -> AsyncIterator[str]:
    """Yield the subjects that this user should be allowed and is not."""
    bus = examination.bus
    for subject in party.of("send") + party.of("pull"):
        if subject.startswith("$JS.ACK.*"):
            continue  # the form of servers with domains; the other form is tried
        # A pull from a consumer that does not exist is not answered.
        if not await may_send(bus, concrete(subject), answered=subject not in party.of("pull") or "*" not in subject):
            yield subject
    for subject in party.of("tell"):
        if not await may_send(bus, concrete(subject), answered=False):
            yield subject
    for subject in party.of("listen"):
        end = await bus.subscribe(subject, lambda _: None)
        with suppress(BusError):
            # A round trip: by its end, the server has reported a refused subscription.
            await may_send(bus, bus.new_inbox(), answered=False)
        await end()
        if any(f"subscribe to {subject.lower()}" in text.lower() for text in examination.messages):
            yield subject


def _forbidden(role: Role) -> Iterator[tuple[str, str]]:
    yield "delete streams", subjects.api(f"STREAM.DELETE.{STAND_IN}")
    yield "empty streams", subjects.api(f"STREAM.PURGE.{STAND_IN}")
    yield "make streams", subjects.api(f"STREAM.CREATE.{STAND_IN}")
    yield "delete messages", subjects.api(f"STREAM.MSG.DELETE.{STAND_IN}")
    yield "delete consumers", subjects.api(f"CONSUMER.DELETE.{STAND_IN}.{STAND_IN}")
    if role == "worker":
        yield "give tasks to other agents", subjects.tasks(STAND_IN)
        yield "write the states of other agents' tasks", subjects.state(STAND_IN, STAND_IN)

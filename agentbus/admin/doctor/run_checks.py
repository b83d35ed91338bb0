"""Runs the checks of a role in this order: configuration, machine, network, sign-in, bus, a task.

If a check fails on which later ones depend, these are skipped.
"""

from collections.abc import AsyncGenerator
from typing import Final

from agentbus.admin.doctor.agent.round_trip import check_round_trip
from agentbus.admin.doctor.check_context import CheckContext, FolderFacts, Role, RoleConfig, agent_of
from agentbus.admin.doctor.checks import CHECKS
from agentbus.admin.doctor.finding import Finding, Verdict, failed, ok
from agentbus.admin.doctor.machine import check_machine
from agentbus.admin.doctor.reachability import check_reachability
from agentbus.admin.doctor.repository import check_repository
from agentbus.admin.doctor.sign_in import how_to_sign_in, identity, signed_in
from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import AgentBusError, AuthenticationError, BusUnavailableError

_NO_FOLDER: Final = FolderFacts()


async def run_checks(
    role: Role, config: RoleConfig, source: str, *, probe: str | None = None, folder: FolderFacts = _NO_FOLDER
) -> AsyncGenerator[Finding]:
    """Check everything that a role needs, with its own configuration and credentials.

    Args:
        source: where the configuration comes from, for the report.
        probe: an agent that gets a small task, for a round trip through a real worker.
        folder: what the folder of the bus says, where it is on this machine.
    """
    yield ok("configuration", source)
    if isinstance(config, WorkerConfig):
        async for finding in check_machine(config):
            yield finding
        async for finding in check_repository(config):
            yield finding
    try:
        settings = connection_settings(config.nats, agent=agent_of(config), name="agentbus doctor")
    except AgentBusError as error:
        yield failed("credentials", str(error), "name a file that this user can read, or join again with a new bundle")
        return
    reached = False
    for url in settings.urls:
        found: dict[str, Verdict] = {}
        async for finding in check_reachability(url, settings):
            yield finding
            found[finding.check] = finding.verdict
        # Without TLS there is no signing in, which would fail for the same reason.
        reached = reached or (found.get("tcp") == "ok" and found.get("tls") != "failed")
    if reached:
        async for finding in _on_the_bus(role, config, settings, probe, folder):
            yield finding


async def _on_the_bus(
    role: Role, config: RoleConfig, settings: ConnectionSettings, probe: str | None, folder: FolderFacts
) -> AsyncGenerator[Finding]:
    """Sign in and run the checks of the role; an error that a check does not handle itself ends them."""
    messages: list[str] = []
    connected = False
    try:
        async with signed_in(settings, messages) as bus:
            connected = True
            yield ok("sign-in", f"{identity(settings)}, on {settings.servers}")
            context = CheckContext(role, config, settings, bus, messages, folder)
            for check in CHECKS[role]:
                async for finding in check(context):
                    yield finding
            if probe is not None:
                yield await check_round_trip(bus, context.agent, probe)
    except BusUnavailableError as error:
        fix = "start the server; of a cluster, more than half of the servers must be up"
        yield failed("answers", str(error), fix) if connected else failed("sign-in", str(error))
    except AgentBusError as error:
        yield failed("sign-in", str(error), how_to_sign_in(role) if isinstance(error, AuthenticationError) else "")

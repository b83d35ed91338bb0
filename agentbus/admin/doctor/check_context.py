"""The input of the checks on the bus: the role, its configuration, its connection, and the errors of the server."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Literal

from agentbus.admin.doctor.finding import Finding
from agentbus.bus.jetstream import Bus
from agentbus.config.addresses import Address
from agentbus.config.connection_settings import ConnectionSettings
from agentbus.config.schema import CoordinatorConfig
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import PermissionDeniedError

Role = Literal["coordinator", "worker", "administrator"]
RoleConfig = CoordinatorConfig | WorkerConfig


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """What the folder of a bus says about its bounds.

    Attributes:
        connections_of_agent: how many connections an agent may have.
        monitoring: where its server answers questions about itself, on this machine.
        ledgers_apart: whether each party is to have a ledger of its own.
    """

    connections_of_agent: int | None = None
    monitoring: Address | None = None
    ledgers_apart: bool = False


@dataclass(frozen=True, slots=True)
class CheckContext:
    """The role that is checked, with its connection to the bus.

    Attributes:
        messages: the errors that the server has sent on the connection so far, such as refused subscriptions.
        folder: what the folder of the bus says, where it is on this machine.
    """

    role: Role
    config: RoleConfig
    settings: ConnectionSettings
    bus: Bus
    messages: list[str] = field(default_factory=list[str])
    folder: FolderFacts = FolderFacts()

    @property
    def agent(self) -> str:
        """The agent id under which the role acts."""
        return agent_of(self.config)


Check = Callable[[CheckContext], AsyncIterator[Finding]]
"""Yields findings; none where the role may not look."""


def agent_of(config: RoleConfig) -> str:
    """Return the agent id of a worker, or of a coordinator."""
    return config.agent.id if isinstance(config, WorkerConfig) else config.coordinator.id


def how_to_grant(error: PermissionDeniedError) -> str:
    """Return what to do about a refused permission, unless the error says so itself."""
    return "" if "inbox_prefix" in str(error) else "grant it: see the table in docs/explanation/security.md"

"""The interface of a service manager, and the code that all managers share."""

import getpass
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from agentbus.config.atomic_files import replace_file, why_not_written
from agentbus.errors import ServiceError
from agentbus.protocol import subjects
from agentbus.provision.services.manager_command import run_all
from agentbus.provision.services.worker_service import NAME_PREFIX, WorkerService

ManagerName = Literal["systemd", "systemd-user", "launchd", "supervisor"]
Commands = list[list[str]]

_SERVICE_USER: Final = "agentbus"
_STARTS_IN: Final = re.compile(r"^(?:WorkingDirectory|directory)=(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The state of one service, as its manager names it."""

    agent: str
    manager: ManagerName
    state: str
    running: bool
    file: Path

    def to_json(self) -> dict[str, object]:
        """Return the status as a plain object."""
        return {
            "agent": self.agent,
            "manager": self.manager,
            "state": self.state,
            "running": self.running,
            "file": str(self.file),
        }


class ServiceManager(ABC):
    """Writes units of workers for one service manager, and runs its commands."""

    name: ClassVar[ManagerName]
    """The value of `--manager`."""

    # -- different for each manager -----------------------------------------------------------------------------

    @abstractmethod
    def unit_folder(self) -> Path:
        """Return the folder in which the manager looks for units."""

    @abstractmethod
    def unit_name(self, service: str) -> str:
        """Return the file name of a service's unit; `service` may be a pattern."""

    @abstractmethod
    def render(self, service: WorkerService) -> str:
        """Return the unit of a worker, made from the shipped template."""

    @abstractmethod
    def start_commands(self, unit: Path) -> Commands:
        """Return the commands that load a new or changed unit and restart it."""

    @abstractmethod
    def stop_commands(self, unit: Path) -> Commands:
        """Return the commands that stop a service gracefully."""

    @abstractmethod
    def reload_commands(self) -> Commands:
        """Return the commands that make the manager notice that a unit was removed."""

    @abstractmethod
    def state(self, unit: Path) -> tuple[str, bool]:
        """Return the state of a service as the manager names it, and whether it runs."""

    @abstractmethod
    def hints(self, service: WorkerService) -> list[str]:
        """Return what the operator should know about a service that was just installed."""

    def user(self, wanted: str | None) -> str:
        """Return the user that a worker runs as.

        Raises:
            ServiceError: this manager cannot run a service as the user `wanted`.
        """
        return wanted or _SERVICE_USER

    def warnings(self, service: WorkerService) -> list[str]:
        """Return what will keep a service from its work, as far as it is seen before it starts."""
        del service
        return []

    def folder_in(self, text: str) -> str | None:
        """Return the folder in which the service of a unit starts, as the unit has it."""
        found = _STARTS_IN.search(text)
        return found[1] if found else None

    # -- shared -------------------------------------------------------------------------------------------------

    def unit_file(self, service: str, folder: Path | None = None) -> Path:
        """Return the path of a service's unit, in the usual folder or in another one."""
        return (folder or self.unit_folder()) / self.unit_name(service)

    def kept_folder(self, unit: Path, service: WorkerService) -> Path | None:
        """Return the folder that an earlier installation has named in the unit; None if it has named none."""
        try:
            earlier = self.folder_in(unit.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return None
        return None if earlier is None or earlier == self.folder_in(self.render(service)) else Path(earlier)

    def write(self, unit: Path, text: str) -> bool:
        """Write a unit, replacing an earlier one; returns whether it differs from that.

        Raises:
            ServiceError: it cannot be written.
        """
        data = text.encode()
        try:
            changed = not unit.exists() or unit.read_bytes() != data
            unit.parent.mkdir(parents=True, exist_ok=True)
            replace_file(unit, data, mode=0o644)
        except OSError as error:
            raise ServiceError(f"{unit} cannot be written: {_reason(error)}") from None
        return changed

    def start(self, unit: Path) -> None:
        """Start a service, or restart it with its changed unit.

        Raises:
            ServiceError: the manager refused, or is not on this machine.
        """
        run_all(self.start_commands(unit))

    def uninstall(self, agent: str, folder: Path | None = None) -> Path:
        """Stop the service of an agent gracefully and remove its unit; returns the path that the unit had.

        Raises:
            ServiceError: there is no such service, or it cannot be removed.
        """
        unit = self.unit_file(f"{NAME_PREFIX}{agent}", folder)
        if not unit.exists():
            raise ServiceError(f"{self.name} has no service of the agent {agent} here: {unit} does not exist")
        run_all(self.stop_commands(unit))
        try:
            unit.unlink()
        except OSError as error:
            raise ServiceError(f"{unit} cannot be removed: {_reason(error)}") from None
        run_all(self.reload_commands())
        return unit

    def status(self, unit: Path) -> ServiceStatus:
        """Return the state of the service that a unit belongs to.

        Raises:
            ServiceError: the manager is not on this machine.
        """
        state, running = self.state(unit)
        return ServiceStatus(_agent_of(unit), self.name, state, running, unit)

    def statuses(self, agent: str | None, folder: Path | None = None) -> Sequence[ServiceStatus]:
        """Return the state of an agent's service, or of all worker services of this machine.

        Raises:
            ServiceError: there is none.
        """
        pattern = self.unit_file(f"{NAME_PREFIX}{agent or '*'}", folder)
        units = sorted(pattern.parent.glob(pattern.name))
        if not units:
            raise ServiceError(
                f"{self.name} has no such service here ({pattern}); make one with: agentbus service install"
            )
        return [self.status(unit) for unit in units]


def current_user_only(manager: ManagerName, wanted: str | None) -> str:
    """Return the user of this process, for a manager whose services run only as that user.

    Raises:
        ServiceError: another user was asked for, or this one has no name.
    """
    try:
        me = getpass.getuser()
    except (KeyError, OSError):  # a user id without an entry in the user database; Python 3.13 has changed the error
        raise ServiceError("this user has no name in the user database; set USER") from None
    if wanted not in (None, me):
        raise ServiceError(f"a service of {manager} runs as the user that installs it, which is {me}")
    return me


def _agent_of(unit: Path) -> str:
    """Return the agent of a unit. The file name is the service name, or the label of launchd."""
    return subjects.agent_id(unit.stem.removeprefix("com.agentbus.").removeprefix("agentbus-").removeprefix("worker-"))


def _reason(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"{error.strerror}; run this with sudo, or take --manager systemd-user"
    return why_not_written(error)

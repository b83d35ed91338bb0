"""Runs workers as units of systemd: of the system, or of one user."""

import os
from pathlib import Path
from typing import ClassVar, Final

from agentbus.config.home import in_home, in_home_if_any
from agentbus.provision.services.manager import Commands, ManagerName, ServiceManager, current_user_only
from agentbus.provision.services.manager_command import run
from agentbus.provision.services.unit_access import cannot_be_read
from agentbus.provision.services.unit_templates import unit_template, with_keys
from agentbus.provision.services.worker_service import WorkerService, home_of

_HIDDEN: Final = ("/home", "/root", "/run/user")
"""The folders that ProtectHome= hides."""


class Systemd(ServiceManager):
    """The system manager of systemd: workers run as a user of their own, in a sandbox."""

    name: ClassVar[ManagerName] = "systemd"
    _systemctl: ClassVar[list[str]] = ["systemctl"]

    def unit_folder(self) -> Path:
        """Return the folder in which systemd looks for units."""
        return Path("/etc/systemd/system")

    def unit_name(self, service: str) -> str:
        """Return the file name of a unit."""
        return f"{service}.service"

    def render(self, service: WorkerService) -> str:
        """Return the unit."""
        home = home_of(service.user)
        config = service.config
        own = [
            home,
            config.worker.state_dir,
            config.log.dir,
            config.worker.workdir,
            config.agent.folder,
            service.folder,
        ]
        paths = [_as_user(path, home) for path in own if path is not None]
        writable = sorted({str(path) for path in paths if path == home or not path.is_relative_to(home)})
        keys = {
            **_common_keys(service),
            "User": service.user,
            "WorkingDirectory": str(service.folder or home),
            # The dash lets systemd start the service before the folder exists.
            "ReadWritePaths": " ".join(f"-{path}" for path in writable),
        }
        if any(path.startswith(_HIDDEN) for path in writable):
            keys["ProtectHome"] = "no"
        elif str(service.program).startswith(_HIDDEN) or str(service.config_file).startswith(_HIDDEN):
            keys["ProtectHome"] = "read-only"
        return with_keys(unit_template("systemd/agentbus-worker.service"), keys, after="ProtectSystem")

    def start_commands(self, unit: Path) -> Commands:
        """Return the commands that load a unit and restart it."""
        return [
            [*self._systemctl, "daemon-reload"],
            [*self._systemctl, "enable", unit.stem],
            [*self._systemctl, "restart", unit.stem],
        ]

    def stop_commands(self, unit: Path) -> Commands:
        """Return the command that stops a service in order."""
        return [[*self._systemctl, "disable", "--now", unit.name]]

    def reload_commands(self) -> Commands:
        """Return the command that makes systemd notice that a unit was removed."""
        return [[*self._systemctl, "daemon-reload"]]

    def state(self, unit: Path) -> tuple[str, bool]:
        """Return the state that systemctl reports."""
        state = run([*self._systemctl, "is-active", unit.stem]).stdout.strip() or "unknown"
        return state, state == "active"

    def hints(self, service: WorkerService) -> list[str]:
        """Say where the log is."""
        return [f"its log: journalctl -u {service.name} -f"]

    def warnings(self, service: WorkerService) -> list[str]:
        """Say what the user of the service cannot read, in its sandbox."""
        return cannot_be_read(service, private_tmp=True)


class SystemdUser(Systemd):
    """The user manager of systemd: workers run as that user, and end at logout unless lingering is on."""

    name: ClassVar[ManagerName] = "systemd-user"
    _systemctl: ClassVar[list[str]] = ["systemctl", "--user"]

    def user(self, wanted: str | None) -> str:
        """Return the user that installs the service; a user manager runs services as no other."""
        return current_user_only(self.name, wanted)

    def unit_folder(self) -> Path:
        """Return the folder in which systemd looks for units."""
        return in_home(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "systemd" / "user"

    def render(self, service: WorkerService) -> str:
        """Return the unit."""
        keys = _common_keys(service)
        if service.folder is not None:
            keys["WorkingDirectory"] = str(service.folder)
        return with_keys(unit_template("systemd/user/agentbus-worker.service"), keys)

    def warnings(self, service: WorkerService) -> list[str]:
        """Return nothing: it runs as the user who installs it, without a sandbox."""
        del service
        return []

    def hints(self, service: WorkerService) -> list[str]:
        """Say where the log is, and that the service ends at logout unless lingering is on."""
        lingering = Path("/var/lib/systemd/linger", service.user).exists()
        linger = [] if lingering else ["it ends when you log out, unless you run: loginctl enable-linger"]
        return [f"its log: journalctl --user -u {service.name} -f", *linger]


def _common_keys(service: WorkerService) -> dict[str, str]:
    return {
        "Description": f"agentbus worker of the agent {service.config.agent.id}",
        "Environment": f"PATH={service.path()}",
        "ExecStart": " ".join(service.command),
        "TimeoutStopSec": str(service.stop_s),
    }


def _as_user(path: Path, home: Path) -> Path:
    """Move a path from the home of the operator to that of the service's user.

    `~` was expanded for the operator who installs the service, usually root.
    """
    mine = in_home_if_any("~")
    return home / path.relative_to(mine) if mine is not None and path.is_relative_to(mine) else path

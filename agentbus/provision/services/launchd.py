"""Agents of launchd, the service manager of macOS."""

import os
import plistlib
from pathlib import Path
from typing import ClassVar

from agentbus.provision.services.manager import Commands, ManagerName, ServiceManager, current_user_only
from agentbus.provision.services.manager_command import run
from agentbus.provision.services.unit_templates import unit_template
from agentbus.provision.services.worker_service import WorkerService


class Launchd(ServiceManager):
    """The launchd of one user: workers run as that user while the user is logged in."""

    name: ClassVar[ManagerName] = "launchd"

    def user(self, wanted: str | None) -> str:
        """Return the user that installs the service: no other is possible."""
        return current_user_only(self.name, wanted)

    def unit_folder(self) -> Path:
        """Return the folder in which launchd looks for units."""
        return Path("~/Library/LaunchAgents").expanduser()

    def unit_name(self, service: str) -> str:
        """Return the file name of a unit."""
        return f"{label_of(service)}.plist"

    def render(self, service: WorkerService) -> str:
        """Return the property list."""
        home = Path.home()
        unit = plistlib.loads(unit_template("launchd/com.agentbus.worker.plist").encode())
        unit |= {
            "Label": label_of(service.name),
            "ProgramArguments": service.command,
            "WorkingDirectory": str(home),
            "EnvironmentVariables": {"PATH": service.path("/opt/homebrew/bin")},
            "ExitTimeOut": service.stop_s,
            "StandardErrorPath": str(home / ".agentbus" / f"{service.name}.stderr.log"),
        }
        return plistlib.dumps(unit, sort_keys=False).decode()

    def start_commands(self, unit: Path) -> Commands:
        """Return the commands that load a unit and start it anew."""
        # launchd does not load a label that is loaded: an earlier unit is taken out first.
        return [*self.stop_commands(unit), ["launchctl", "bootstrap", _domain(), str(unit)]]

    def stop_commands(self, unit: Path) -> Commands:
        """Return the command that unloads a unit, if it is loaded."""
        target = _target(unit)
        loaded = run(["launchctl", "print", target]).returncode == 0
        return [["launchctl", "bootout", target]] if loaded else []

    def forget_commands(self) -> Commands:
        """Return nothing: launchd has forgotten a unit once it was booted out."""
        return []

    def state(self, unit: Path) -> tuple[str, bool]:
        """Return the state as launchctl tells it."""
        listed = run(["launchctl", "print", _target(unit)]).stdout
        states = [line.partition("=")[2].strip() for line in listed.splitlines() if "state =" in line]
        state = states[0] if states else "not loaded"
        return state, state == "running"

    def hints(self, service: WorkerService) -> list[str]:
        """Say where the log is."""
        return [f"its log: {service.config.log.dir}"]


def label_of(service: str) -> str:
    """Return the label under which launchd knows a service."""
    return f"com.agentbus.{service.removeprefix('agentbus-')}"


def _domain() -> str:
    return f"gui/{os.getuid()}"


def _target(unit: Path) -> str:
    return f"{_domain()}/{unit.stem}"  # a unit is named after its label

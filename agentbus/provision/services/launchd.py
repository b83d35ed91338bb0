"""Runs workers as agents of launchd, the service manager of macOS."""

import os
import plistlib
from pathlib import Path
from typing import ClassVar

from agentbus.config.home import in_home
from agentbus.provision.services.manager import Commands, ManagerName, ServiceManager, current_user_only
from agentbus.provision.services.manager_command import run
from agentbus.provision.services.unit_templates import unit_template
from agentbus.provision.services.worker_service import WorkerService


class Launchd(ServiceManager):
    """The launchd of one user: workers run as that user while the user is logged in."""

    name: ClassVar[ManagerName] = "launchd"

    def user(self, wanted: str | None) -> str:
        """Return the user that installs the service; launchd runs its agents as no other."""
        return current_user_only(self.name, wanted)

    def unit_folder(self) -> Path:
        """Return the folder in which launchd looks for units."""
        return in_home("~/Library/LaunchAgents")

    def unit_name(self, service: str) -> str:
        """Return the file name of a unit."""
        return f"{label_of(service)}.plist"

    def render(self, service: WorkerService) -> str:
        """Return the property list."""
        home = in_home("~")
        unit = plistlib.loads(unit_template("launchd/com.agentbus.worker.plist").encode())
        unit |= {
            "Label": label_of(service.name),
            "ProgramArguments": service.command,
            "WorkingDirectory": str(service.folder or home),
            "EnvironmentVariables": {"PATH": service.path("/opt/homebrew/bin")},
            "ExitTimeOut": service.stop_s,
            "StandardErrorPath": str(home / ".agentbus" / f"{service.name}.stderr.log"),
        }
        return plistlib.dumps(unit, sort_keys=False).decode()

    def folder_in(self, text: str) -> str | None:
        """Return the folder in which the service of a unit starts."""
        try:
            return plistlib.loads(text.encode()).get("WorkingDirectory")
        except (ValueError, plistlib.InvalidFileException):
            return None

    def start_commands(self, unit: Path) -> Commands:
        """Return the commands that load a unit and restart it."""
        # launchd refuses a label that is loaded, so an earlier unit is unloaded first.
        return [*self.stop_commands(unit), ["launchctl", "bootstrap", _domain(), str(unit)]]

    def stop_commands(self, unit: Path) -> Commands:
        """Return the command that unloads a unit, if it is loaded."""
        target = _target(unit)
        loaded = run(["launchctl", "print", target]).returncode == 0
        return [["launchctl", "bootout", target]] if loaded else []

    def reload_commands(self) -> Commands:
        """Return nothing: `launchctl bootout` unloads a unit completely."""
        return []

    def state(self, unit: Path) -> tuple[str, bool]:
        """Return the state that launchctl reports."""
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
    return f"{_domain()}/{unit.stem}"  # the file name of a unit is its label

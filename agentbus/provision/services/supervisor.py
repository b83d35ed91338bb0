"""Runs workers as programs of supervisord, on machines without systemd and in containers."""

from pathlib import Path
from typing import ClassVar

from agentbus.provision.services.manager import Commands, ManagerName, ServiceManager
from agentbus.provision.services.manager_command import run
from agentbus.provision.services.unit_access import cannot_be_read
from agentbus.provision.services.unit_templates import unit_template, with_keys
from agentbus.provision.services.worker_service import WorkerService, home_of


class Supervisor(ServiceManager):
    """supervisord: workers run as a user of their own."""

    name: ClassVar[ManagerName] = "supervisor"

    def unit_folder(self) -> Path:
        """Return the folder in which supervisord looks for units."""
        return Path("/etc/supervisor/conf.d")

    def unit_name(self, service: str) -> str:
        """Return the file name of a unit."""
        return f"{service}.conf"

    def render(self, service: WorkerService) -> str:
        """Return the section of a program."""
        template = unit_template("supervisor/agentbus-worker.conf")
        text = template.replace("program:agentbus-worker", f"program:{service.name}")
        home = home_of(service.user)
        keys = {
            "command": " ".join(service.command),
            "user": service.user,
            "directory": str(service.folder or home),
            "environment": f'HOME="{home}",USER="{service.user}",PATH="{service.path()}"',
            "stopwaitsecs": str(service.stop_s),
        }
        return with_keys(text, keys)

    def start_commands(self, unit: Path) -> Commands:
        """Return the commands that load a unit and restart it."""
        return [["supervisorctl", "reread"], ["supervisorctl", "update", unit.stem]]

    def stop_commands(self, unit: Path) -> Commands:
        """Return the command that stops a service in order."""
        return [["supervisorctl", "stop", unit.stem]]

    def reload_commands(self) -> Commands:
        """Return the commands that make supervisord notice that a unit was removed."""
        return [["supervisorctl", "reread"], ["supervisorctl", "update"]]

    def state(self, unit: Path) -> tuple[str, bool]:
        """Return the state that supervisorctl reports."""
        words = run(["supervisorctl", "status", unit.stem]).stdout.split()
        state = words[1].lower() if len(words) > 1 else "unknown"
        return state, state in ("running", "starting")

    def hints(self, service: WorkerService) -> list[str]:
        """Say where the log is."""
        return [f"its log: supervisorctl tail -f {service.name} stderr"]

    def warnings(self, service: WorkerService) -> list[str]:
        """Say what the user of the service cannot read."""
        return cannot_be_read(service, private_tmp=False)

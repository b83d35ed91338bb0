"""Chooses the service manager: by its name, or the one of this machine."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agentbus.errors import ServiceError
from agentbus.provision.services.launchd import Launchd
from agentbus.provision.services.manager import ManagerName, ServiceManager
from agentbus.provision.services.supervisor import Supervisor
from agentbus.provision.services.systemd import Systemd, SystemdUser

MANAGERS: Final[Mapping[ManagerName, ServiceManager]] = {
    manager.name: manager for manager in (Systemd(), SystemdUser(), Launchd(), Supervisor())
}


def service_manager(name: ManagerName | None = None) -> ServiceManager:
    """Return a service manager by its name, or without a name the one for this machine and user.

    Raises:
        ServiceError: no name was given, and this machine has no service manager that is supported.
    """
    return MANAGERS[name or _default()]


def _default() -> ManagerName:
    if sys.platform == "darwin":
        return "launchd"
    if sys.platform == "win32":
        raise ServiceError("workers run on Linux and macOS; on Windows, install this in WSL")
    if Path("/run/systemd/system").is_dir():
        return "systemd" if os.geteuid() == 0 else "systemd-user"
    if shutil.which("supervisorctl"):
        return "supervisor"
    raise ServiceError("neither systemd nor supervisor runs on this machine; to see a unit, use --manager … --print")

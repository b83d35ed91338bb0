"""Makes `agentbus notify` a service of this user, with the user manager of systemd or with launchd."""

import plistlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from agentbus.config.home import in_home
from agentbus.errors import ConfigError, ServiceError
from agentbus.provision.services.launchd import Launchd, label_of
from agentbus.provision.services.systemd import SystemdUser
from agentbus.provision.services.unit_templates import unit_template, with_keys
from agentbus.provision.services.worker_service import program_of

if TYPE_CHECKING:
    from agentbus.provision.services.manager import ServiceManager

UNIT: Final = "agentbus-notify"
Manager = Literal["systemd-user", "launchd"]
_SYSTEM_PATH: Final = ("/usr/local/bin", "/usr/bin", "/bin")
_QUOTED: Final = {"\\": "\\\\", '"': '\\"', "%": "%%", "$": "$$"}


@dataclass(frozen=True, slots=True)
class Installed:
    """A service that runs.

    Attributes:
        unit: where its unit lies.
        hints: where its log is, when it ends, and how it is removed.
    """

    unit: Path
    hints: tuple[str, ...]


def manager_of_this_machine() -> Manager:
    """Return what runs services of users here."""
    return "launchd" if sys.platform == "darwin" else "systemd-user"


def unit_text(arguments: Sequence[str], command: str | None, manager: Manager = "systemd-user") -> str:
    """Return the unit that runs `agentbus` with these arguments.

    Args:
        command: the program that is run for each event: its folder is put on the PATH.

    Raises:
        ConfigError: an argument has a line end in it.
    """
    if any(not word.isprintable() for word in arguments):
        raise ConfigError("an argument has characters that a unit cannot hold")
    return _property_list(arguments, command) if manager == "launchd" else _systemd_unit(arguments, command)


def _systemd_unit(arguments: Sequence[str], command: str | None) -> str:
    keys = {
        "Environment": _word(f"PATH={_path(command)}"),
        "ExecStart": " ".join([_word(str(program_of())), *map(_word, arguments)]),
    }
    return with_keys(unit_template("systemd/user/agentbus-notify.service"), keys)


def _property_list(arguments: Sequence[str], command: str | None) -> str:
    home = in_home("~")
    unit = plistlib.loads(unit_template("launchd/com.agentbus.notify.plist").encode())
    unit |= {
        "Label": label_of(UNIT),
        "ProgramArguments": [str(program_of()), *arguments],
        "WorkingDirectory": str(home),
        "EnvironmentVariables": {"PATH": _path(command, "/opt/homebrew/bin")},
        "StandardErrorPath": str(_launchd_log()),
    }
    return plistlib.dumps(unit, sort_keys=False).decode()


def _path(command: str | None, *more: str) -> str:
    found = shutil.which(command) if command else None
    own = [str(program_of().parent), *([str(Path(found).absolute().parent)] if found else [])]
    return ":".join(dict.fromkeys([*own, *more, *_SYSTEM_PATH]))


def _launchd_log() -> Path:
    return in_home("~") / ".agentbus" / "notify.log"


def install(text: str, manager: Manager) -> Installed:
    """Write the unit and start it, or start it anew.

    Raises:
        ServiceError: it cannot be written, or the manager is not there or refuses.
    """
    chosen: ServiceManager = Launchd() if manager == "launchd" else SystemdUser()
    unit = chosen.unit_file(UNIT)
    chosen.write(unit, text)
    try:
        chosen.start(unit)
    except ServiceError as error:
        raise ServiceError(f"{unit} was written and not started: {error}") from None
    return Installed(unit, _hints(unit, manager))


def _hints(unit: Path, manager: Manager) -> tuple[str, ...]:
    if manager == "launchd":
        return (f"its log: {_launchd_log()}", f"remove it with: launchctl bootout gui/$UID/{unit.stem} && rm {unit}")
    return (
        f"its log: journalctl --user -u {UNIT} -f",
        "it ends when you log out, unless you run: loginctl enable-linger",
        f"remove it with: systemctl --user disable --now {UNIT}",
    )


def _word(text: str) -> str:
    """Quote a word as units of systemd have it; a path that needs none stays as it is."""
    quoted = "".join(_QUOTED.get(char, char) for char in text)
    return quoted if quoted == text and text and " " not in text and "'" not in text else f'"{quoted}"'

"""Makes `agentbus notify` a service of this user, with the user manager of systemd."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agentbus.errors import ConfigError, ServiceError
from agentbus.provision.services.systemd import SystemdUser
from agentbus.provision.services.unit_templates import unit_template, with_keys
from agentbus.provision.services.worker_service import program_of

UNIT: Final = "agentbus-notify"
_SYSTEM_PATH: Final = ("/usr/local/bin", "/usr/bin", "/bin")
_QUOTED: Final = {"\\": "\\\\", '"': '\\"', "%": "%%", "$": "$$"}


def unit_text(arguments: Sequence[str], command: str | None) -> str:
    """Return the unit that runs `agentbus` with these arguments.

    Args:
        command: the program that is run for each event: its folder is put on the PATH.

    Raises:
        ConfigError: an argument has a line end in it.
    """
    program = program_of()
    if any(not word.isprintable() for word in arguments):
        raise ConfigError("an argument has characters that a unit of systemd cannot hold")
    found = shutil.which(command) if command else None
    folders = [str(program.parent), *([str(Path(found).absolute().parent)] if found else []), *_SYSTEM_PATH]
    keys = {
        "Environment": _word(f"PATH={':'.join(dict.fromkeys(folders))}"),
        "ExecStart": " ".join([_word(str(program)), *map(_word, arguments)]),
    }
    return with_keys(unit_template("systemd/user/agentbus-notify.service"), keys)


def install(text: str) -> Path:
    """Write the unit and start it, or start it anew; returns where it lies.

    Raises:
        ServiceError: it cannot be written, or systemd is not there or refuses.
    """
    manager = SystemdUser()
    unit = manager.unit_file(UNIT)
    manager.write(unit, text)
    try:
        manager.start(unit)
    except ServiceError as error:
        raise ServiceError(f"{unit} was written and not started: {error}") from None
    return unit


def _word(text: str) -> str:
    """Quote a word as units of systemd have it; a path that needs none stays as it is."""
    quoted = "".join(_QUOTED.get(char, char) for char in text)
    return quoted if quoted == text and text and " " not in text and "'" not in text else f'"{quoted}"'

"""Describes a worker as a service of this machine: its configuration, program, user, PATH and stop time."""

import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Final

from agentbus.config.schema import SECRET_FILES
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import ConfigError

NAME_PREFIX: Final = "agentbus-worker-"
# Time for settling, writing the outbox and disconnecting, after the drain and the end of the commands.
_STOP_MARGIN_S: Final = 20
_SERVICE_HOME: Final = Path("/var/lib/agentbus")
_SYSTEM_PATH: Final = ("/usr/local/bin", "/usr/bin", "/bin")
_UNSAFE: Final = re.compile(r"[\s\"'\\%$;,#]")


@dataclass(frozen=True, slots=True)
class WorkerService:
    """A worker, and what a service manager needs to run it.

    Attributes:
        folder: where the worker starts, and with it the agent command unless its configuration says where; None for the
            home of the user.
    """

    config: WorkerConfig
    config_file: Path
    program: Path
    user: str
    folder: Path | None = None

    @property
    def name(self) -> str:
        """The name of the service: one for each agent of a machine."""
        return f"{NAME_PREFIX}{self.config.agent.id}"

    @property
    def command(self) -> list[str]:
        """The command that the service manager runs."""
        return [str(self.program), "worker", "run", "--config", str(self.config_file)]

    @property
    def stop_s(self) -> int:
        """How long a graceful stop may take: the drain, then the end of the commands and of their children."""
        worker = self.config.worker
        return ceil(worker.drain_timeout_seconds + 2 * worker.kill_grace_seconds) + _STOP_MARGIN_S

    def path(self, *more: str) -> str:
        """Return a PATH with agentbus and the agent command on it: service managers set a short one."""
        found = shutil.which(self.config.agent.chat_cmd[0])
        folders = [
            str(self.program.parent),
            *([str(Path(found).absolute().parent)] if found else []),
            *more,
            *_SYSTEM_PATH,
        ]
        return ":".join(dict.fromkeys(folders))


def make_worker_service(
    config: WorkerConfig, config_file: Path, user: str, folder: Path | None = None
) -> WorkerService:
    """Return the service of a configuration, run by the agentbus that runs now.

    Raises:
        ConfigError: a path has a character that needs quoting, which differs from manager to manager; or one in the
            configuration is relative, and the service would look for it in another folder.
    """
    folder = None if folder is None else folder.absolute()
    service = WorkerService(config, config_file.absolute(), program_of(), user, folder)
    for path in (service.program, service.config_file, config.worker.state_dir, config.log.dir, folder):
        if path is not None and (unsafe := _UNSAFE.search(str(path))):
            raise ConfigError(f"{path} has {unsafe.group()!r} in it; move it to a path without blanks, quotes or %")
    for key, path in _paths(config):
        if not path.is_absolute():
            raise ConfigError(
                f"{key} is {str(path)!r}, and a service does not start in this folder; write the whole path"
            )
    return service


def program_of() -> Path:
    """Return the `agentbus` of the installation that runs now.

    Raises:
        ConfigError: there is none.
    """
    suffix = ".exe" if sys.platform == "win32" else ""
    program = Path(sysconfig.get_path("scripts")) / f"agentbus{suffix}"
    if program.is_file():
        return program
    named = shutil.which("agentbus")
    if named is None:
        raise ConfigError(f"there is no agentbus in {program.parent} or on PATH; install agentbus-mcp first")
    return Path(named)


def _paths(config: WorkerConfig) -> Iterator[tuple[str, Path]]:
    """Yield the paths of a configuration that begin at the folder in which the worker starts, unless they are whole."""
    program = Path(config.agent.chat_cmd[0])
    if program.name != config.agent.chat_cmd[0]:  # a name is looked for on the PATH
        yield "chat_cmd", program
    nats = config.nats
    files = {key: getattr(nats, key) for key in (*SECRET_FILES, "ca_file", "cert_file", "key_file")}
    folders = {
        "folder": config.agent.folder,
        "state_dir": config.worker.state_dir,
        "workdir": config.worker.workdir,
        "dir in [log]": config.log.dir,
    }
    yield from ((key, path) for key, path in {**files, **folders}.items() if path is not None)


def home_of(user: str) -> Path:
    """Return the home of a user; for a user that does not exist yet, the home in the instructions of the unit."""
    import pwd  # noqa: PLC0415  # POSIX only, like the service managers

    try:
        return Path(pwd.getpwnam(user).pw_dir)
    except KeyError:
        return _SERVICE_HOME

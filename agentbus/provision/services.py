"""A worker as a service: the unit for each service manager, made from the templates that come with agentbus.

Here is only text; `agentbus.cli.machine.service` writes it and talks to the service managers.
"""

import os
import plistlib
import re
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Final, Literal

from agentbus.config.schema import WorkerConfig
from agentbus.errors import ConfigError
from agentbus.provision.assets import asset

Manager = Literal["systemd", "systemd-user", "launchd", "supervisor"]

MANAGERS: Final[tuple[Manager, ...]] = ("systemd", "systemd-user", "launchd", "supervisor")
_MARGIN_S: Final = 20
_SERVICE_HOME: Final = Path("/var/lib/agentbus")
_HIDDEN: Final = ("/home", "/root", "/run/user")
"""What ProtectHome= hides."""
_SYSTEM_PATH: Final = ("/usr/local/bin", "/usr/bin", "/bin")
_UNSAFE: Final = re.compile(r"[\s\"'\\%$;,#]")


@dataclass(frozen=True, slots=True)
class Worker:
    """The worker that becomes a service: its configuration and the file that it is in, the program, and the user."""

    config: WorkerConfig
    config_file: Path
    program: Path
    user: str

    @property
    def name(self) -> str:
        """The name of the service: one for each agent of a machine."""
        return f"agentbus-worker-{self.config.agent.id}"

    @property
    def command(self) -> list[str]:
        """What the service manager runs."""
        return [str(self.program), "worker", "run", "--config", str(self.config_file)]

    @property
    def stop_s(self) -> int:
        """How long an orderly end may take: the drain, the end of the commands and of what they leave behind."""
        worker = self.config.worker
        return ceil(worker.drain_timeout_seconds + 2 * worker.kill_grace_seconds) + _MARGIN_S

    def path(self, *more: str) -> str:
        """A PATH on which agentbus and the agent command are found; service managers give hardly any."""
        found = shutil.which(self.config.agent.chat_cmd[0])
        folders = [str(self.program.parent), *([str(Path(found).parent)] if found else []), *more, *_SYSTEM_PATH]
        return ":".join(dict.fromkeys(folders))


def make_worker(config: WorkerConfig, config_file: Path, user: str) -> Worker:
    """The worker of a configuration, run by the agentbus that runs now.

    Raises:
        ConfigError: a path has a character that units would have to quote, each manager in its own way.
    """
    suffix = ".exe" if sys.platform == "win32" else ""
    program = Path(sysconfig.get_path("scripts")) / f"agentbus{suffix}"
    if not program.is_file():
        named = shutil.which("agentbus")
        if named is None:
            raise ConfigError(f"there is no agentbus in {program.parent} or on PATH; install agentbus-mcp first")
        program = Path(named)
    worker = Worker(config, config_file.absolute(), program, user)
    for path in (worker.program, worker.config_file, config.worker.state_dir, config.log.dir):
        if unsafe := _UNSAFE.search(str(path)):
            raise ConfigError(f"{path} has {unsafe.group()!r} in it; move it to a path without blanks, quotes or %")
    return worker


def file_of(manager: Manager, name: str, folder: Path | None = None) -> Path:
    """Where the unit of a service belongs, or its place in a folder of one's own choice."""
    folders: dict[Manager, Path] = {
        "systemd": Path("/etc/systemd/system"),
        "systemd-user": Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "systemd" / "user",
        "launchd": Path("~/Library/LaunchAgents").expanduser(),
        "supervisor": Path("/etc/supervisor/conf.d"),
    }
    names: dict[Manager, str] = {
        "systemd": f"{name}.service",
        "systemd-user": f"{name}.service",
        "launchd": f"{label_of(name)}.plist",
        "supervisor": f"{name}.conf",
    }
    return (folder or folders[manager]) / names[manager]


def label_of(name: str) -> str:
    """The label of a service for launchd."""
    return f"com.agentbus.{name.removeprefix('agentbus-')}"


def render(manager: Manager, worker: Worker) -> str:
    """The unit of a worker, from the packaged template."""
    makers = {
        "systemd": _systemd,
        "systemd-user": _systemd_user,
        "launchd": _launchd,
        "supervisor": _supervisor,
    }
    return makers[manager](worker)


def _systemd(worker: Worker) -> str:
    home = home_of(worker.user)
    own = [home, worker.config.worker.state_dir, worker.config.log.dir, worker.config.worker.workdir]
    paths = [_as_user(path, home) for path in own if path is not None]
    writable = sorted({str(path) for path in paths if path == home or not path.is_relative_to(home)})
    keys = {
        **_systemd_common(worker),
        "User": worker.user,
        "WorkingDirectory": str(home),
        # The dash: a folder that is not there yet is no reason not to start.
        "ReadWritePaths": " ".join(f"-{path}" for path in writable),
    }
    if any(path.startswith(_HIDDEN) for path in writable):
        keys["ProtectHome"] = "no"
    elif str(worker.program).startswith(_HIDDEN) or str(worker.config_file).startswith(_HIDDEN):
        keys["ProtectHome"] = "read-only"
    return _with_keys(_template("systemd/agentbus-worker.service"), keys, after="ProtectSystem")


def _systemd_user(worker: Worker) -> str:
    return _with_keys(_template("systemd/user/agentbus-worker.service"), _systemd_common(worker))


def _systemd_common(worker: Worker) -> dict[str, str]:
    return {
        "Description": f"agentbus worker of the agent {worker.config.agent.id}",
        "Environment": f"PATH={worker.path()}",
        "ExecStart": " ".join(worker.command),
        "TimeoutStopSec": str(worker.stop_s),
    }


def _supervisor(worker: Worker) -> str:
    text = _template("supervisor/agentbus-worker.conf").replace("program:agentbus-worker", f"program:{worker.name}")
    home = home_of(worker.user)
    keys = {
        "command": " ".join(worker.command),
        "user": worker.user,
        "directory": str(home),
        "environment": f'HOME="{home}",USER="{worker.user}",PATH="{worker.path()}"',
        "stopwaitsecs": str(worker.stop_s),
    }
    return _with_keys(text, keys)


def _launchd(worker: Worker) -> str:
    home = Path.home()
    unit = plistlib.loads(_template("launchd/com.agentbus.worker.plist").encode())
    unit |= {
        "Label": label_of(worker.name),
        "ProgramArguments": worker.command,
        "WorkingDirectory": str(home),
        "EnvironmentVariables": {"PATH": worker.path("/opt/homebrew/bin")},
        "ExitTimeOut": worker.stop_s,
        "StandardErrorPath": str(home / ".agentbus" / f"{worker.name}.stderr.log"),
    }
    return plistlib.dumps(unit, sort_keys=False).decode()


def _template(name: str) -> str:
    """A shipped unit without the comments at its head, which say how to install it by hand."""
    text = asset(f"deploy/{name}").read_text(encoding="utf-8")
    return text if text.startswith("<?xml") else text[text.index("\n[") + 1 :]


def _with_keys(text: str, keys: Mapping[str, str], after: str = "") -> str:
    """A unit with the values of keys replaced, each in its line; a new one comes behind the line of the key `after`."""
    for key, value in keys.items():
        line = f"{key}={value}"
        text, count = re.subn(rf"(?m)^{key}=.*$", lambda _, line=line: line, text)
        if not count:
            text = re.sub(rf"(?m)^{after}=.*$", lambda found, line=line: f"{found.group()}\n{line}", text)
    return text


def home_of(user: str) -> Path:
    """The home of a user; of one that is yet to be made, the one that the instructions give it."""
    import pwd  # noqa: PLC0415  # POSIX only, as services of these kinds are

    try:
        return Path(pwd.getpwnam(user).pw_dir)
    except KeyError:
        return _SERVICE_HOME


def _as_user(path: Path, home: Path) -> Path:
    """A path of the configuration as the service's user has it: `~` was expanded for whoever installs the service."""
    return home / path.relative_to(Path.home()) if path.is_relative_to(Path.home()) else path

"""`agentbus service`: workers as services of systemd, launchd or supervisor."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from agentbus.cli.options import AgentId
from agentbus.cli.output import json_line, on_terminal, remark, table
from agentbus.errors import AgentBusError
from agentbus.protocol import subjects

if TYPE_CHECKING:
    from agentbus.provision.services import Manager, Worker

_MANAGERS: Final = ("systemd", "systemd-user", "launchd", "supervisor")
_TIMEOUT_S: Final = 180
"""Of a call of a service manager, which waits for an orderly end of the worker."""


class ServiceError(AgentBusError):
    """A service manager is not there, or refuses."""


def _manager_options(command: click.decorators.FC) -> click.decorators.FC:
    manager = click.option(
        "--manager",
        type=click.Choice(_MANAGERS),
        help="Default: launchd on macOS, systemd for root, systemd-user for others, supervisor where there is no "
        "systemd.",
    )
    folder = click.option(
        "--folder",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where the units of this manager lie, if not in the usual place.",
    )
    return manager(folder(command))


@click.group()
def service() -> None:
    """Run a worker as a service of this machine."""


@service.command(
    short_help="Make a service of a worker and start it.",
    epilog="""\b
Examples:
  agentbus service install --config ~/.agentbus/config.toml
  sudo agentbus service install --config /etc/agentbus/code.toml --user agentbus
  agentbus service install --config code.toml --manager supervisor --print""",
)
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration of the worker; default: where `agentbus worker run` looks.",
)
@_manager_options
@click.option("--user", help="Whom the worker runs as, for systemd and supervisor. [default: agentbus]")
@click.option("--print", "print_only", is_flag=True, help="Print the unit and change nothing.")
@click.option("--no-start", is_flag=True, help="Write the unit, and print the commands that start it.")
def install(
    config_file: Path | None,
    manager: "Manager | None",
    folder: Path | None,
    user: str | None,
    *,
    print_only: bool,
    no_start: bool,
) -> None:
    """Make a service of a worker, with a stop time that fits its drain, and start it.

    Installing again updates the unit and starts the worker anew.
    """
    from agentbus.config.loading import load_worker, worker_files  # noqa: PLC0415
    from agentbus.provision.services import file_of, make_worker, render  # noqa: PLC0415

    config, warnings = load_worker(config_file)
    for warning in warnings:
        remark(f"warning: {warning}")
    found = config_file or next(file for file in worker_files() if file.is_file())
    manager = manager or _default_manager()
    worker = make_worker(config, found, _user(manager, user))
    unit = render(manager, worker)
    if print_only:
        click.echo(unit, nl=False)
        return
    path = file_of(manager, worker.name, folder)
    changed = not path.exists() or path.read_text(encoding="utf-8") != unit
    _write(path, unit)
    remark(f"{path}: {'written' if changed else 'unchanged'}")
    steps = _start_steps(manager, worker.name, path)
    if no_start:
        remark("start it with:\n" + "\n".join(f"  {' '.join(step)}" for step in steps))
    else:
        for step in steps:
            _call(step)
    for hint in _hints(manager, worker):
        remark(hint)
    if not no_start:
        _show([_status(manager, worker.name, path)])


@service.command(
    short_help="Stop the service of an agent's worker and remove it.",
    epilog="""\b
Example:
  agentbus service uninstall code""",
)
@click.argument("agent", metavar="ID", type=AgentId())
@_manager_options
def uninstall(agent: str, manager: "Manager | None", folder: Path | None) -> None:
    """Stop the worker of the agent ID in order, and remove its service. Its configuration and its log stay."""
    from agentbus.provision.services import file_of  # noqa: PLC0415

    manager = manager or _default_manager()
    name = f"agentbus-worker-{agent}"
    path = file_of(manager, name, folder)
    if not path.exists():
        raise ServiceError(f"{manager} has no service of the agent {agent} here: {path} does not exist")
    for step in _stop_steps(manager, name, path):
        _call(step)
    try:
        path.unlink()
    except OSError as error:
        raise ServiceError(f"{path} cannot be removed: {error.strerror or error}{_sudo(error)}") from None
    for step in _after_removal(manager):
        _call(step)
    remark(f"{path}: removed")


@service.command(
    short_help="Show the services of this machine's workers.",
    epilog="""\b
Examples:
  agentbus service status
  agentbus service status code""",
)
@click.argument("agent", metavar="[ID]", type=AgentId(), required=False)
@_manager_options
def status(agent: str | None, manager: "Manager | None", folder: Path | None) -> None:
    """Show the worker services of this machine, or that of the agent ID. Exit code 1 if one does not run."""
    from agentbus.provision.services import file_of  # noqa: PLC0415

    manager = manager or _default_manager()
    some = file_of(manager, "agentbus-worker-*" if agent is None else f"agentbus-worker-{agent}", folder)
    files = sorted(some.parent.glob(some.name))
    if not files:
        raise ServiceError(f"{manager} has no such service here ({some}); make one with: agentbus service install")
    found = [_status(manager, _name_of(path), path) for path in files]
    _show(found)
    if any(not row["running"] for row in found):
        sys.exit(1)


# -- what the managers want -------------------------------------------------------------------------------------


def _default_manager() -> "Manager":
    if sys.platform == "darwin":
        return "launchd"
    if sys.platform == "win32":
        raise ServiceError("workers run on Linux and macOS; on Windows, install this in WSL")
    if not Path("/run/systemd/system").is_dir():
        if shutil.which("supervisorctl"):
            return "supervisor"
        raise ServiceError(
            "neither systemd nor supervisor runs on this machine; see what there would be with --manager … --print"
        )
    return "systemd" if os.geteuid() == 0 else "systemd-user"


def _user(manager: "Manager", user: str | None) -> str:
    import getpass  # noqa: PLC0415

    me = getpass.getuser()
    if manager in ("launchd", "systemd-user"):
        if user not in (None, me):
            raise ServiceError(f"a service of {manager} runs as the user that installs it, which is {me}")
        return me
    return user or "agentbus"


def _start_steps(manager: "Manager", name: str, path: Path) -> list[list[str]]:
    from agentbus.provision.services import label_of  # noqa: PLC0415

    match manager:
        case "systemd" | "systemd-user":
            systemctl = _systemctl(manager)
            return [[*systemctl, "daemon-reload"], [*systemctl, "enable", name], [*systemctl, "restart", name]]
        case "launchd":
            domain = f"gui/{os.getuid()}"
            loaded = _run(["launchctl", "print", f"{domain}/{label_of(name)}"]).returncode == 0
            stop = [["launchctl", "bootout", f"{domain}/{label_of(name)}"]] if loaded else []
            return [*stop, ["launchctl", "bootstrap", domain, str(path)]]
        case "supervisor":
            return [["supervisorctl", "reread"], ["supervisorctl", "update", name]]


def _stop_steps(manager: "Manager", name: str, path: Path) -> list[list[str]]:
    from agentbus.provision.services import label_of  # noqa: PLC0415

    match manager:
        case "systemd" | "systemd-user":
            return [[*_systemctl(manager), "disable", "--now", path.name]]
        case "launchd":
            target = f"gui/{os.getuid()}/{label_of(name)}"
            return [["launchctl", "bootout", target]] if _run(["launchctl", "print", target]).returncode == 0 else []
        case "supervisor":
            return [["supervisorctl", "stop", name]]


def _after_removal(manager: "Manager") -> list[list[str]]:
    match manager:
        case "systemd" | "systemd-user":
            return [[*_systemctl(manager), "daemon-reload"]]
        case "launchd":
            return []
        case "supervisor":
            return [["supervisorctl", "reread"], ["supervisorctl", "update"]]


def _status(manager: "Manager", name: str, path: Path) -> dict[str, object]:
    from agentbus.provision.services import label_of  # noqa: PLC0415

    match manager:
        case "systemd" | "systemd-user":
            said = _run([*_systemctl(manager), "is-active", name]).stdout.strip() or "unknown"
            running = said == "active"
        case "launchd":
            listed = _run(["launchctl", "print", f"gui/{os.getuid()}/{label_of(name)}"])
            states = [line.partition("=")[2].strip() for line in listed.stdout.splitlines() if "state =" in line]
            said = states[0] if states else "not loaded"
            running = said == "running"
        case "supervisor":
            words = _run(["supervisorctl", "status", name]).stdout.split()
            said = words[1].lower() if len(words) > 1 else "unknown"
            running = said in ("running", "starting")
    agent = name.removeprefix("agentbus-worker-")
    return {"agent": agent, "manager": manager, "state": said, "running": running, "file": str(path)}


def _hints(manager: "Manager", worker: "Worker") -> list[str]:
    name = worker.name
    match manager:
        case "systemd":
            return [f"its log: journalctl -u {name} -f"]
        case "systemd-user":
            lingering = Path("/var/lib/systemd/linger", worker.user).exists()
            linger = [] if lingering else ["it ends when you log out, unless you run: loginctl enable-linger"]
            return [f"its log: journalctl --user -u {name} -f", *linger]
        case "launchd":
            return [f"its log: {worker.config.log.dir}"]
        case "supervisor":
            return [f"its log: supervisorctl tail -f {name} stderr"]


def _systemctl(manager: "Manager") -> list[str]:
    return ["systemctl", "--user"] if manager == "systemd-user" else ["systemctl"]


def _name_of(path: Path) -> str:
    """The name of the service that a unit belongs to."""
    agent = path.stem.removeprefix("com.agentbus.").removeprefix("agentbus-").removeprefix("worker-")
    return f"agentbus-worker-{subjects.agent_id(agent)}"


# -- doing it ---------------------------------------------------------------------------------------------------


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_text(text, encoding="utf-8")
        part.chmod(0o644)
        part.replace(path)
    except OSError as error:
        raise ServiceError(f"{path} cannot be written: {error.strerror or error}{_sudo(error)}") from None


def _sudo(error: OSError) -> str:
    return "; run this with sudo, or take --manager systemd-user" if isinstance(error, PermissionError) else ""


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise ServiceError(f"{command[0]} is not on this machine; choose another with --manager") from None
    except subprocess.TimeoutExpired:
        raise ServiceError(f"{' '.join(command)} has not ended within {_TIMEOUT_S} s") from None


def _call(command: Sequence[str]) -> None:
    done = _run(command)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise ServiceError(f"{' '.join(command)}: {said[:500]}")


def _show(rows: Sequence[dict[str, object]]) -> None:
    if on_terminal():
        table(
            ["agent", "manager", "state", "file"],
            [[str(row[key]) for key in ("agent", "manager", "state", "file")] for row in rows],
        )
        return
    for row in rows:
        json_line(row)

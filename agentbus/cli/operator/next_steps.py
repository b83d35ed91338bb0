"""Names the commands that an operator runs after a bus was made or changed."""

import itertools
import shlex
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentbus.cli import lazy
from agentbus.cli.output import line
from agentbus.errors import ConfigError, ServerBinaryError
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.protocol.subjects import COORDINATOR

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus.provision.bundle import Bundle
    from agentbus.provision.bus_folder.folder import BusFolder, Kind


def setup_command(bus: "BusFolder", agents: Sequence[str]) -> str:
    """Return the command that makes what agents need on the bus."""
    words = ["agentbus", "setup", "--config", str(bus.administrator), *(["--replicas", "3"] if bus.clustered else [])]
    return shlex.join([*words, *(word for agent in agents for word in ("--agent", agent))])


def bundle_command(bus: "BusFolder", kind: "Kind", name: str) -> str:
    """Return the command that writes the bundle of a party."""
    return shlex.join(["agentbus", kind, "bundle", name, "--bus", str(bus.path)])


def write_bundle(made: "Bundle", output: "Path | None") -> None:
    """Write a bundle into a file, by default that of its party's name, and name the commands that use it.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    path = output or lazy.pathlib.Path(f"{made.id}.bundle")
    if path.exists():
        raise ConfigError(
            f"{path} exists already; it was left as it is, and may hold an earlier credential. Delete it, or name "
            f"another file: --output {free_bundle_name(made.id)}"
        )
    lazy.bundle.write_bundle(path, made)
    kind = "worker" if made.role == "worker" else "coordinator"
    line(f"wrote {path}; it holds a secret. On the other machine:\n  {join_command(kind, path.name)}")
    line(f"or, if it has joined before:\n  {join_command(kind, path.name)} --renew")
    if made.may_task:
        line(f"and, to give tasks as {made.id}:\n  {join_command('coordinator', path.name)}")
    line("then delete it, here and there")


def join_command(kind: str, bundle: str) -> str:
    """Return the command with which a machine joins by a bundle, as a worker or as a coordinator."""
    return shlex.join(["agentbus", kind, "init", "--bundle", bundle])


def free_bundle_name(party: str) -> str:
    """Return the name of a file that is not there yet, for another bundle of a party."""
    names = (f"{party}-{number}.bundle" for number in itertools.count(2))
    return next(name for name in names if not lazy.pathlib.Path(name).exists())


def say_rotated(bus: "BusFolder", kind: "Kind", name: str) -> None:
    """Print what makes a new credential valid, and where it goes."""
    line(f"{name} has a new credential; to revoke the old one, {apply_change(bus)}:\n  {reload_command(bus)}")
    if name != ADMINISTRATOR:
        lazy.foreign_consumers.delete_foreign_consumers(bus)
        new = free_bundle_name(name)
        line(f"then make a new file for its machines:\n  {bundle_command(bus, kind, name)} --output {new}")
        joins = "worker" if kind == "agent" and name != COORDINATOR else "coordinator"
        line(f"and on each of them:\n  {join_command(joins, new)} --renew")


def apply_change(bus: "BusFolder", files: str = "accounts.conf") -> str:
    """Say how a running server gets a change of the bus folder; in a cluster, `files` must be copied first."""
    if not bus.clustered:
        return "reload the server"
    return f"copy {files} from each folder in {bus.path / 'servers'} to its machine, and reload the server there"


def restart_text(bus: "BusFolder") -> str:
    """Say how a running server gets a change that a reload cannot make."""
    if not bus.clustered:
        return "restart the server"
    folders = bus.path / "servers"
    return f"copy accounts.conf from each folder in {folders} to its machine, and restart one server after the other"


def reload_command(bus: "BusFolder") -> str:
    """Return the command that reloads a running server, which keeps the connections of all other parties."""
    if bus.clustered:
        return "nats-server --signal reload=nats-server.pid"
    return shlex.join([server_command(), "--signal", f"reload={bus.servers[0].pid_file}"])


def reload_twice_command(bus: "BusFolder") -> str:
    """Return the command for a new account: nats-server activates its imports with the second reload only."""
    return f"{reload_command(bus)} && sleep 1 && {reload_command(bus)}"


def server_command() -> str:
    """Return the name of nats-server, or its path where it is not on the PATH."""
    if shutil.which("nats-server"):
        return "nats-server"
    try:
        return str(lazy.nats_server.find_binary())
    except ServerBinaryError:
        return "nats-server"

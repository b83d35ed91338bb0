"""The commands that a person runs next, after a bus was made or changed."""

import shlex
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agentbus.cli import lazy
from agentbus.errors import ServerBinaryError

if TYPE_CHECKING:
    from agentbus.provision.bus_folder.folder import BusFolder


def setup_command(bus: "BusFolder", agents: Sequence[str]) -> str:
    """The command that makes what agents need on the bus."""
    words = ["agentbus", "setup", "--config", str(bus.administrator), *(["--replicas", "3"] if bus.clustered else [])]
    return shlex.join([*words, *(word for agent in agents for word in ("--agent", agent))])


def bundle_command(bus: "BusFolder", name: str) -> str:
    """The command that writes what one party needs to join."""
    return shlex.join(["agentbus", "agent", "bundle", name, "--bus", str(bus.path)])


def carry(bus: "BusFolder", what: str = "accounts.conf") -> str:
    """What to do so that the servers of a cluster know of a change; empty for a server that reads it here."""
    if not bus.clustered:
        return ""
    return f"carry {what} from each folder in {bus.path / 'servers'} to its machine, and make the server read it there"


def reload(bus: "BusFolder") -> str:
    """The command that makes a running server read its configuration again; no connection of others is lost."""
    if bus.clustered:
        return "nats-server --signal reload=nats-server.pid"
    return shlex.join([server_command(), "--signal", f"reload={bus.servers[0].pid_file}"])


def reload_for_new(bus: "BusFolder") -> str:
    """The same when there is a new account: nats-server takes up what that imports with the second reading only."""
    return f"{reload(bus)} && sleep 1 && {reload(bus)}"


def server_command() -> str:
    """What runs nats-server: its name, or its path where it is not on the PATH."""
    if shutil.which("nats-server"):
        return "nats-server"
    try:
        return str(lazy.nats_server.find_binary())
    except ServerBinaryError:
        return "nats-server"

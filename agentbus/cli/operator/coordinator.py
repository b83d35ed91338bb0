"""`agentbus coordinator`: changes which coordinators may use a bus that `agentbus init` made."""

from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy
from agentbus.cli.operator.next_steps import (
    apply_change,
    bundle_command,
    reload_command,
    reload_twice_command,
    say_rotated,
    setup_command,
    write_bundle,
)
from agentbus.cli.options import FILE, AgentId, agents_option, bus_folder_option, output_option
from agentbus.cli.output import json_line, line, table, tabular

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus.protocol.roles import Role
    from agentbus.provision.bus_folder.folder import BusFolder

_name = click.argument("name", metavar="ID", type=AgentId())
_ROLES = ["operator", "member", "viewer"]


@click.command(
    short_help="Give a coordinator a credential of its own.",
    epilog="""\b
Examples:
  agentbus coordinator add alice
  agentbus coordinator add bob --agent code --agent doc
  agentbus coordinator add dashboard --role viewer""",
)
@_name
@agents_option("An agent that a member may give tasks to; default: all, also those that are added later")
@click.option(
    "--role",
    type=click.Choice(_ROLES),
    default="member",
    show_default=True,
    help="member: gives tasks, and sees and cancels its own. operator: the same for those of all. viewer: sees all, "
    "changes nothing.",
)
@bus_folder_option
def add(name: str, agents: tuple[str, ...], role: "Role", folder: "Path") -> None:
    """Give a coordinator, such as a person or a program, an account, a credential and an inbox of its own."""
    bus = lazy.folder.BusFolder(folder)
    bus.add_coordinator(name, role, agents or None)
    line(f"added {name} as {role}; {apply_change(bus)}, twice:\n  {reload_twice_command(bus)}")
    if makes_ledger := bus.ledgers_apart and role != "viewer":
        line(f"then make its ledger:\n  {setup_command(bus, [])}")
    then = "and" if makes_ledger else "then make"
    line(f"{then} the file for its machine:\n  {bundle_command(bus, 'coordinator', name)}")


@click.command(short_help="Revoke a coordinator's credential.")
@_name
@bus_folder_option
def remove(name: str, folder: "Path") -> None:
    """Revoke a coordinator's credential.

    Its tasks stay: those that are queued or running go on, and every operator can cancel them.
    """
    bus = lazy.folder.BusFolder(folder)
    bus.remove(name, "coordinator")
    line(f"removed {name}; to disconnect it, {apply_change(bus)}:\n  {reload_command(bus)}")
    lazy.foreign_consumers.delete_foreign_consumers(bus)
    line("its tasks stay; an operator can see and cancel them:\n  agentbus task list")


@click.command(short_help="Replace the credential of a coordinator.")
@_name
@bus_folder_option
def rotate(name: str, folder: "Path") -> None:
    """Replace the credential of a coordinator. Its role, its tasks and its inbox stay."""
    bus = lazy.folder.BusFolder(folder)
    bus.rotate(name, "coordinator")
    say_rotated(bus, "coordinator", name)


@click.command(
    short_help="Write the file with which a coordinator joins the bus.",
    epilog="""\b
Example:
  agentbus coordinator bundle alice""",
)
@_name
@click.option("--output", metavar="FILE", type=FILE, help="Default: ./ID.bundle.")
@bus_folder_option
def bundle(name: str, output: "Path | None", folder: "Path") -> None:
    """Write what one machine needs to join the bus as this coordinator.

    The file holds a secret. It is never overwritten.
    """
    write_bundle(lazy.folder.BusFolder(folder).bundle(name, "coordinator"), output)


@click.command("list", short_help="List the coordinators of a bus and their roles.")
@bus_folder_option
@output_option
def list_(folder: "Path") -> None:
    """List the coordinators that have credentials, their roles, and the agents that they may give tasks to.

    An agent that was added with `--may-task` gives tasks as well, and is not listed here.
    """
    bus = lazy.folder.BusFolder(folder)
    if tabular():
        table(
            ["coordinator", "role", "gives tasks to"],
            [[name, bus.role(name), _agents(bus, name)] for name in bus.coordinators],
        )
    else:
        for name in bus.coordinators:
            json_line({"coordinator": name, "role": bus.role(name), "agents": bus.agents_of(name)})


def _agents(bus: "BusFolder", name: str) -> str:
    agents = bus.agents_of(name)
    return "all" if agents is None else ", ".join(agents) or "none"

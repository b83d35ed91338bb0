"""`agentbus agent add`, `remove`, `rotate` and `bundle`: who may use a bus that `agentbus init` has made."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agentbus.cli.operator.init import DEFAULT_FOLDER, bundle_of, carry, reload, reload_for_new, set_up
from agentbus.cli.options import AgentId

if TYPE_CHECKING:
    from agentbus.provision.bus_folder import BusFolder

_F = TypeVar("_F", bound=Callable[..., Any])


def bus_folder(command: _F) -> _F:
    """Add `--bus`."""
    option = click.option(
        "--bus",
        "folder",
        metavar="FOLDER",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(DEFAULT_FOLDER),
        help=f"The folder of the bus.  [default: {DEFAULT_FOLDER}]",
    )
    return option(command)


@click.command(
    epilog="""\b
Examples:
  agentbus agent add review
  agentbus agent add lead --may-task code --may-task doc"""
)
@click.argument("agent", metavar="ID", type=AgentId())
@click.option(
    "--may-task", metavar="ID", type=AgentId(), multiple=True, help="An agent that it may give tasks to; repeatable."
)
@bus_folder
def add(agent: str, may_task: tuple[str, ...], folder: Path) -> None:
    """Give an agent an account and credentials of its own."""
    from agentbus.provision.bus_folder import BusFolder  # noqa: PLC0415

    bus = BusFolder(folder)
    bus.add(agent, may_task)
    how = carry(bus) or "make the server know it"
    click.echo(f"added {agent}; {how}, in two steps:\n  {reload_for_new(bus)}")
    click.echo(f"then make its consumer and its bucket:\n  {set_up(bus, [agent])}")
    click.echo(f"and a file for its machines:\n  {bundle_of(bus, agent)}")


def _known(bus: "BusFolder") -> str:
    return f"every server knows: {carry(bus)}" if bus.clustered else "the server knows"


@click.command()
@click.argument("agent", metavar="ID", type=AgentId())
@bus_folder
def remove(agent: str, folder: Path) -> None:
    """Take an agent's credentials away. Its tasks and results stay on the bus until they expire."""
    from agentbus.provision.bus_folder import BusFolder  # noqa: PLC0415

    bus = BusFolder(folder)
    bus.remove(agent)
    click.echo(f"removed {agent}; its workers are shut out once {_known(bus)}:\n  {reload(bus)}")


@click.command()
@click.argument("name", metavar="ID", type=AgentId())
@bus_folder
def rotate(name: str, folder: Path) -> None:
    """Replace the credential of an agent, of the coordinator (main) or of the administrator (admin)."""
    from agentbus.provision.bus_folder import BusFolder  # noqa: PLC0415

    bus = BusFolder(folder)
    bus.rotate(name)
    click.echo(f"{name} has a new credential; the old one is refused once {_known(bus)}:\n  {reload(bus)}")
    if name != "admin":
        click.echo(f"a new file for its machines, to be used there with --renew:\n  {bundle_of(bus, name)}")


@click.command(
    epilog="""\b
Examples:
  agentbus agent bundle code
  agentbus agent bundle main --output coordinator.bundle"""
)
@click.argument("name", metavar="ID", type=AgentId())
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Default: ./ID.bundle.")
@bus_folder
def bundle(name: str, output: Path | None, folder: Path) -> None:
    """Write what one machine needs to join the bus, as an agent, as the coordinator (main) or as administrator (admin).

    The file holds a secret. It is never overwritten.
    """
    from agentbus.config.private_files import write_private  # noqa: PLC0415
    from agentbus.provision.bundle import bundle_text  # noqa: PLC0415
    from agentbus.provision.bus_folder import BusFolder  # noqa: PLC0415

    made = BusFolder(folder).bundle(name)
    path = output or Path(f"{name}.bundle")
    write_private(path, bundle_text(made))
    kind = "worker" if made.role == "worker" else "coordinator"
    click.echo(f"wrote {path}; it holds a secret. On the other machine:\n  agentbus {kind} init --bundle {path.name}")
    if made.may_task:
        click.echo(f"and, to give tasks as {name}:\n  agentbus coordinator init --bundle {path.name}")

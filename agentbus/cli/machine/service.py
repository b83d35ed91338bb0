"""`agentbus service`: workers as services of systemd, launchd or supervisor."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from agentbus.cli import lazy
from agentbus.cli.options import FOLDER, AgentId, config_option, output_option
from agentbus.cli.output import json_line, line, remark, table, tabular

if TYPE_CHECKING:
    from agentbus.provision.services.manager import ManagerName, ServiceManager, ServiceStatus
    from agentbus.provision.services.worker_service import WorkerService

_MANAGERS: Final = ("systemd", "systemd-user", "launchd", "supervisor")


def _manager_options(command: click.decorators.FC) -> click.decorators.FC:
    manager = click.option(
        "--manager",
        type=click.Choice(_MANAGERS),
        help="Default: launchd on macOS, systemd for root, systemd-user for others, supervisor where there is no "
        "systemd.",
    )
    folder = click.option(
        "--folder",
        type=FOLDER,
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
@config_option("Configuration of the worker; default: where `agentbus worker run` looks.", "config_file")
@_manager_options
@click.option("--user", help="User of the worker, for systemd and supervisor. [default: agentbus]")
@click.option(
    "--directory",
    type=FOLDER,
    help="Where the agent works; kept when it is installed again.  [default: the home of the user; see also folder in "
    "[agent]]",
)
@click.option("--print", "print_only", is_flag=True, help="Print the unit and change nothing.")
@click.option("--no-start", is_flag=True, help="Write the unit, and print the commands that start it.")
def install(
    config_file: Path | None,
    manager: "ManagerName | None",
    folder: Path | None,
    user: str | None,
    directory: Path | None,
    *,
    print_only: bool,
    no_start: bool,
) -> None:
    """Make a service of a worker, with a stop time that fits its drain, and start it.

    Installing again updates the unit and starts the worker anew.
    """
    config, warnings = lazy.loading.load_worker(config_file)
    for warning in warnings:
        remark(f"warning: {warning}")
    chosen = lazy.choice.service_manager(manager)
    found = config_file or lazy.loading.worker_file()
    assert found is not None, "it was loaded"
    worker = lazy.worker_service.make_worker_service(config, found, chosen.user(user))
    unit = chosen.unit_file(worker.name, folder)
    if (starts_in := _folder(chosen, worker, unit, directory)) is not None:
        worker = lazy.worker_service.make_worker_service(config, found, worker.user, starts_in)
    text = chosen.render(worker)
    for warning in chosen.warnings(worker):
        remark(f"warning: {warning}")
    if print_only:
        line(text.removesuffix("\n"))
        return
    changed = chosen.write(unit, text)
    remark(f"{unit}: {'written' if changed else 'unchanged'}")
    if no_start:
        steps = chosen.start_commands(unit)
        remark("start it with:\n" + "\n".join(f"  {' '.join(step)}" for step in steps))
    else:
        chosen.start(unit)
    for hint in [*_where(worker), *chosen.hints(worker)]:
        remark(hint)
    if not no_start:
        _show([chosen.status(unit)])


def _folder(chosen: "ServiceManager", worker: "WorkerService", unit: Path, directory: Path | None) -> Path | None:
    """Return the folder in which the worker starts: the one that is named, or that an earlier installation named."""
    if directory is None:
        return chosen.kept_folder(unit, worker)
    if worker.config.agent.folder is not None:
        raise click.UsageError("The configuration says where the agent works: folder in [agent]; leave out --directory")
    if not directory.is_dir():
        raise click.UsageError(f"{directory} is no folder")
    return directory


def _where(worker: "WorkerService") -> list[str]:
    """Say where the agent works, where nothing but a default says it."""
    config = worker.config
    if config.agent.folder or config.worker.workdir or config.has_repository:
        return []
    if worker.folder is not None:
        return [f"the agent works in {worker.folder}"]
    home = lazy.worker_service.home_of(worker.user)
    return [f"the agent works in {home}; --directory FOLDER, or folder in [agent], has it work elsewhere"]


@service.command(
    short_help="Stop the service of an agent's worker and remove it.",
    epilog="""\b
Example:
  agentbus service uninstall code""",
)
@click.argument("agent", metavar="ID", type=AgentId())
@_manager_options
def uninstall(agent: str, manager: "ManagerName | None", folder: Path | None) -> None:
    """Stop the worker of the agent ID in order, and remove its service. Its configuration and its log stay."""
    remark(f"{lazy.choice.service_manager(manager).uninstall(agent, folder)}: removed")


@service.command(
    short_help="Show the services of this machine's workers.",
    epilog="""\b
Examples:
  agentbus service status
  agentbus service status code""",
)
@click.argument("agent", metavar="[ID]", type=AgentId(), required=False)
@output_option
@_manager_options
def status(agent: str | None, manager: "ManagerName | None", folder: Path | None) -> None:
    """Show the worker services of this machine, or that of the agent ID. Exit code 1 if one does not run."""
    found = lazy.choice.service_manager(manager).statuses(agent, folder)
    _show(found)
    if not all(one.running for one in found):
        sys.exit(1)


def _show(found: Sequence["ServiceStatus"]) -> None:
    if tabular():
        table(
            ["agent", "manager", "state", "file"],
            [[one.agent, one.manager, one.state, str(one.file)] for one in found],
        )
        return
    for one in found:
        json_line(one.to_json())

"""`agentbus agent`: lists the online agents, and changes which agents may use a bus that `agentbus init` made."""

import shlex
from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy
from agentbus.cli.lazy_group import CommandGroup
from agentbus.cli.operator.next_steps import (
    apply_change,
    bundle_command,
    reload_command,
    reload_twice_command,
    say_rotated,
    setup_command,
    write_bundle,
)
from agentbus.cli.options import FILE, AgentId, agent_option, bus_folder_option, output_option, with_coordinator
from agentbus.cli.output import json_line, line, remark, tabular
from agentbus.protocol import subjects

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus.coordinator import Coordinator

_agent_id = click.argument("agent", metavar="ID", type=AgentId())
_name = click.argument("name", metavar="ID", type=AgentId())


@click.group(cls=CommandGroup)
def agent() -> None:
    """See which agents are online; manage which agents may use a bus."""


@agent.command(
    "list",
    short_help="List online workers and the backlog of each agent.",
    epilog="""\b
Examples:
  agentbus agent list
  agentbus agent list --agent code | jq '.workers[].free'""",
)
@agent_option()
@click.option("--state", type=click.Choice(("online", "offline", "paused")), help="Only agents in this state.")
@click.option("--text", metavar="TEXT", help="Only agents with this in their id, their description, or a machine.")
@output_option
@with_coordinator
async def list_(bus: "Coordinator", *, agent: str | None, state: str | None, text: str | None) -> None:
    """List the workers that are online, with their free slots, and how many tasks wait for each agent.

    A slot is lost while a command holds it that could not be ended.
    A worker that was killed is listed for up to 90 seconds more.
    """
    reader = lazy.overview.OverviewReader(bus, recent=0)
    counted = [
        (one, tasks)
        for one, tasks in await reader.counted_agents(agent)
        if state in (None, *lazy.agent_rows.states_of(one)) and lazy.agent_rows.has_text(one, text)
    ]
    counts = {one.agent: tasks for one, tasks in counted}
    agents = [{**one.to_json(), "tasks": tasks.to_json()} for one, tasks in counted]
    if tabular():
        lazy.agent_rows.print_agents(agents, counts)
        for one in agents:
            for trouble in one.get("troubles", ()):
                remark(f"{one['agent']}: {trouble}")
    else:
        for one in agents:
            json_line(one)
    for status in await bus.lost_tasks(agent):
        remark(f"warning: {status.name} {status.loss_note}")


@agent.command(
    short_help="Let the workers of an agent take no tasks.",
    epilog="""\b
Examples:
  agentbus agent pause code --reason "the key is being replaced"
  agentbus agent resume code""",
)
@_agent_id
@click.option("--reason", metavar="TEXT", default="", help="Why; it is shown to all who look at the agent.")
@with_coordinator
async def pause(bus: "Coordinator", *, agent: str, reason: str) -> None:
    """Let the workers of an agent take no tasks, those that start later as well, until `agent resume`.

    What runs goes on. Tasks wait, for up to 7 days.
    """
    await bus.pause_agent(agent, reason)
    line(f"paused {agent}: its workers take no tasks; agentbus agent resume {agent} lets them go on")


@agent.command(short_help="Let the workers of an agent take tasks again.")
@_agent_id
@with_coordinator
async def resume(bus: "Coordinator", *, agent: str) -> None:
    """Let the workers of an agent take tasks again.

    A worker that had paused by itself tries a task at once, so this also ends the wait after a key was replaced.
    """
    await bus.resume_agent(agent)
    line(f"resumed {agent}")


@agent.command(
    epilog="""\b
Examples:
  agentbus agent add review
  agentbus agent add lead --may-task code --may-task doc"""
)
@_agent_id
@click.option(
    "--may-task", metavar="ID", type=AgentId(), multiple=True, help="An agent that it may give tasks to; repeatable."
)
@bus_folder_option
def add(agent: str, may_task: tuple[str, ...], folder: "Path") -> None:
    """Give an agent an account and credentials of its own."""
    bus = lazy.folder.BusFolder(folder)
    bus.add(agent, may_task)
    line(f"added {agent}; {apply_change(bus)}, twice:\n  {reload_twice_command(bus)}")
    line(f"then make its consumer, its ledger and its bucket:\n  {setup_command(bus, [agent])}")
    line(f"and the file for its machines:\n  {bundle_command(bus, 'agent', agent)}")


@agent.command(short_help="Revoke an agent's credentials.")
@_agent_id
@bus_folder_option
def remove(agent: str, folder: "Path") -> None:
    """Revoke an agent's credentials. Its tasks and results stay on the bus until they expire."""
    bus = lazy.folder.BusFolder(folder)
    bus.remove(agent)
    line(f"removed {agent}; to disconnect its workers, {apply_change(bus)}:\n  {reload_command(bus)}")
    lazy.foreign_consumers.delete_foreign_consumers(bus)
    durables = (subjects.durable(agent), subjects.durable_of_parties(agent))
    queues = [f"{subjects.TASKS_STREAM}/{name}" for name in durables]
    command = shlex.join(["agentbus", "consumers", "remove", *queues, "--config", str(bus.administrator)])
    line(f"to take it out of the list of agents, with its place in the queue:\n  {command}")


@agent.command(short_help="Replace the credential of a party.")
@_name
@bus_folder_option
def rotate(name: str, folder: "Path") -> None:
    """Replace the credential of an agent, of the coordinator (main) or of the administrator (admin)."""
    bus = lazy.folder.BusFolder(folder)
    bus.rotate(name)
    say_rotated(bus, "agent", name)


@agent.command(
    short_help="Write the file with which a machine joins the bus.",
    epilog="""\b
Examples:
  agentbus agent bundle code
  agentbus agent bundle main --output coordinator.bundle""",
)
@_name
@click.option("--output", metavar="FILE", type=FILE, help="Default: ./ID.bundle.")
@bus_folder_option
def bundle(name: str, output: "Path | None", folder: "Path") -> None:
    """Write what one machine needs to join the bus, as an agent, as the coordinator (main) or as administrator (admin).

    The file holds a secret. It is never overwritten.
    """
    write_bundle(lazy.folder.BusFolder(folder).bundle(name), output)

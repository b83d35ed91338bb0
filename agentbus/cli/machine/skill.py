"""`agentbus skill`: the Agent Skill where agent hosts look for skills."""

from pathlib import Path

import click

from agentbus.cli.output import remark
from agentbus.provision import agent_skill
from agentbus.provision.agent_skill import HOSTS


@click.group()
def skill() -> None:
    """Install the Agent Skill that explains agentbus to agents."""


@skill.command(
    short_help="Copy the skill to where agent hosts look for it.",
    epilog="""\b
Examples:
  agentbus skill install                      for every host that this user has
  agentbus skill install --host claude-code
  agentbus skill install --host codex --project .""",
)
@click.option("--host", "hosts", type=click.Choice(list(HOSTS)), multiple=True, help="Default: every one that is here.")
@click.option(
    "--project",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Into the skills of this project instead of the user's.",
)
def install(hosts: tuple[str, ...], project: Path | None) -> None:
    """Copy the skill, or bring an earlier copy up to date."""
    for host in hosts:
        if project is None and HOSTS[host].user is None:
            raise click.UsageError(f"{host} has skills in projects only; add --project FOLDER")
    folders = [agent_skill.skill_folder(host, project) for host in hosts or agent_skill.present_hosts(project)]
    for folder in dict.fromkeys(folders):
        remark(f"{folder}: {agent_skill.install(folder)}")

"""The `agentbus` command: the composition root.

The modules of the commands import little; what a command needs is imported when it runs, so that `--help`, completion
and usage errors are immediate.
"""

import os
import sys

import click

from agentbus.cli.coordinator.result import result
from agentbus.cli.coordinator.status import status, top
from agentbus.cli.coordinator.task import task
from agentbus.cli.demo.demo import demo
from agentbus.cli.machine.completion import completion
from agentbus.cli.machine.join import coordinator_init, worker_init
from agentbus.cli.machine.mcp import mcp
from agentbus.cli.machine.service import service
from agentbus.cli.machine.skill import skill
from agentbus.cli.operator.agent import agent
from agentbus.cli.operator.backup import backup, restore
from agentbus.cli.operator.dead import dead
from agentbus.cli.operator.doctor import doctor
from agentbus.cli.operator.init import init
from agentbus.cli.operator.setup import setup
from agentbus.cli.operator.up import up
from agentbus.errors import AgentBusError
from agentbus.version import __version__
from agentbus_worker.cli import run as worker_run

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  agentbus demo                                    see the whole thing work on this machine
  agentbus up                                      run a bus here
  agentbus worker run --config code.toml           run an agent's worker
  agentbus task publish --to code --task-type review "Review the last commit"
  agentbus result get --agent main --limit 5 --watch""",
)
@click.version_option(__version__, prog_name="agentbus")
def root() -> None:
    """Hand long tasks to agents on other machines, and get every result back."""


@root.group()
def worker() -> None:
    """Set up and run an agent's worker."""


@root.group()
def coordinator() -> None:
    """Set up a coordinator: whoever gives tasks and reads results."""


worker.add_command(worker_init)
worker.add_command(worker_run)
coordinator.add_command(coordinator_init)
for command in (
    up,
    init,
    setup,
    backup,
    restore,
    doctor,
    demo,
    task,
    result,
    agent,
    status,
    top,
    dead,
    service,
    mcp,
    skill,
    completion,
):
    root.add_command(command)


def main() -> None:
    """Run the command line. Errors are one line on stderr: exit code 1, or 2 for wrong usage."""
    code = EXIT_ERROR
    try:
        code = root.main(prog_name="agentbus", standalone_mode=False) or 0
    except click.UsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        click.echo(f"error: {error.format_message()}{where}", err=True)
        code = EXIT_USAGE
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
    except AgentBusError as error:
        click.echo(f"error: {error}", err=True)
    except (click.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has had enough; the interpreter must not try to flush it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)

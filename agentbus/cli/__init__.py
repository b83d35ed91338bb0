"""The `agentbus` command: its groups and commands, and its errors as one line on standard error.

Help, usage errors and completion must be fast. So the groups here name their commands without importing them, and the
modules of the commands import what they work with through `agentbus.cli.lazy`.
"""

import gc
import sys
from typing import Any

import click

from agentbus.cli import exit_codes
from agentbus.cli.bus_hints import with_bus
from agentbus.cli.lazy_group import LazyCommand, LazyGroup
from agentbus.errors import AgentBusError
from agentbus.terminal import abandon, error_line, flush_output, guard_tracebacks, open_standard_streams
from agentbus.version import __version__

_GC_THRESHOLD = 10_000
"""Imports create some 40,000 long-lived objects. With Python's default of 700 the collector would run 90 times."""


class _RootGroup(LazyGroup):
    """The group of all commands. A reader that closes the pipe is no failure, though click takes it for one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take `help` and `version` for the options of these names, as other programs do."""
        if args[:1] == ["version"] and not args[1:]:
            args = ["--version"]
        elif args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; it ends with exit code 0 if no one reads its output any more."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            abandon(sys.stdout)
            return 0


@click.group(
    cls=_RootGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  agentbus demo                                    see the whole thing work on this machine
  agentbus up                                      run a bus here
  agentbus worker run --config code.toml           run an agent's worker
  agentbus run code "Review the last commit"       give an agent a task; print its answer
  agentbus task publish --to code "Review the last commit"
  agentbus result get --agent main --limit 5 --watch""",
)
@click.version_option(__version__, "-V", "--version", prog_name="agentbus")
def root() -> None:
    """Hand long tasks to agents on other machines, and get every result back."""


@root.group(cls=LazyGroup)
def worker() -> None:
    """Set up and run an agent's worker; see which are alive."""


@root.group(cls=LazyGroup, short_help="Set up a coordinator; manage which coordinators may use a bus.")
def coordinator() -> None:
    """Set up a coordinator: a party that publishes tasks and reads results. Manage which of them may use a bus."""


for _group, _commands in {
    root: [
        ("agent", "operator.agent:agent", "See which agents are online; manage which agents may use a bus."),
        ("audit", "operator.audit:audit", "Show who did what on the bus."),
        ("backup", "operator.backup:backup", "Copy everything that is on the bus into a folder."),
        ("completion", "machine.completion:completion", "Print the script for tab completion."),
        ("consumers", "operator.consumers:consumers", "List the consumers of the streams, and delete foreign ones."),
        ("cost", "coordinator.cost:cost", "Show what tasks used and cost, by agent, model, day, sender or group."),
        ("dead", "operator.dead:dead", "Show, requeue or delete dead letters: messages that no worker could accept."),
        ("demo", "demo.demo:demo", "See the whole thing work, on a bus of its own."),
        ("doctor", "operator.doctor:doctor", "Check a set-up, and say how to fix what is wrong."),
        ("init", "operator.init:init", "Make a bus: server configuration, certificates, accounts."),
        (
            "mcp",
            "machine.mcp:mcp",
            "Configure the MCP server `agentbus-mcp`, and who may use it.",
        ),
        ("notify", "coordinator.events.notify:notify", "Send each event of the own tasks to a command or a URL."),
        ("plugin", "machine.plugin:plugin", "Make the plugin that brings agentbus into agent hosts."),
        ("question", "coordinator.question:question", "See what agents ask, and answer it."),
        ("restore", "operator.backup:restore", "Restore a backup onto a bus that has no streams."),
        ("result", "coordinator.result:result", "Read results."),
        ("run", "coordinator.publishing.run:run", "Give an agent a task, wait for it, and print its answer."),
        ("service", "machine.service:service", "Run a worker as a service of this machine."),
        ("setup", "operator.setup:setup", "Make the streams, buckets and consumers of a bus."),
        ("skill", "machine.skill:skill", "Install the Agent Skill that explains agentbus to agents."),
        ("status", "coordinator.status:status", "Show the bus on one page."),
        ("task", "coordinator.task:task", "Publish tasks, follow them, and act on them."),
        ("top", "coordinator.status:top", "Watch the bus live."),
        ("ui", "machine.ui:ui", "See the bus in a browser, and act there."),
        ("up", "operator.up:up", "Run a bus on this machine, in the foreground."),
        ("watch", "coordinator.events.watch:watch", "Print each event of the own tasks."),
        ("work", "work.work:work", "See what a task has left, and take it: files, and changes of a repository."),
    ],
    worker: [
        ("init", "machine.join:worker_init", "Make the configuration of a worker from a bundle."),
        ("list", "operator.workers:list_", "List the workers that are alive, with what they do."),
    ],
    coordinator: [
        ("add", "operator.coordinator:add", "Give a coordinator a credential of its own."),
        ("bundle", "operator.coordinator:bundle", "Write the file with which a coordinator joins the bus."),
        ("init", "machine.join:coordinator_init", "Make the configuration of a coordinator from a bundle."),
        ("list", "operator.coordinator:list_", "List the coordinators of a bus and their roles."),
        ("remove", "operator.coordinator:remove", "Revoke a coordinator's credential."),
        ("rotate", "operator.coordinator:rotate", "Replace the credential of a coordinator."),
    ],
}.items():
    for _name, _module, _short_help in _commands:
        _group.add_command(LazyCommand(_name, f"agentbus.cli.{_module}", _short_help))
worker.add_command(
    LazyCommand("run", "agentbus_worker.cli:run", "Take tasks from the bus and run the agent command for each.")
)


def main() -> None:
    """Run the command line. Errors are one line on stderr: exit code 1, or 2 for wrong usage."""
    gc.set_threshold(_GC_THRESHOLD)
    open_standard_streams()
    guard_tracebacks()
    code = exit_codes.FAILED
    try:
        code = root.main(prog_name="agentbus", standalone_mode=False) or 0
        flush_output()
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a group alone: the help that click has put there
            error_line(error.format_message())
            sys.exit(exit_codes.USAGE)
        where = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        error_line(f"error: {error.format_message()}{where}")
        code = exit_codes.USAGE
    except click.ClickException as error:
        error_line(f"error: {error.format_message()}")
    except AgentBusError as error:
        error_line(f"error: {with_bus(str(error))}")
    except OSError as error:  # such as a full disk behind the help, which click prints by itself
        abandon(sys.stdout)
        error_line(f"error: {error}")
    except (click.Abort, KeyboardInterrupt):
        code = exit_codes.INTERRUPTED
    gc.freeze()  # skips the collection at exit: the process ends anyway
    sys.exit(code)

"""`agentbus doctor`: checks a set-up, and says how to fix what is wrong."""

import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

import click

from agentbus.cli import bus_hints, lazy, output
from agentbus.cli.options import AgentId, config_option, nats_url_option
from agentbus.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agentbus.admin.doctor.check_context import FolderFacts, Role, RoleConfig
    from agentbus.admin.doctor.finding import Finding

_TEXT_AT: Final = 23
"""The column of the text of a finding, behind its verdict and its check."""
_SHOWN: Final = {
    "ok": output.Styled("ok     ", "green"),
    "warning": output.Styled("warning", "yellow", bold=True),
    "failed": output.Styled("failed ", "red", bold=True),
}


@click.command(
    short_help="Check a set-up, and say how to fix what is wrong.",
    epilog="""\b
Examples:
  agentbus doctor                                       the coordinator on this machine
  agentbus doctor --role worker --config code.toml
  agentbus doctor --probe code                          and a task through a real worker
  agentbus doctor --role administrator --config admin.toml --json | jq 'select(.verdict != "ok")'""",
)
@click.option(
    "--role",
    type=click.Choice(["coordinator", "worker", "administrator"]),
    default="coordinator",
    show_default=True,
    help="Whose configuration and rights to check.",
)
@click.option(
    "--probe", metavar="ID", type=AgentId(), help="Publish a small task to this agent, which runs its command."
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each finding.")
@nats_url_option
@config_option("The configuration to check; default: the one that the role would use.")
def doctor(role: "Role", probe: str | None, nats_url: str | None, config: "Path | None", *, as_json: bool) -> None:
    """Check a set-up, from the configuration file to a task, and say how to fix what is wrong.

    It prints a line for each finding: ok, warning or failed. It exits with 1 if a check failed, and changes nothing on
    the bus.
    """
    if role == "worker" and (nats_url or probe):
        raise click.UsageError(
            "--role worker excludes --nats-url and --probe: its configuration names the bus, and it cannot publish"
        )
    if role == "administrator":
        config = config or lazy.loading.administrator_file(nats_url)
    findings: list[Finding] = []

    def show(finding: "Finding") -> None:
        fix = bus_hints.with_bus(finding.fix)
        findings.append(lazy.finding.Finding(finding.check, finding.verdict, finding.text, fix))
        output.json_line(findings[-1].to_json()) if as_json else _line(findings[-1])

    try:
        loaded, source, warnings = lazy.configuration.load(role, nats_url=nats_url, path=config)
    except ConfigError as error:
        show(lazy.finding.Finding("configuration", "failed", str(error)))
    else:
        _note_bus(role, nats_url, config, loaded)
        for text in warnings:
            show(lazy.finding.Finding("files", "warning", text))
        if hint := lazy.folder.older_layout(config):
            show(lazy.finding.Finding("layout", "warning", hint, "agentbus init --upgrade FOLDER"))
        lazy.asyncio.run(_run_checks(role, loaded, source, probe, _folder_facts(role, config), show))
    if any(finding.verdict == "failed" for finding in findings):
        sys.exit(1)


def _note_bus(role: "Role", nats_url: str | None, config: "Path | None", loaded: "RoleConfig") -> None:
    """Have remedies name the bus; the file of a worker is none for the commands of an administrator."""
    bus_hints.reached_by(nats_url, None if role == "worker" else config, loaded.nats)


def _folder_facts(role: "Role", config: "Path | None") -> "FolderFacts":
    """Read what the folder of the bus says, if this is its administrator's configuration."""
    if role == "administrator" and config is not None:
        try:
            bus = lazy.folder.BusFolder(config.parent)
        except ConfigError:
            pass  # not in the folder of a bus
        else:
            if config.resolve() == bus.administrator.resolve():
                where = lazy.server_folder.monitoring_address(bus.servers[0])
                return lazy.check_context.FolderFacts(bus.connections_of_agent, where, bus.ledgers_apart)
    return lazy.check_context.FolderFacts()


async def _run_checks(
    role: "Role",
    loaded: "RoleConfig",
    source: str,
    probe: str | None,
    folder: "FolderFacts",
    show: "Callable[[Finding], None]",
) -> None:
    if probe is not None:
        output.remark(f"a task for {probe} comes last; its answer may take a while")
    async with aclosing(lazy.run_checks.run_checks(role, loaded, source, probe=probe, folder=folder)) as findings:
        async for finding in findings:
            show(finding)


def _line(finding: "Finding") -> None:
    fix = f"\n{' ' * _TEXT_AT}{_wrapped(f'-> {finding.fix}')}" if finding.fix else ""
    output.line(_SHOWN[finding.verdict], f"  {finding.check:<13} {_wrapped(finding.text)}{fix}")


def _wrapped(text: str) -> str:
    """Break a text between words where a terminal would break it within them; elsewhere it stays one line."""
    if not output.on_terminal():
        return text
    import shutil  # noqa: PLC0415  # for people only
    import textwrap  # noqa: PLC0415

    columns, indent = max(shutil.get_terminal_size().columns, 2 * _TEXT_AT), " " * _TEXT_AT
    filled = textwrap.fill(
        text, columns, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return filled.removeprefix(indent)

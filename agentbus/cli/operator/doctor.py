"""`agentbus doctor`: what is wrong with a set-up, and what mends it."""

import asyncio
import os
import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from agentbus.cli import output
from agentbus.cli.options import AgentId
from agentbus.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentbus.admin.doctor.examination import Role
    from agentbus.admin.doctor.finding import Finding
    from agentbus.config.schema import CoordinatorConfig, WorkerConfig

_SHOWN: Final = {"ok": ("ok     ", "green"), "warning": ("warning", "yellow"), "failed": ("failed ", "red")}


@click.command(
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
@click.option("--probe", metavar="ID", type=AgentId(), help="Give this agent a small task, which runs its command.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each finding.")
@click.option("--nats-url", metavar="URL", help="The bus, for a coordinator or an administrator.")
@click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration to check; default: the one that the role would find.",
)
def doctor(role: "Role", probe: str | None, nats_url: str | None, config: Path | None, *, as_json: bool) -> None:
    """Check a set-up from the configuration file to a task, and say what mends what is wrong.

    A line for each finding: ok, warning or failed. Exit code 1 if anything failed. Nothing is changed on the bus.
    """
    from agentbus.admin.doctor.finding import Finding  # noqa: PLC0415

    if role == "worker" and (nats_url or probe):
        raise click.UsageError("a worker has the bus of its configuration, and may not give tasks")
    findings: list[Finding] = []

    def show(finding: Finding) -> None:
        findings.append(finding)
        output.json_line(finding.to_json()) if as_json else _line(finding)

    try:
        loaded, source, warnings = _load(role, nats_url, config)
    except ConfigError as error:
        show(Finding("configuration", "failed", str(error)))
    else:
        for text in warnings:
            show(Finding("files", "warning", text))
        asyncio.run(_examine(role, loaded, source, probe, show))
    if any(finding.verdict == "failed" for finding in findings):
        sys.exit(1)


def _load(
    role: "Role", nats_url: str | None, config: Path | None
) -> "tuple[CoordinatorConfig | WorkerConfig, str, list[str]]":
    """The configuration that the role would use, where it comes from, and what a person should be warned of."""
    from agentbus.config.loading import URL_VARIABLE, coordinator_file, load_coordinator, load_worker, worker_files  # noqa: PLC0415

    if role == "worker":
        path = config or next((file for file in worker_files() if file.is_file()), None)
        loaded, warnings = load_worker(path)
        return loaded, str(path), warnings
    settings, warnings = load_coordinator(nats_url=nats_url, path=config)
    if nats_url:
        source = "--nats-url"
    elif config:
        source = str(config)
    elif os.environ.get(URL_VARIABLE):
        source = URL_VARIABLE
    else:
        source = str(coordinator_file()) if coordinator_file().is_file() else "the local bus of `agentbus up`"
    return settings, source, warnings


async def _examine(
    role: "Role",
    loaded: "CoordinatorConfig | WorkerConfig",
    source: str,
    probe: str | None,
    show: "Callable[[Finding], None]",
) -> None:
    from agentbus.admin.doctor.examine import examine  # noqa: PLC0415

    async with aclosing(examine(role, loaded, source, probe=probe)) as findings:
        async for finding in findings:
            show(finding)


def _line(finding: "Finding") -> None:
    label, colour = _SHOWN[finding.verdict]
    mark = click.style(label, fg=colour, bold=finding.verdict != "ok")
    fix = f"\n{' ' * 23}-> {output.plain(finding.fix)}" if finding.fix else ""
    click.echo(f"{mark}  {finding.check:<13} {output.plain(finding.text)}{fix}")

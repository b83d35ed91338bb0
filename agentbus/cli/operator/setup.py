"""`agentbus setup`: makes the streams, buckets and consumers of a bus."""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from agentbus.bus.wanted.retention import LEAST_RESULTS_DAYS, LEAST_STATES_DAYS, MOST_DAYS
from agentbus.cli import lazy, output
from agentbus.cli.options import AgentId, Amount, Count, Size, administrator_options, agents_option
from agentbus.errors import BusError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from agentbus.bus.jetstream import Bus
    from agentbus.bus.wanted.setup_plan import Finding
    from agentbus.coordinator import Coordinator
    from agentbus.provision.bus_folder.folder import BusFolder


@click.command(
    short_help="Make the streams, buckets and consumers of a bus.",
    epilog="""\b
Examples:
  agentbus setup --nats-url nats://127.0.0.1:7422
  agentbus setup --config admin.toml --agent code --agent doc
  agentbus setup --config admin.toml --replicas 3
  agentbus setup --config admin.toml --agent code --files-limit 2GiB
  agentbus setup --config admin.toml --agent code --max-ack-pending 4000
  agentbus setup --config admin.toml --keep-results 14 --keep-states 22
  agentbus setup --config admin.toml --agent code --update""",
)
@agents_option("Also make the consumer and the files bucket of this agent")
@click.option(
    "--replicas",
    type=Count(1, 5),
    help="Replicas in a cluster (1, 3 or 5), also of existing streams.  [default: as many as AGENT_TASKS has, or 1]",
)
@click.option(
    "--files-limit",
    metavar="SIZE",
    type=Size(),
    help="Size limit of the files bucket of each --agent, such as 2GiB, also of an existing one.  [default: none]",
)
@click.option(
    "--max-ack-pending",
    metavar="N",
    type=Count(1, 1_000_000),
    help="How many tasks of each --agent may be in work, also with existing consumers.  [default: 1000]",
)
@click.option(
    "--keep-results",
    "keep_results_days",
    metavar="DAYS",
    type=Count(LEAST_RESULTS_DAYS, MOST_DAYS),
    help="How long results are kept, also in an existing stream; at least 8 days, so that no task that is delivered "
    "again can store its result twice.  [default: 30]",
)
@click.option(
    "--keep-states",
    "keep_states_days",
    metavar="DAYS",
    type=Count(LEAST_STATES_DAYS, MOST_DAYS),
    help="How long the states of tasks and the files of every agent are kept, also existing ones; at least 8 days "
    "longer than results.  [default: 38]",
)
@click.option(
    "--shares",
    "shares_anew",
    is_flag=True,
    help="Give each existing stream its share of the storage that the bus has now, in place of the room that it has.",
)
@click.option(
    "--coordinator",
    "coordinators",
    metavar="ID",
    type=AgentId(),
    multiple=True,
    help="Also make the ledger for the MCP tasks of this coordinator, on a bus with accounts; repeatable.  [default: "
    "main and, with --config in the folder of the bus, all others]",
)
@click.option("--update", is_flag=True, help="Also change what exists and differs, where that is possible.")
@click.option(
    "--wait",
    "wait_s",
    metavar="SECONDS",
    type=Amount(0, 86_400),
    default=120,
    show_default=True,
    help="With --replicas, how long to wait until all replicas are current.",
)
@administrator_options
def setup(
    agents: tuple[str, ...],
    files_limit: int | None,
    max_ack_pending: int | None,
    nats_url: str | None,
    config: "Path | None",
    coordinators: tuple[str, ...],
    **options: Any,
) -> None:
    """Make the streams, buckets and consumers of a bus; needs an administrator's credentials.

    It can be run again: it prints what it made, what exists, and what differs.

    --replicas also changes the replicas of existing streams, for every agent. Nothing is lost, and tasks continue
    meanwhile. The command ends once all replicas are complete.

    A bus remembers what it was told with --keep-results, --keep-states and --max-ack-pending; a later call without
    them leaves it. An age that is lowered makes room at once.
    """
    if hint := lazy.folder.older_layout(config or lazy.loading.administrator_file(nats_url)):
        output.remark(f"warning: {hint}; upgrade it with: agentbus init --upgrade FOLDER")
    of_agents = {"files_limit": files_limit, "max_ack_pending": max_ack_pending}
    for name, value in of_agents.items():
        if value is not None and not agents:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --agent")
    folder = lazy.folder.folder_of(config or lazy.loading.administrator_file(nats_url))
    if folder is not None:
        coordinators += folder.with_ledgers
    work = partial(_setup, agents=agents, coordinators=coordinators, **of_agents, **options)
    lazy.session.run_as_administrator(nats_url, config, partial(_clear_and_set_up, folder=folder, set_up=work))


async def _clear_and_set_up(
    bus: "Coordinator", *, folder: "BusFolder | None", set_up: "Callable[[Coordinator], Awaitable[None]]"
) -> None:
    if folder is not None:
        await clear_retired(bus.bus, folder)
    await set_up(bus)


async def _setup(
    bus: "Coordinator",
    *,
    agents: tuple[str, ...],
    replicas: int | None,
    keep_results_days: int | None,
    keep_states_days: int | None,
    coordinators: "Sequence[str]",
    update: bool,
    wait_s: float,
    **options: Any,
) -> None:
    if warning := lazy.server_versions.version_warning(bus.bus.server_version):
        output.remark(f"warning: {warning}")
    if replicas is not None or keep_states_days is not None:
        agents = tuple(dict.fromkeys([*agents, *await lazy.setup.known_agents(bus.bus)]))
    keep = lazy.retention.Keep(keep_results_days, keep_states_days)
    findings = await lazy.setup.set_up(bus.bus, agents, replicas=replicas, keep=keep, update=update, **options)
    told = {item.name for item in findings}  # the main coordinator has its ledger with those of the agents
    findings += [item for item in await lazy.setup.set_up_coordinators(bus.bus, coordinators) if item.name not in told]
    _print(findings, update=update)
    await _warn_of_foreign_consumers(bus.bus)
    await _wait_for_replicas(bus.bus, findings, agents, replicas, wait_s)


async def clear_retired(bus: "Bus", folder: "BusFolder") -> None:
    """Delete what parties that were removed have left on the bus and is empty by now, and print which they were."""
    gone = [agent for agent in folder.retired if await lazy.retired_parties.clear_agent(bus, agent)]
    if gone:
        folder.forget(gone)
    gone += await lazy.retired_parties.clear_coordinators(bus, (*folder.agents, *folder.retired, *folder.with_ledgers))
    if gone:
        output.remark(f"deleted what parties that were removed had left, which was empty: {', '.join(gone)}")


async def _warn_of_foreign_consumers(bus: "Bus") -> None:
    foreign = [one for one in await lazy.consumers.consumers_of_bus(bus) if one.foreign]
    if foreign:
        output.remark(
            f"warning: {len(foreign)} foreign consumers, the first is {foreign[0].path} ({foreign[0].foreign}); see: "
            "agentbus consumers list --foreign"
        )


async def _wait_for_replicas(
    bus: "Bus", findings: "Sequence[Finding]", agents: "Sequence[str]", replicas: int | None, wait_s: float
) -> None:
    """Wait until all streams and consumers have their replicas; without --replicas, warn about a single one."""
    kept = ("stream", "bucket", "inputs")
    streams = [item.name for item in findings if item.kind in kept and item.outcome != "missing"]
    if replicas is None:
        one = await lazy.replicas.stream_replicas(bus, streams[0])
        if one.cluster and one.wanted == 1:
            output.remark(
                f"{one.name} has one replica in the cluster {one.cluster}: it is unavailable while its server is down; "
                "for three: agentbus setup --replicas 3"
            )
        return
    if replicas == 1:
        return
    if any(item.outcome in ("made", "updated") for item in findings):
        output.remark(f"waiting until all replicas are current, up to {wait_s:g} s")
    left = await lazy.replicas.until_complete(bus, streams, agents, timeout_s=wait_s)
    if left:
        raise BusError(
            f"not everything has {replicas} current replicas after {wait_s:g} s: {left[0]}"
            f"{f', and {len(left) - 1} more' if left[1:] else ''}. Nothing is lost, and copying continues once "
            "all servers are up; check with: agentbus doctor --role administrator"
        )
    output.remark(f"everything has {replicas} replicas, and all are current")


def _print(findings: "Sequence[Finding]", *, update: bool) -> None:
    if output.on_terminal():
        output.table(
            ["kind", "name", "outcome", "differences"],
            [[item.kind, item.name, item.outcome, "\n".join(item.differences)] for item in findings],
        )
    else:
        for item in findings:
            output.json_line(
                {
                    "kind": item.kind,
                    "name": item.name,
                    "outcome": item.outcome,
                    **({"differences": list(item.differences)} if item.differences else {}),
                }
            )
    if not update and any(item.outcome == "different" for item in findings):
        output.remark("some of these differ from what agentbus needs; --update changes what can be changed")

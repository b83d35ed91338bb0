"""`agentbus init`: makes a bus that other machines can join."""

import shlex
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from agentbus.cli import lazy, output
from agentbus.cli.operator.next_steps import apply_change, bundle_command, reload_command, server_command, setup_command
from agentbus.cli.options import DEFAULT_BUS_FOLDER, FILE, FOLDER, Count, agents_option

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agentbus.provision.bus_folder.folder import BusFolder


@click.command(
    short_help="Make a bus: server configuration, certificates, accounts.",
    epilog="""\b
Examples:
  agentbus init --host bus.example.com --agent code --agent doc
  agentbus init /srv/agentbus --host 10.0.0.5 --agent code
  agentbus init --host bus.example.com --agent code --connections-of-agent 300
  agentbus init --host bus.example.com --cert fullchain.pem --key privkey.pem
  agentbus init --member 10.0.0.5 --member 10.0.0.6 --member 10.0.0.7 --agent code
  agentbus init --host bus.example.com --renew-certificate
  agentbus init --rewrite-accounts --connections-of-agent 300
  agentbus init --upgrade""",
)
@click.argument("folder", type=FOLDER, default=DEFAULT_BUS_FOLDER)
@click.option(
    "--host",
    "hosts",
    metavar="HOST",
    multiple=True,
    help="Name or address under which clients reach the server; repeatable, the first goes into the URL. Without any, "
    "the server listens on this machine only. In a cluster, a name that all servers have besides their own.",
)
@click.option(
    "--member",
    "members",
    metavar="HOST[:PORT[:CLUSTER_PORT]]",
    multiple=True,
    help="A server of a cluster, by the name or address under which clients and the other servers reach it; three "
    "or five.",
)
@agents_option("An agent to add")
@click.option("--port", type=Count(1, 65535), default=7422, show_default=True, help="The port for clients.")
@click.option(
    "--cluster-port",
    type=Count(1, 65535),
    default=6222,
    show_default=True,
    help="The port for the other servers of its cluster.",
)
@click.option(
    "--listen", metavar="ADDRESS", help="The address to listen on; default: all, or 127.0.0.1 without --host."
)
@click.option(
    "--monitoring-port",
    type=Count(0, 65535),
    default=8222,
    show_default=True,
    help="For health checks, on 127.0.0.1; 0 takes a free one.",
)
@click.option(
    "--auth", type=click.Choice(["nkey", "password"]), default="nkey", show_default=True, help="How parties sign in."
)
@click.option("--cert", metavar="FILE", type=FILE, help="The server's certificate; default: one from a CA of its own.")
@click.option("--key", metavar="FILE", type=FILE, help="Its private key.")
@click.option("--ca", metavar="FILE", type=FILE, help="Its CA, if machines do not trust that already.")
@click.option("--store", metavar="FOLDER", type=FOLDER, help="Where messages are kept.")
@click.option("--max-memory", metavar="SIZE", default="256MiB", show_default=True, help="Limit of memory for messages.")
@click.option(
    "--max-file", metavar="SIZE", default="10GiB", show_default=True, help="Limit of disk space for messages."
)
@click.option(
    "--connections",
    metavar="N",
    type=Count(1, 1_000_000),
    default=4096,
    show_default=True,
    help="How many connections a server takes.",
)
@click.option(
    "--connections-of-agent",
    metavar="N",
    type=Count(1, 65_536),
    default=64,
    show_default=True,
    help="How many of them one agent may have: each worker process is one. Also of one coordinator.",
)
@click.option(
    "--renew-certificate", "only_renew", is_flag=True, help="Only sign a new server certificate, for --host as given."
)
@click.option(
    "--rewrite-accounts",
    "only_rewrite",
    is_flag=True,
    help="Only write accounts.conf again, with --connections-of-agent as given, or as bus.toml has it.",
)
@click.option(
    "--upgrade", "only_upgrade", is_flag=True, help="Only bring a bus of an earlier version to the newest layout."
)
def init(
    folder: "Path",
    agents: tuple[str, ...],
    *,
    auth: Literal["nkey", "password"],
    only_renew: bool,
    only_rewrite: bool,
    only_upgrade: bool,
    **options: Any,
) -> None:
    """Make a bus in FOLDER (default: ~/.agentbus/bus).

    The bus has TLS, JetStream, an administrator and a coordinator. Each agent gets an account of its own, which permits
    what its workers need and nothing else.
    """
    parts: dict[str, tuple[bool, Callable[[BusFolder], None]]] = {
        "--upgrade": (only_upgrade, _upgrade),
        "--renew-certificate": (only_renew, lambda bus: _renew(bus, options["hosts"])),
        "--rewrite-accounts": (only_rewrite, lambda bus: _rewrite(bus, options["connections_of_agent"])),
    }
    chosen = [name for name, (wanted, _) in parts.items() if wanted]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other.", click.get_current_context())
    if chosen:
        _, change = parts[chosen[0]]
        change(lazy.folder.BusFolder(folder))
        return
    ports = {"port": options["port"], "cluster_port": options["cluster_port"]}
    plan = lazy.new_bus.Plan(
        hosts=options["hosts"],
        members=tuple(lazy.server_folder.read_member(text, **ports) for text in options["members"]),
        port=options["port"],
        monitoring_port=options["monitoring_port"],
        listen=options["listen"],
        auth=auth,
        certificate=options["cert"],
        key=options["key"],
        ca=options["ca"],
        store=options["store"],
        max_memory=options["max_memory"],
        max_file=options["max_file"],
        connections=options["connections"],
        connections_of_agent=options["connections_of_agent"],
    )
    bus = lazy.new_bus.create(folder, plan, agents)
    output.line(f"made a bus for {bus.url} in {bus.path}")
    if bus.clustered:
        output.line("copy each of these folders to its machine:")
        for server in bus.servers:
            output.line(f"  {server.path}  to {server.member.host if server.member else ''}")
        output.line("and start the server in it:\n  nats-server -c nats-server.conf")
    else:
        output.line(f"start its server:\n  {shlex.join([server_command(), '-c', str(bus.servers[0].configuration)])}")
    output.line(f"then make its streams:\n  {setup_command(bus, bus.agents)}")
    output.line("a file for each machine that joins:")
    for name in ("main", *bus.agents):
        output.line(f"  {bundle_command(bus, 'agent', name)}")


def _upgrade(bus: "BusFolder") -> None:
    lazy.session.run(lazy.upgrade.upgrade(bus))


def _renew(bus: "BusFolder", hosts: tuple[str, ...]) -> None:
    lazy.server_certificates.renew_certificate(bus, hosts)
    if bus.clustered:
        where = bus.path / "servers"
        output.line(f"new certificates are in {where}; {apply_change(bus, 'server*.pem')}:\n  {reload_command(bus)}")
    else:
        output.line(f"a new certificate is in {bus.path / 'tls'}; {apply_change(bus)}:\n  {reload_command(bus)}")


def _rewrite(bus: "BusFolder", connections: int) -> None:
    given = click.get_current_context().get_parameter_source("connections_of_agent") is not ParameterSource.DEFAULT
    bus.rewrite_accounts(connections if given else None)
    output.line(
        f"accounts.conf allows each agent {bus.connections_of_agent} connections; {apply_change(bus)}:\n"
        f"  {reload_command(bus)}"
    )

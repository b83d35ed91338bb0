"""The `agentbus-mcp` command: serves MCP over standard input and output, or over HTTP."""

import gc
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from agentbus.config.addresses import Address
from agentbus.config.home import in_home
from agentbus.terminal import program
from agentbus.version import __version__
from agentbus_mcp.transports import http_settings
from agentbus_mcp.transports.http_settings import HttpSettings, PageSettings

if TYPE_CHECKING:
    from agentbus.config.connection_settings import ConnectionSettings
    from agentbus.protocol.roles import Role

log = logging.getLogger("agentbus.mcp")
_PAGE: Final = PageSettings(prefix="/ui")
_HTTP_OPTIONS: Final = (
    "token_file",
    "tokens",
    "hosts",
    "origins",
    "max_sessions",
    "idle_s",
    "of_one_address",
    "metrics_port",
    "page",
)


class Text(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # generic in new versions only
    """An option that a function parses; its `ValueError` becomes a usage error."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the value of an option."""
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(f"{value!a} {error}", param, ctx)


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  agentbus-mcp                                           the bus of `agentbus up` on this machine
  agentbus-mcp --nats-url nats://bus.example.com:7422    another bus
  agentbus-mcp --config ~/.agentbus/team.toml            a bus with credentials
  claude mcp add agentbus -- uvx agentbus-mcp            in Claude Code
  codex mcp add agentbus -- uvx agentbus-mcp             in Codex
  agentbus-mcp --http 127.0.0.1:8765                     for several clients on this machine
  agentbus-mcp --http 0.0.0.0:8765 --token-file ~/.agentbus/mcp.token --allowed-host bus.example.com
  agentbus-mcp --http 127.0.0.1:8765 --tokens ~/.agentbus/mcp-tokens.toml      for a team""",
)
@click.option(
    "--nats-url",
    metavar="URL",
    help="The bus, e.g. nats://host:4222 or tls://host:4222. Put a password into a file instead (see --config).",
)
@click.option(
    "--config",
    "path",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration of the coordinator; default: $AGENTBUS_NATS_URL, ~/.agentbus/coordinator.toml, "
    "then the local bus of `agentbus up`.",
)
@click.option(
    "--http",
    "address",
    metavar="HOST:PORT",
    type=Text("address", http_settings.listen_address),
    help="Serve MCP over HTTP, at http://HOST:PORT/mcp, to many clients, and print that URL. Port 0 picks a free one.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --http: clients must send the token on the file's first line as `Authorization: Bearer …`. Required "
    "where other machines can connect.",
)
@click.option(
    "--tokens",
    "tokens",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --http: named tokens, each with a coordinator of its own, from the file that `agentbus mcp token add` "
    "writes. Takes the place of --token-file, --config and --nats-url.",
)
@click.option(
    "--allowed-host",
    "hosts",
    metavar="NAME",
    multiple=True,
    type=Text("host", http_settings.host_name),
    help="With --http: a name by which clients call the server, besides its address and localhost. Repeatable.",
)
@click.option(
    "--allowed-origin",
    "origins",
    metavar="ORIGIN",
    multiple=True,
    type=Text("origin", http_settings.origin),
    help="With --http: pages from here may use the server, e.g. https://app.example.com. Repeatable.",
)
@click.option(
    "--max-sessions",
    metavar="N",
    type=click.IntRange(min=1),
    default=http_settings.MAX_SESSIONS,
    show_default=True,
    help="With --http: how many sessions of 2025 clients may be open. Clients of 2026-07-28 have none.",
)
@click.option(
    "--session-idle-seconds",
    "idle_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True, max=7 * 86_400),
    default=http_settings.IDLE_S,
    show_default=True,
    help="With --http: a session that is not used for so long is closed.",
)
@click.option(
    "--max-connections-per-address",
    "of_one_address",
    metavar="N",
    type=click.IntRange(min=1),
    help="With --http: how many connections one remote address may have; default: half of all. Raise it behind a "
    "proxy, from which all clients come.",
)
@click.option(
    "--metrics-port",
    metavar="PORT",
    type=click.IntRange(0, 65_535),
    help="With --http: serve metrics for Prometheus at http://127.0.0.1:PORT/metrics, to this machine alone. Port 0 "
    'picks a free one. Needs: pip install "agentbus-mcp[metrics]"',
)
@click.option("--ui", "page", is_flag=True, help="With --http: serve the page of `agentbus ui` as well, at /ui/.")
@click.version_option(__version__, prog_name="agentbus-mcp")
def command(  # noqa: PLR0913, PLR0917  # an argument for each option
    nats_url: str | None,
    path: Path | None,
    address: Address | None,
    token_file: Path | None,
    tokens: Path | None,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    max_sessions: int,
    idle_s: float,
    of_one_address: int | None,
    metrics_port: int | None,
    page: bool,  # click passes it by name
) -> None:
    """Give tasks to agents on other machines, and get their results, from any MCP client.

    Speaks MCP on standard input and output, or over HTTP; log lines go to standard error. The server starts without a
    bus and connects as soon as there is one.
    """
    if address is None:
        _refuse_http_options()
    if tokens is not None and (token_file or path or nats_url):
        raise click.UsageError("--tokens excludes --token-file, --config and --nats-url: each token has its own")
    from agentbus_mcp.logs import log_to_stderr  # noqa: PLC0415  # --help needs none of it

    log_to_stderr()
    if address is None:
        with _importing():
            from agentbus_mcp.transports import stdio  # noqa: PLC0415

        stdio.serve(*_coordinator(nats_url, path))
        return
    options = HttpSettings(
        address,
        _token(token_file) if token_file is not None else None,
        hosts,
        origins,
        max_sessions,
        idle_s,
        named_tokens=tokens is not None,
        connections_of_one_address=of_one_address,
    )
    if tokens is not None:
        _serve_named(in_home(tokens).absolute(), options, metrics_port, page=_PAGE if page else None)
    else:
        served = _coordinator(nats_url, path)
        _serve(*served, options=options, metrics_port=metrics_port, page=_PAGE if page else None)


@contextmanager
def _importing() -> Generator[None]:
    """Import the SDK without looking for garbage in it: nothing of it is, and a host waits for the first answer."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _coordinator(nats_url: str | None, path: Path | None) -> tuple["ConnectionSettings", str, "Role", tuple[Path, ...]]:
    """How the one coordinator is on the bus, its id and its role, and the folders that its tools may use."""
    from agentbus.config.connection_settings import connection_settings  # noqa: PLC0415
    from agentbus.config.loading import load_coordinator  # noqa: PLC0415

    config, warnings = load_coordinator(nats_url=nats_url, path=path)
    settings = connection_settings(config.nats, agent=config.coordinator.id, name="agentbus-mcp", reconnect_wait_s=1)
    for warning in warnings:
        log.warning("%s", warning)
    return settings, config.coordinator.id, config.coordinator.effective_role, config.mcp.folders or ()


def _serve(
    settings: "ConnectionSettings",
    agent: str,
    role: "Role",
    folders: tuple[Path, ...],
    *,
    options: HttpSettings,
    metrics_port: int | None,
    page: PageSettings | None,
) -> None:
    """Serve one coordinator over HTTP."""
    from agentbus_mcp.metrics import metrics_on  # noqa: PLC0415

    with options.listen() as listener, metrics_on(metrics_port) as metrics:
        from agentbus_mcp.transports import streamable_http  # noqa: PLC0415

        streamable_http.serve(
            settings, agent, options, listener, metrics=metrics, role=role, folders=folders, page=page
        )


def _serve_named(tokens: Path, options: HttpSettings, metrics_port: int | None, *, page: PageSettings | None) -> None:
    """Serve the coordinators of named tokens over HTTP."""
    from agentbus_mcp.metrics import metrics_on  # noqa: PLC0415
    from agentbus_mcp.transports.coordinators import read_clients  # noqa: PLC0415

    clients = read_clients(tokens)
    with options.listen() as listener, metrics_on(metrics_port) as metrics:
        from agentbus_mcp.transports import streamable_http  # noqa: PLC0415

        streamable_http.serve_named(tokens, clients, options, listener, metrics=metrics, page=page)


def _refuse_http_options() -> None:
    """Raise a usage error for an option that has no effect without `--http`."""
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        if name in _HTTP_OPTIONS and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} goes with --http HOST:PORT")


def _token(file: Path) -> str:
    token, warnings = http_settings.read_token(file)
    for warning in warnings:
        log.warning("%s", warning)
    return token


def main() -> None:
    """Run the server. A configuration that cannot be used gives one line on stderr and exit code 1."""
    with program():
        command(prog_name="agentbus-mcp")

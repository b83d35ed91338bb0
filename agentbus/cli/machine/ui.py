"""`agentbus ui`: serves the page on which a person sees the bus and acts."""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from agentbus.cli import lazy, output
from agentbus.cli.options import FILE, Count, bus_options
from agentbus.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path
    from socket import socket

    from agentbus.config.addresses import Address
    from agentbus_mcp.transports.http_settings import HttpSettings

_PORT = 8770


@click.command(
    short_help="See the bus in a browser, and act there.",
    epilog="""\b
Examples:
  agentbus ui
  agentbus ui --read-only --no-browser           for a screen on the wall
  agentbus ui --host 192.168.1.5                 for a phone in the same network
  agentbus ui --tokens ~/.agentbus/mcp-tokens.toml --host 0.0.0.0 --allowed-host bus.example.com

\b
It prints a link that opens the page once, and is used up by that; with --tokens, each signs in with a token of the
file, which agentbus mcp token add writes. In a pipe, it prints a line of JSON with url and ui.""",
)
@click.option(
    "--port",
    type=Count(0, 65535),
    help=f"0 picks a free one.  [default: {_PORT}, or a free one where that is taken]",
)
@click.option("--host", metavar="NAME", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--allowed-host", "hosts", metavar="NAME", multiple=True, help="A name by which browsers call it; repeatable."
)
@click.option("--no-browser", is_flag=True, help="Open no browser.")
@click.option("--read-only", is_flag=True, help="Only show: refuse every action.")
@click.option("--tokens", metavar="FILE", type=FILE, help="Named tokens, each with a coordinator of its own.")
@bus_options
def ui(  # an argument for each option
    nats_url: str | None,
    config: "Path | None",
    *,
    port: int | None,
    host: str,
    hosts: tuple[str, ...],
    no_browser: bool,
    read_only: bool,
    tokens: "Path | None",
) -> None:
    """See on a page what needs you, what runs and what it costs; publish, answer, cancel and follow up there.

    The page is for the browsers of this machine alone, unless --host says otherwise. It acts as the coordinator of its
    configuration.
    """
    if tokens is not None and (config or nats_url):
        raise click.UsageError("--tokens excludes --config and --nats-url: each token has its own")
    from agentbus_mcp.logs import log_to_stderr  # noqa: PLC0415  # --help needs none of it
    from agentbus_mcp.transports import http_settings  # noqa: PLC0415
    from agentbus_mcp.transports.pages import page_server  # noqa: PLC0415

    log_to_stderr("agentbus ui")
    page = http_settings.PageSettings(read_only=read_only)
    settings = http_settings.HttpSettings(_address(host, port), None, _names(hosts), named_tokens=True)
    if tokens is not None:
        with _listener(settings, port) as listener:
            file = lazy.home.in_home(tokens).absolute()
            page_server.serve_page_of_named(file, settings, page, listener, browser=not no_browser)
        return
    found, warnings = lazy.loading.load_coordinator(nats_url=nats_url, path=config)
    for warning in warnings:
        output.remark(f"warning: {warning}")
    with _listener(settings, port) as listener:
        page_server.serve_page(found, settings, page, listener, browser=not no_browser)


def _address(host: str, port: int | None) -> "Address":
    from agentbus_mcp.transports.http_settings import listen_address  # noqa: PLC0415  # --help needs none of it

    shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
    try:
        return listen_address(f"{shown}:{_PORT if port is None else port}")
    except ValueError as error:
        raise click.UsageError(f"--host {host!a} {error}") from None


def _names(hosts: tuple[str, ...]) -> tuple[str, ...]:
    from agentbus_mcp.transports.http_settings import host_name  # noqa: PLC0415  # --help needs none of it

    try:
        return tuple(host_name(name) for name in hosts)
    except ValueError as error:
        raise click.UsageError(f"--allowed-host {error}") from None


def _listener(settings: "HttpSettings", port: int | None) -> "socket":
    """Listen on the port that was asked for or, if none was, on a free one where ours is taken."""
    try:
        return settings.listen()
    except ConfigError:
        if port is not None:
            raise
        return replace(settings, address=settings.address._replace(port=0)).listen()

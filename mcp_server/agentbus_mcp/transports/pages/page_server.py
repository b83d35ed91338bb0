"""Serves the page alone, for `agentbus ui`: prints a link that opens it, and opens the browser with one."""

import asyncio
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from socket import socket
from typing import Final

import anyio

from agentbus.config.connection_settings import connection_settings
from agentbus.config.schema import CoordinatorConfig
from agentbus.protocol.json_codec import encode
from agentbus.terminal import json_line, line, on_terminal
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.transports.coordinators import Client, Coordinators, NamedCoordinators, OneCoordinator, read_clients
from agentbus_mcp.transports.http_server import serve_until_signal
from agentbus_mcp.transports.http_settings import PATH, HttpSettings, PageSettings
from agentbus_mcp.transports.pages.offered_page import OfferedPage
from agentbus_mcp.transports.pages.page_coordinator import PageCoordinator

_HOW: Final = "The link opens the page once, within 15 minutes. Enter: a new link. Ctrl-C: end"


def serve_page(
    config: CoordinatorConfig, http_settings: HttpSettings, page: PageSettings, listener: socket, *, browser: bool
) -> None:
    """Serve the page of one coordinator until SIGTERM or SIGINT."""
    who = config.coordinator
    connection = connection_settings(config.nats, agent=who.id, name="agentbus ui", reconnect_wait_s=1)
    link = BusLink(connection, who.id, who.effective_role)
    _serve(OneCoordinator(PageCoordinator(link), None), http_settings, page, listener, browser=browser)


def serve_page_of_named(
    tokens: Path, http_settings: HttpSettings, page: PageSettings, listener: socket, *, browser: bool
) -> None:
    """Serve the pages of the coordinators of named tokens: each signs in with a token of its own."""

    def make(name: str, client: Client) -> PageCoordinator:
        return PageCoordinator(BusLink(client.connection, client.agent, client.role, label=f"{name}: "))

    _serve(NamedCoordinators(tokens, read_clients(tokens), make), http_settings, page, listener, browser=browser)


def _serve(
    coordinators: Coordinators, http_settings: HttpSettings, page: PageSettings, listener: socket, *, browser: bool
) -> None:
    offered = OfferedPage(coordinators, page, listener)
    base = http_settings.url(listener).removesuffix(PATH)

    def serves() -> None:
        told = offered.told(base)["ui"]
        if not on_terminal():
            json_line(encode({"url": f"{base}/", "ui": told}))
        elif offered.has_links:
            line(told)
            line(_HOW)
            loop = asyncio.get_running_loop()
            _on_enter(loop, lambda: line(offered.link(base)))
        else:
            line(told)
            line("Sign in with a token of the file; agentbus mcp token add makes one. Ctrl-C: end")
        if browser:
            # A link of its own, so that the one that is printed is there for another browser. It may take its time.
            threading.Thread(target=_open, args=(offered.told(base)["ui"],), daemon=True).start()

    anyio.run(serve_until_signal, coordinators, offered.app(http_settings), http_settings, listener, serves)


def _open(url: str) -> None:
    webbrowser.open(url)


def _on_enter(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Call a function on the loop whenever a line is entered on the terminal, as long as there is one."""

    def read() -> None:
        source = sys.__stdin__
        while source is not None and source.isatty() and source.readline():
            loop.call_soon_threadsafe(call)

    threading.Thread(target=read, daemon=True).start()

"""The page of a server: its links, its sessions, and where it lies beside what else the server has."""

import time
from collections.abc import Callable
from socket import socket
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from agentbus_mcp.page.routes import Page
from agentbus_mcp.page.sessions import EVERYONE, Sessions
from agentbus_mcp.transports.coordinators import Coordinators
from agentbus_mcp.transports.http_settings import HttpSettings, PageSettings

_BY_LINK: Final = "Press Enter where agentbus ui runs for a new link, or take one from a browser that is signed in"
_BY_PRINTED_LINK: Final = (
    "agentbus-mcp prints a new link whenever it is started; a browser that is signed in has one, too"
)
_BY_TOKEN: Final = "Sign in with your token; agentbus mcp token add makes one"  # noqa: S105  # the way, and no token


class OfferedPage:
    """The page for the coordinators of a process."""

    def __init__(self, coordinators: Coordinators, settings: PageSettings, listener: socket) -> None:
        self._sign_in = coordinators.sign_in
        self._prefix = settings.prefix
        self._sessions = Sessions(self._is_known, time.monotonic)
        # Cookies do not tell ports apart: another server on this machine must not take this one's place.
        cookie = f"agentbus_ui_{listener.getsockname()[1]}"
        by_link = _BY_PRINTED_LINK if settings.prefix else _BY_LINK
        self._page = Page(
            self._sign_in,
            self._sessions,
            cookie=cookie,
            read_only=settings.read_only,
            entrance=by_link if self.has_links else _BY_TOKEN,
        )

    @property
    def has_links(self) -> bool:
        """Whether links open the page: where tokens are needed, those do."""
        return not self._sign_in.needs_token

    def link(self, base: str) -> str:
        """Return a link that opens the page once; `base` is the URL of the server."""
        return f"{base}{self._prefix}/#token={self._sessions.new_link(EVERYONE)}"

    def told(self, base: str) -> dict[str, str]:
        """Return what the process prints of the page: where it is, and a link where links open it."""
        return {"ui": self.link(base) if self.has_links else f"{base}{self._prefix}/"}

    def on_link_used(self, call: Callable[[], None]) -> None:
        """Have a function called whenever a browser has signed in."""
        self._page.on_link_used = call

    def app(self, http_settings: HttpSettings) -> ASGIApp:
        """Return the application of the page alone."""
        return self._page.app(http_settings.serves_host)

    def beside(self, other: ASGIApp, http_settings: HttpSettings) -> ASGIApp:
        """Return the page below its prefix, and another application everywhere else."""
        page, prefix = self.app(http_settings), self._prefix

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            path: str = scope.get("path", "")
            if scope["type"] == "http" and (path == prefix or path.startswith(f"{prefix}/")):
                await page({**scope, "root_path": f"{scope.get('root_path', '')}{prefix}"}, receive, send)
            else:
                await other(scope, receive, send)

        return serve

    def _is_known(self, token_hash: str) -> bool:
        return self._sign_in.needs_token and self._sign_in.page_of(token_hash) is not None

"""Refuses requests to the page that its own pages do not make, and says to browsers what the page may do.

It checks every path, those of files as well. Names of hosts are checked against rebinding, `Origin` and
`Sec-Fetch-Site` against other pages in the same browser; a request that changes something needs a header that no page
of another origin can send without asking first.
"""

from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentbus.config.addresses import Address, read_address
from agentbus.errors import ConfigError

HEADER: Final = "X-Agentbus-Ui"
"""What a request that changes something must have, with any value."""
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_OWN_SITES: Final = ("same-origin", "none")
_READS: Final = ("GET", "HEAD")


class Guard:
    """Passes on the requests of the page's own pages."""

    def __init__(self, app: ASGIApp, serves_host: Callable[[Address], bool]) -> None:
        self._app = app
        self._serves_host = serves_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it: 421 for another host, 403 for another origin or without our header."""
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        app = self._app if refusal is None else PlainTextResponse(f"{refusal[1]}\n", status_code=refusal[0])
        await app(scope, receive, with_headers)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "").lower()
        try:
            address = read_address(host, default_port=0) if host.isascii() else None
        except ConfigError:
            address = None
        if address is None or not self._serves_host(address):
            return 421, "This page is served under another name: use the link that agentbus ui printed"
        if not _is_own(headers, host):
            return 403, "Only the pages of this server may use it"
        if method not in _READS and HEADER not in headers:
            return 403, f"The header {HEADER} is missing"
        return None


def _is_own(headers: Headers, host: str) -> bool:
    """Whether a request comes from a page of this server, or from no page at all."""
    origin = headers.get("origin", "").lower()
    if origin and origin not in (f"http://{host}", f"https://{host}"):
        return False
    return headers.get("sec-fetch-site", "none") in _OWN_SITES

"""Finds the coordinator that serves an HTTP request, by its bearer token. No other module does."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agentbus.config.mcp_tokens import hash_of
from agentbus_mcp.transports.served import Served

if TYPE_CHECKING:
    from agentbus_mcp.page.served_page import ServedPage


class SignIn:
    """Passes a request to the coordinator of its bearer token; without a known token it answers with a challenge.

    Tokens are looked up by their hashes, so the time of a look-up reveals nothing about a token.
    """

    def __init__(self, *, everyone: Served | None = None) -> None:
        """Pass requests without a token to `everyone`; if it is None, refuse all until `admit` is called."""
        self._everyone = everyone
        self._by_hash: Mapping[str, Served] = {}

    def admit(self, coordinators: Mapping[str, Served]) -> None:
        """Serve only these coordinators from now on, by the hashes of their tokens."""
        self._by_hash = dict(coordinators)

    @property
    def needs_token(self) -> bool:
        """Whether only requests with a known token are served."""
        return self._everyone is None

    def page_of(self, token_hash: str) -> "ServedPage | None":
        """Return the page of the token with this hash; that of all requests, where they need no token."""
        served = self._everyone or self._by_hash.get(token_hash)
        return served.page if served is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        coordinator = self._coordinator_of(headers)
        # RFC 6750: the challenge names no error if the request had no credentials.
        app = coordinator or challenge(invalid="authorization" in headers)
        await app(scope, receive, send)

    def _coordinator_of(self, headers: Headers) -> Served | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        known = self._by_hash.get(hash_of(token.strip())) if scheme.lower() == "bearer" else None
        return self._everyone or known


def challenge(*, invalid: bool) -> Response:
    """Return the answer to an unknown client, which says nothing about this server."""
    return Response(
        status_code=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"' if invalid else "Bearer"}
    )

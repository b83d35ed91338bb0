"""Finds the coordinator that serves an HTTP request, by its bearer token. No other module does."""

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agentbus.config.mcp_tokens import hash_of


class SignIn:
    """Passes a request to the coordinator of its bearer token; without a known token it answers with a challenge.

    Tokens are looked up by their hashes, so the time of a look-up reveals nothing about a token.
    """

    def __init__(self, *, everyone: ASGIApp | None = None) -> None:
        """Pass requests without a token to `everyone`; if it is None, refuse all until `admit` is called."""
        self._everyone = everyone
        self._by_hash: Mapping[str, ASGIApp] = {}

    def admit(self, coordinators: Mapping[str, ASGIApp]) -> None:
        """Serve only these coordinators from now on, by the hashes of their tokens."""
        self._by_hash = dict(coordinators)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        coordinator = self._coordinator_of(headers)
        # RFC 6750: the challenge names no error if the request had no credentials.
        app = coordinator or challenge(invalid="authorization" in headers)
        await app(scope, receive, send)

    def _coordinator_of(self, headers: Headers) -> ASGIApp | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        known = self._by_hash.get(hash_of(token.strip())) if scheme.lower() == "bearer" else None
        return self._everyone or known


def challenge(*, invalid: bool) -> Response:
    """Return the answer to an unknown client, which says nothing about this server."""
    return Response(
        status_code=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"' if invalid else "Bearer"}
    )

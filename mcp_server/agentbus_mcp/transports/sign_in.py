"""Turns a request over HTTP into the coordinator as whose client it is served. No other module does."""

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agentbus.config.mcp_tokens import hash_of


class SignIn:
    """Passes a request on to the coordinator of its bearer token; without a known token it answers with a challenge.

    Tokens are looked up by their hashes: how long that takes says nothing about a token.
    """

    def __init__(self, *, everyone: ASGIApp | None = None) -> None:
        """Serve `everyone` without a token; without that, serve no client until `admit` is called."""
        self._everyone = everyone
        self._by_hash: Mapping[str, ASGIApp] = {}

    def admit(self, coordinators: Mapping[str, ASGIApp]) -> None:
        """Serve these coordinators from now on, by the hashes of their tokens, and no other."""
        self._by_hash = dict(coordinators)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        coordinator = self._coordinator_of(headers)
        # RFC 6750: no error is named to a client that has sent no credentials.
        app = coordinator or challenge(invalid="authorization" in headers)
        await app(scope, receive, send)

    def _coordinator_of(self, headers: Headers) -> ASGIApp | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        known = self._by_hash.get(hash_of(token.strip())) if scheme.lower() == "bearer" else None
        return self._everyone or known


def challenge(*, invalid: bool) -> Response:
    """The answer to a client that is not known. It says nothing about this server."""
    return Response(
        status_code=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"' if invalid else "Bearer"}
    )

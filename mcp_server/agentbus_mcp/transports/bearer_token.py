"""Checks the bearer token of requests over HTTP."""

import hmac

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


class BearerToken:
    """Serves only requests with the token, compared in constant time, except for the paths in `public`."""

    def __init__(self, app: ASGIApp, token: str, *, public: frozenset[str]) -> None:
        self._app = app
        self._expected = token.encode()
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or answer with a challenge that says nothing about this server."""
        if scope["type"] == "http" and scope["path"] not in self._public:
            headers = Headers(scope=scope)
            if not self._known(headers):
                # RFC 6750: no error is named to a client that has sent no credentials.
                challenge = 'Bearer error="invalid_token"' if "authorization" in headers else "Bearer"
                await Response(status_code=401, headers={"WWW-Authenticate": challenge})(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _known(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return hmac.compare_digest(token.strip().encode(), self._expected) and scheme.lower() == "bearer"

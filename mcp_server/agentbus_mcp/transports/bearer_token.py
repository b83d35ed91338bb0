"""Checks the bearer token of requests over HTTP."""

import hmac

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class BearerToken:
    """Serves only requests with the token, compared in constant time, except for the paths in `public`."""

    def __init__(self, app: ASGIApp, token: str, *, public: frozenset[str]) -> None:
        self._app = app
        self._expected = token.encode()
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it with 401."""
        if scope["type"] == "http" and scope["path"] not in self._public and not self._known(Headers(scope=scope)):
            body = {"error": "invalid_token", "error_description": "this server wants its token as a bearer token"}
            refusal = JSONResponse(body, status_code=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return hmac.compare_digest(token.strip().encode(), self._expected) and scheme.lower() == "bearer"

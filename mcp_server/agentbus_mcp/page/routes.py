"""The paths of the page: its files, and the data and actions behind them as JSON."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

import agentbus.ui
from agentbus.config.addresses import Address
from agentbus.errors import (
    AgentBusError,
    BusUnavailableError,
    MessageError,
    PermissionDeniedError,
    TaskConflictError,
    TaskNotFoundError,
)
from agentbus.protocol.json_codec import Json, decode, encode, object_in
from agentbus.ui.actions import ACTIONS, Fields
from agentbus.ui.asked_numbers import number_in
from agentbus.ui.board import older_questions
from agentbus.ui.costs import costs
from agentbus.ui.feed import NOTHING
from agentbus.ui.left_work import file_pieces, patch_lines
from agentbus.ui.task_lists import task_list
from agentbus.ui.task_page import task_page, whole_text
from agentbus_mcp.page.event_stream import events
from agentbus_mcp.page.guard import Guard
from agentbus_mcp.page.served_page import ServedPage
from agentbus_mcp.page.sessions import Session, Sessions

STATIC: Final = Path(agentbus.ui.__file__).parent / "static"
_MAX_BODY_BYTES: Final = 4 << 20
"""Of an action: the largest task that the bus takes, with each character escaped."""
_COST_DAYS: Final = 7
"""For which cost is added up where the page does not say."""
_STATUS_OF: Final[tuple[tuple[type[AgentBusError], HTTPStatus], ...]] = (
    (BusUnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (TaskNotFoundError, HTTPStatus.NOT_FOUND),
    (TaskConflictError, HTTPStatus.CONFLICT),
    (PermissionDeniedError, HTTPStatus.FORBIDDEN),
)
_USED: Final = "This link was used, or is too old: each opens the page once, within 15 minutes"
_NO_SESSION: Final = "This browser is not signed in; a server that is started anew ends all sessions"
_READ_ONLY: Final = "This page only shows: it was started with --read-only"


class Admission(Protocol):
    """Knows the coordinators of tokens."""

    def page_of(self, token_hash: str) -> ServedPage | None:
        """Return the page of the token with this hash, or that of all who come."""
        ...


class Page:
    """The page of a process, for the coordinators that it serves."""

    def __init__(
        self, admission: Admission, sessions: Sessions, *, cookie: str, read_only: bool, entrance: str
    ) -> None:
        """Make the page.

        Args:
            cookie: a name that no other server on this machine uses.
            entrance: how a person signs in, as a sentence.
        """
        self._admission = admission
        self._sessions = sessions
        self._cookie = cookie
        self._read_only = read_only
        self._entrance = entrance
        self.on_link_used: Callable[[], None] = lambda: None

    def app(self, serves_host: Callable[[Address], bool]) -> ASGIApp:
        """Build the application."""
        routes = [
            Route("/", self._index),
            Route("/api/session", self._session, methods=["GET"]),
            Route("/api/session", self._sign_in, methods=["POST"]),
            Route("/api/sign-out", self._sign_out, methods=["POST"]),
            Route("/api/link", self._link, methods=["POST"]),
            Route("/api/board", self._signed_in(self._board)),
            Route("/api/events", self._events),
            Route("/api/task", self._signed_in(self._task)),
            Route("/api/text", self._signed_in(self._text)),
            Route("/api/tasks", self._signed_in(self._tasks)),
            Route("/api/questions", self._signed_in(self._questions)),
            Route("/api/patch", self._signed_in(self._patch)),
            Route("/api/file", self._signed_in(self._file)),
            Route("/api/cost", self._signed_in(self._cost)),
            Route("/api/act/{action}", self._act, methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        pages = Starlette(routes=routes)

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            # Relative: a proxy with TLS before this server has another scheme and name than the request says.
            place: str = scope.get("root_path", "")
            with_slash = place and scope["path"] == place
            app = RedirectResponse(f"{place.rpartition('/')[2]}/") if with_slash else pages
            await app(scope, receive, send)

        return Guard(serve, serves_host)

    # -- signing in

    async def _index(self, _: Request) -> Response:
        """The page itself: it holds nothing, and asks for all that it shows."""
        text = (STATIC / "index.html").read_text(encoding="utf-8")
        return Response(text, media_type="text/html")

    async def _sign_in(self, request: Request) -> Response:
        try:
            token = object_in(await _body(request)).get("token")
        except MessageError as error:
            return _refusal(error)
        key = self._sessions.redeem(token.strip()) if isinstance(token, str) else None
        if key is None:
            return self._signed_out(_USED)
        self.on_link_used()
        answer = JSONResponse({})
        secure = request.headers.get("origin", "").startswith("https:")
        answer.set_cookie(
            self._cookie, key, path=_path(request), httponly=True, samesite="strict", secure=secure, max_age=7 * 86_400
        )
        return answer

    async def _session(self, request: Request) -> Response:
        found = self._found(request)
        if found is None:
            return self._signed_out()
        link = found[0].link
        return JSONResponse({"coordinator": link.agent, "role": link.role, "read_only": self._read_only, "now": _now()})

    async def _sign_out(self, request: Request) -> Response:
        self._sessions.sign_out(request.cookies.get(self._cookie, ""))
        answer = JSONResponse({"how": self._entrance})
        answer.delete_cookie(self._cookie, path=_path(request), httponly=True, samesite="strict")
        return answer

    async def _link(self, request: Request) -> Response:
        """Make a link for another browser of the one who is signed in."""
        found = self._found(request)
        if found is None:
            return self._signed_out()
        return JSONResponse({"token": self._sessions.new_link(found[1].identity)})

    def _signed_out(self, why: str = _NO_SESSION) -> Response:
        return _error(HTTPStatus.UNAUTHORIZED, f"{why}. {self._entrance}")

    def _found(self, request: Request) -> tuple[ServedPage, Session] | None:
        session = self._sessions.of_key(request.cookies.get(self._cookie, ""))
        page = self._admission.page_of(session.identity) if session is not None else None
        return (page, session) if page is not None and session is not None else None

    # -- what it shows

    def _signed_in(
        self, show: Callable[[ServedPage, Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            found = self._found(request)
            if found is None:
                return self._signed_out()
            try:
                return await show(found[0], request)
            except AgentBusError as error:
                return _refusal(error)

        return serve

    async def _board(self, page: ServedPage, _: Request) -> Response:
        return _json({**await page.feed.current(), "boot": page.boot, "now": _now()})

    async def _events(self, request: Request) -> Response:
        found = self._found(request)
        if found is None:
            return self._signed_out()
        page, session = found
        since = number_in(request.query_params.get("since", ""))
        # After a restart of this server, versions begin anew.
        seen = since if since is not None and request.query_params.get("boot") == page.boot else NOTHING
        stream = events(page, request.query_params.get("task") or None, seen, session.ended)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def _task(self, page: ServedPage, request: Request) -> Response:
        bus = await page.coordinator()
        return _json(await task_page(bus, request.query_params.get("name", "")))

    async def _text(self, page: ServedPage, request: Request) -> Response:
        bus = await page.coordinator()
        part = "answer" if request.query_params.get("part") == "answer" else "prompt"
        return PlainTextResponse(await whole_text(bus, request.query_params.get("name", ""), part))

    async def _tasks(self, page: ServedPage, request: Request) -> Response:
        return _json(await task_list(await page.coordinator(), request.query_params))

    async def _questions(self, page: ServedPage, request: Request) -> Response:
        before = number_in(request.query_params.get("cursor", ""))
        return _json(await older_questions(await page.coordinator(), before))

    async def _patch(self, page: ServedPage, request: Request) -> Response:
        return _json(await patch_lines(await page.coordinator(), request.query_params.get("name", "")))

    async def _file(self, page: ServedPage, request: Request) -> Response:
        """A file of an agent, to be saved: no browser shows it as a page of this server."""
        asked = request.query_params
        size, pieces = await file_pieces(await page.coordinator(), asked.get("name", ""), asked.get("file", ""))
        headers = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{_percent(asked.get('file', ''))}",
            "Content-Length": str(size),
            "Content-Security-Policy": "sandbox; default-src 'none'",
        }
        return StreamingResponse(_whole(pieces), media_type="application/octet-stream", headers=headers)

    async def _cost(self, page: ServedPage, request: Request) -> Response:
        days = number_in(request.query_params.get("days", ""))
        return _json(await costs(await page.coordinator(), _COST_DAYS if days is None else days))

    # -- what it does

    async def _act(self, request: Request) -> Response:
        found, act = self._found(request), ACTIONS.get(request.path_params["action"])
        if found is None:
            return self._signed_out()
        if self._read_only:
            return _error(HTTPStatus.FORBIDDEN, _READ_ONLY)
        if act is None:
            return _error(HTTPStatus.NOT_FOUND, "There is no such action")
        page = found[0]
        try:
            done = await act(await page.coordinator(), Fields(object_in(await _body(request))))
        except AgentBusError as error:
            return _refusal(error)
        page.feed.hurry()
        return _json(done)


async def _body(request: Request) -> Json:
    """Read the body of a request as JSON.

    Raises:
        MessageError: it is too long, or no JSON.
    """
    data = bytearray()
    try:
        async for piece in request.stream():
            data += piece
            if len(data) > _MAX_BODY_BYTES:
                raise MessageError("this is more than the bus takes")
    except ClientDisconnect:
        raise MessageError("the request was not sent to its end") from None
    return decode(bytes(data))


def _path(request: Request) -> str:
    """Where the page lies on its server."""
    return f"{request.scope.get('root_path', '')}/"


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _json(value: Json) -> Response:
    return Response(encode(value), media_type="application/json")


def _error(status: HTTPStatus, text: str) -> Response:
    return JSONResponse({"error": text}, status_code=status)


def _refusal(error: AgentBusError) -> Response:
    status = next((found for kind, found in _STATUS_OF if isinstance(error, kind)), HTTPStatus.UNPROCESSABLE_ENTITY)
    return _error(status, str(error))


def _percent(name: str) -> str:
    """Write the name of a file for a header, without its folders."""
    return quote(name.rpartition("/")[2], safe="")


async def _whole(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Give the pieces of a file; where it is not what its result says, the answer ends early, and is none."""
    async with aclosing(pieces):
        async for piece in pieces:
            yield piece

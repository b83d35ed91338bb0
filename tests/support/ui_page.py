"""The real `agentbus ui`, and a client that is signed in to it as a browser is."""

import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from support.harness import BOUND_S, Process, process

HEADER = {"X-Agentbus-Ui": "1"}


@dataclass(frozen=True)
class UiServer:
    """The process: where its page is, and the link that it printed."""

    url: str
    link: str
    process: Process

    @property
    def token(self) -> str:
        return self.link.partition("#token=")[2]

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0


@asynccontextmanager
async def ui_server(log: Path, *args: str, command: tuple[str, ...] = ("agentbus", "ui")) -> AsyncGenerator[UiServer]:
    """`agentbus ui`, once it serves, on a free port."""
    program, *verbs = command
    more = ["--port", "0", "--no-browser"] if "ui" in verbs else []
    with process([sys.executable, "-m", program, *verbs, *more, *args], log) as child:
        await child.until_said('"ui":')
        [line] = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith('{"url":')]
        said = json.loads(line)
        yield UiServer(said["ui"].partition("#")[0], said["ui"], child)


@asynccontextmanager
async def browser(ui: UiServer, token: str | None = None) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client with a session: that of the printed link, or of another token."""
    async with httpx2.AsyncClient(base_url=ui.url, timeout=BOUND_S) as http:
        answer = await http.post("api/session", json={"token": token or ui.token}, headers=HEADER)
        assert answer.status_code == 200, answer.text
        yield http


async def new_link(http: httpx2.AsyncClient) -> str:
    """The token of a link for another browser."""
    return (await http.post("api/link", json={}, headers=HEADER)).json()["token"]


async def act(http: httpx2.AsyncClient, action: str, **fields: Any) -> httpx2.Response:
    return await http.post(f"api/act/{action}", json=fields, headers=HEADER)


async def board(http: httpx2.AsyncClient) -> dict[str, Any]:
    return (await http.get("api/board")).json()


async def frames(http: httpx2.AsyncClient, **query: Any) -> AsyncIterator[tuple[str, dict[str, Any], int]]:
    """The events of a page: the name, the data and the bytes of each, until the caller has enough."""
    async with http.stream("GET", "api/events", params=query) as answer:
        assert answer.status_code == 200
        name, size = "", 0
        async for line in answer.aiter_lines():
            size += len(line.encode()) + 1
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: ")), size
                size = 0

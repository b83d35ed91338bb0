"""A file of named tokens, changed by the real commands, and raw requests with a token."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from mcp_types.version import LATEST_MODERN_VERSION

from agentbus.config.toml_text import toml_text
from agentbus_mcp.notifications.task_notifications import TASKS_EXTENSION
from support.harness import BOUND_S, run_cli
from support.mcp_harness import INITIALIZE, HttpServer

ACCEPT = {"Accept": "application/json, text/event-stream"}


@dataclass
class Team:
    """A folder with a file of tokens and the configurations of coordinators."""

    folder: Path
    tokens: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def file(self) -> Path:
        return self.folder / "mcp-tokens.toml"

    def coordinator(self, name: str, nats: Mapping[str, Any], coordinator: str) -> Path:
        """The configuration of a coordinator."""
        path = self.folder / f"{name}.toml"
        path.write_text(toml_text({"nats": nats, "coordinator": {"id": coordinator}}), encoding="utf-8")
        path.chmod(0o600)
        return path

    async def add(self, name: str, nats: Mapping[str, Any], coordinator: str) -> str:
        """Give a client a token, with `agentbus mcp token add`."""
        config = self.coordinator(name, nats, coordinator)
        return await self.change("add", name, "--coordinator", str(config))

    async def change(self, verb: str, name: str, *more: str) -> str:
        """Change the file with a command; returns the token that it printed."""
        ran = await run_cli("mcp", "token", verb, name, *more, "--tokens", str(self.file))
        assert ran.code == 0, ran.err
        self.tokens[name] = ran.out.strip()
        return self.tokens[name]


def authorized(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def post(
    mcp: HttpServer, token: str, request: dict[str, Any] = INITIALIZE, *, method: str = "POST", **headers: str
) -> httpx2.Response:
    """One request of a 2025 client."""
    async with httpx2.AsyncClient(timeout=BOUND_S) as http:
        sent = {**ACCEPT, **authorized(token), **headers}
        return await http.request(method, mcp.url, json=request if method == "POST" else None, headers=sent)


async def modern(mcp: HttpServer, token: str, method: str, params: dict[str, Any], name: str) -> dict[str, Any]:
    """One request of a 2026 client that knows MCP tasks; returns the message that answers it."""
    request, headers = modern_request(method, params, name)
    answer = await post(mcp, token, request, **headers)
    if answer.headers["content-type"].startswith("text/event-stream"):
        [line] = [line for line in answer.text.splitlines() if line.startswith("data:")]
        return json.loads(line.removeprefix("data:"))
    return answer.json()


def modern_request(
    method: str, params: dict[str, Any], name: str = "", *, tasks: bool = True
) -> tuple[dict[str, Any], dict[str, str]]:
    """The body and the headers of a request of 2026-07-28."""
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": LATEST_MODERN_VERSION,
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS_EXTENSION: {}} if tasks else {}},
        "progressToken": 1,
    }
    headers = {"MCP-Protocol-Version": LATEST_MODERN_VERSION, "Mcp-Method": method}
    if name:
        headers["Mcp-Name"] = name
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}, headers

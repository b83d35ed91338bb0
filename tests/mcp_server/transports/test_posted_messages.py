"""Messages as sloppy clients post them, over HTTP: paths, names, halves of characters, one id for several calls."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp_types.version import LATEST_MODERN_VERSION

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.harness import BOUND_S
from support.mcp_harness import INITIALIZE, NOWHERE, HttpServer, http_server, settle
from support.raw_http import TOKEN

pytestmark = pytest.mark.posix("not tried on Windows")

ACCEPT = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
META: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": LATEST_MODERN_VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
}

PUBLISHES = {
    **ACCEPT,
    "MCP-Protocol-Version": LATEST_MODERN_VERSION,
    "Mcp-Method": "tools/call",
    "Mcp-Name": "publish_task",
}
"""The head of a call without a session."""


def answer_in(response: httpx2.Response) -> dict[str, Any]:
    """The one answer in a response, which is JSON or a stream of events."""
    events = [line[5:] for line in response.text.splitlines() if line.startswith("data:")]
    return json.loads(events[-1] if events else response.text)


def call(request_id: Any, tool: str, **arguments: Any) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


class Legacy:
    """A session of a client of 2025."""

    def __init__(self, mcp: HttpServer, http: httpx2.AsyncClient) -> None:
        self._url, self._http = mcp.url, http
        self.headers = dict(ACCEPT)

    async def begin(self) -> None:
        response = await self._http.post(self._url, json=INITIALIZE, headers=ACCEPT)
        self.headers["Mcp-Session-Id"] = response.headers["mcp-session-id"]
        initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await self._http.post(self._url, json=initialized, headers=self.headers)

    async def post(self, body: bytes) -> httpx2.Response:
        return await self._http.post(self._url, content=body, headers=self.headers)

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        return answer_in(await self.post(json.dumps(request).encode()))


async def test_several_calls_of_a_session_with_one_id_are_each_answered(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    names = [f"job-{number}" for number in range(4)]
    for name in names:
        await coordinator.publish("code", "work", task_type="test", task_id=name)
    serving = http_server(tmp_path / "mcp.log", "--nats-url", server.url)
    async with serving as mcp, httpx2.AsyncClient(timeout=BOUND_S) as http:
        legacy = Legacy(mcp, http)
        await legacy.begin()
        ids = [7, 7, "7", "_GET_stream"]
        watches = [call(one, "watch_results", task_ids=[name]) for one, name in zip(ids, names, strict=True)]
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(legacy.ask(watch)) for watch in watches]
            looks = [await legacy.ask(call(7, "get_task", task_id=name)) for name in names]
            for name in names:
                await settle(coordinator, name, f"of {name}")
        answers = [one.result() for one in asked]
        again = await legacy.ask(call(7, "get_task", task_id="job-0"))
    assert [answer["id"] for answer in answers] == ids
    assert [answer["result"]["structuredContent"]["results"][0]["output"] for answer in answers] == [
        f"of {name}" for name in names
    ]
    assert [(look["id"], look["result"]["structuredContent"]["task_id"]) for look in looks] == [
        (7, name) for name in names
    ]
    assert again["result"]["structuredContent"]["state"] == "completed"


async def test_a_client_that_hangs_up_and_uses_the_id_again_gets_the_answer_of_the_second_call(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    names = [f"job-{number}" for number in range(3)]
    for name in names:
        await coordinator.publish("code", "work", task_type="test", task_id=name)
    serving = http_server(tmp_path / "mcp.log", "--nats-url", server.url)
    async with serving as mcp, httpx2.AsyncClient(timeout=BOUND_S) as http:
        legacy = Legacy(mcp, http)
        await legacy.begin()
        for name in names[:2]:
            async with httpx2.AsyncClient(timeout=BOUND_S) as other:
                watch = json.dumps(call(7, "watch_results", task_ids=[name])).encode()
                async with other.stream("POST", mcp.url, content=watch, headers=legacy.headers):
                    pass  # the head of the answer is there, so the call has begun
            await legacy.ask(call(8, "get_task", task_id=name))
        asked = asyncio.create_task(legacy.ask(call(7, "watch_results", task_ids=names[2:])))
        look = await legacy.ask(call(9, "get_task", task_id=names[2]))
        for name in names:
            await settle(coordinator, name, f"of {name}")
        answer = await asked
    assert look["result"]["structuredContent"]["state"] == "queued"
    assert (answer["id"], answer["result"]["structuredContent"]["results"][0]["output"]) == (7, "of job-2")


async def test_half_a_character_is_read_in_both_eras(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    serving = http_server(tmp_path / "mcp.log", "--nats-url", server.url)
    async with serving as mcp, httpx2.AsyncClient(timeout=BOUND_S) as http:
        legacy = Legacy(mcp, http)
        await legacy.begin()
        old = call(2, "publish_task", to="code", content="caf\ud83d", task_type="t", task_id="old")
        new = call(3, "publish_task", to="code", content="\udc00caf", task_type="t", task_id="new")
        new["params"]["_meta"] = META
        answers = [
            await legacy.ask(old),
            answer_in(await http.post(mcp.url, content=json.dumps(new).encode(), headers=PUBLISHES)),
        ]
        bad = await legacy.post(b'{"jsonrpc":"2.0","id":4,"method":"ping","params":{"x":"\xe9"}}')
    assert [answer["result"].get("isError", False) for answer in answers] == [False, False]
    stored = [await coordinator.bus.message("AGENT_TASKS", number) for number in (1, 2)]
    texts = [json.loads(message.data)["payload"]["content"] for message in stored if message is not None]
    assert texts == ["caf\ufffd", "\ufffdcaf"]
    assert answer_in(bad)["id"] == 4


@pytest.mark.parametrize("content", [b'{"a": 1, "a": 2}', b'[{"x": 0.12345678901234567890}]'])
async def test_content_that_would_arrive_otherwise_is_refused_in_both_eras(
    content: bytes, server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    published = call(5, "publish_task", to="code", content="<content>", task_type="t")
    refused = {
        "code": -32602,
        "message": "publish_task: content: an object has a key twice, or a number has more digits than a reader keeps; "
        "send it as text",
    }
    serving = http_server(tmp_path / "mcp.log", "--nats-url", server.url)
    async with serving as mcp, httpx2.AsyncClient(timeout=BOUND_S) as http:
        legacy = Legacy(mcp, http)
        await legacy.begin()
        old = await legacy.post(json.dumps(published).encode().replace(b'"<content>"', content))
        published["params"]["_meta"] = META
        body = json.dumps(published).encode()
        answers = [
            await http.post(mcp.url, content=body.replace(b'"<content>"', sent), headers=PUBLISHES)
            for sent in (content, json.dumps(content.decode()).encode())
        ]
    for response in (old, answers[0]):
        assert (response.status_code, answer_in(response)) == (400, {"jsonrpc": "2.0", "id": 5, "error": refused})
    assert not answer_in(answers[1])["result"].get("isError", False)  # as text, it is what it says
    assert len((await coordinator.list_tasks()).tasks) == 1


async def test_a_request_of_a_session_that_is_none_is_refused_with_its_id(tmp_path: Path) -> None:
    odd = {
        b'{"jsonrpc":"2.0","id":516.0,"method":"ping"}': (516.0, -32600),
        b'{"jsonrpc":"2.0","id":null,"method":"ping"}': (None, -32600),
        b'{"id":5,"method":"ping"}': (5, -32600),
        b'{"jsonrpc":"2.0","id":6,"method":"ping","params":[]}': (6, -32600),
        b'{"jsonrpc":"2.0","id":7,"method":"pi': (7, -32700),
    }
    serving = http_server(tmp_path / "mcp.log", "--nats-url", NOWHERE)
    async with serving as mcp, httpx2.AsyncClient(timeout=BOUND_S) as http:
        legacy = Legacy(mcp, http)
        await legacy.begin()
        responses = [await legacy.post(body) for body in odd]
    answers = [answer_in(response) for response in responses]
    assert [(answer["id"], answer["error"]["code"]) for answer in answers] == list(odd.values())
    assert {response.status_code for response in responses} == {400}


async def test_a_slash_at_the_end_of_a_path_makes_no_difference(tmp_path: Path, token_file: Path) -> None:
    known = {"Authorization": f"Bearer {TOKEN}"}
    serving = http_server(tmp_path / "mcp.log", "--nats-url", NOWHERE, "--token-file", str(token_file))
    async with serving as mcp, httpx2.AsyncClient(timeout=BOUND_S) as http:
        sent = {**ACCEPT, **known}
        posted = [await http.post(mcp.base + path, json=INITIALIZE, headers=sent) for path in ("/mcp/", "/mcp//")]
        unknown = await http.post(mcp.base + "/mcp/", json=INITIALIZE, headers=ACCEPT)
        health = await http.get(mcp.base + "/healthz/")
        other = await http.get(mcp.base + "/other/", headers=known)
    assert [response.status_code for response in posted] == [200, 200]
    assert (unknown.status_code, health.status_code, other.status_code) == (401, 200, 404)


@pytest.mark.parametrize(
    ("host", "origin"),
    [("LOCALHOST", None), ("LocalHost:80", "HTTP://LOCALHOST:80"), ("BUS.Example.com", "https://App.example.COM")],
)
async def test_the_names_of_hosts_have_no_case(host: str, origin: str | None, tmp_path: Path) -> None:
    args = ["--allowed-host", "Bus.example.com", "--allowed-origin", "https://APP.example.com"]
    headers = {"Host": host, **({"Origin": origin} if origin else {})}
    async with (
        http_server(tmp_path / "mcp.log", "--nats-url", NOWHERE, *args, at="LocalHost:0") as mcp,
        httpx2.AsyncClient(timeout=BOUND_S) as http,
    ):
        response = await http.post(mcp.url, json=INITIALIZE, headers={**ACCEPT, **headers})
    assert response.status_code == 200

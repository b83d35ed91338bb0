"""Who may use the page: links, sessions and cookies, and requests that its own pages do not make."""

from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from agentbus_mcp.page.sessions import EVERYONE, IDLE_S, LINK_S, MOST_SESSIONS, Sessions
from support.harness import BOUND_S, eventually
from support.mcp_harness import NOWHERE
from support.named_tokens import Team
from support.ui_page import HEADER, UiServer, act, board, browser, new_link, ui_server

NO_SESSION = "This browser is not signed in; a server that is started anew ends all sessions"

pytestmark = pytest.mark.posix("not tried on Windows")


async def test_a_link_opens_the_page_once_and_its_cookie_is_for_this_page_alone(tmp_path: Path):
    async with ui_server(tmp_path / "ui.log", "--nats-url", NOWHERE) as ui, browser(ui) as http:
        assert (await http.get("api/session")).json()["coordinator"] == "main"
        async with httpx2.AsyncClient(base_url=ui.url, timeout=BOUND_S) as other:
            used = await other.post("api/session", json={"token": ui.token}, headers=HEADER)
            assert used.status_code == 401
            assert "Press Enter where agentbus ui runs for a new link" in used.json()["error"]
            assert (await other.post("api/session", content=b"{", headers=HEADER)).status_code == 422
            for path in ("session", "board", "events", "task?name=a", "text", "tasks", "patch", "file", "cost"):
                assert (await other.get(f"api/{path}")).status_code == 401, path
            assert (await act(other, "publish", to="code", content="x")).status_code == 401
            again = await other.post("api/session", json={"token": await new_link(http)}, headers=HEADER)
            cookie = again.headers["set-cookie"]
            assert cookie.startswith(f"agentbus_ui_{ui.port}=")
            assert "HttpOnly" in cookie
            assert "SameSite=strict" in cookie
            assert "; Path=/;" in cookie
            assert (await other.post("api/sign-out", json={}, headers=HEADER)).status_code == 200
            assert (await other.get("api/session", headers={"Cookie": cookie.partition(";")[0]})).status_code == 401
        assert (await http.get("api/session")).status_code == 200
        assert ui.token not in (tmp_path / "ui.log").read_text(encoding="utf-8").partition("\n")[2]


async def test_requests_that_no_page_of_this_server_makes_are_refused_on_every_path(tmp_path: Path):
    async with ui_server(tmp_path / "ui.log", "--nats-url", NOWHERE) as ui, browser(ui) as http:
        own = f"127.0.0.1:{ui.port}"
        for path in ("", "static/app.js", "static/style.css", "api/session", "api/board", "nothing"):
            for headers, status in (
                ({"Host": "evil.example"}, 421),
                ({"Host": f"evil.example:{ui.port}"}, 421),
                ({"Host": "127.0.0.1:1@evil"}, 421),
                ({"Origin": "http://evil.example"}, 403),
                ({"Origin": "null"}, 403),
                ({"Origin": f"http://127.0.0.1:{ui.port + 1}"}, 403),
                ({"Origin": f"http://localhost:{ui.port}"}, 403),
                ({"Sec-Fetch-Site": "cross-site"}, 403),
                ({"Sec-Fetch-Site": "same-site"}, 403),
            ):
                assert (await http.get(path, headers=headers)).status_code == status, (path, headers)
            answer = await http.get(path, headers={"Origin": f"http://{own}", "Sec-Fetch-Site": "same-origin"})
            assert answer.status_code in (200, 404)
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert (await http.post("api/act/publish", json={"to": "a", "content": "b"})).status_code == 403
        assert (await http.post("api/sign-out", json={})).status_code == 403
        assert (await http.get(f"http://localhost:{ui.port}/")).status_code == 200
        assert (await http.get("static/../../actions.py")).status_code == 404
        assert (await http.get("static/%2e%2e/%2e%2e/actions.py")).status_code == 404


async def test_a_page_that_only_shows_refuses_every_action(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await coordinator.publish("code", "x", task_id="job-1")
    async with ui_server(tmp_path / "ui.log", "--nats-url", server.url, "--read-only") as ui, browser(ui) as http:
        assert (await http.get("api/session")).json()["read_only"] is True
        assert [*(await board(http))["queued"]["rows"]] == ["code/job-1"]
        for action in ("publish", "answer", "cancel", "retry", "follow-up", "pause", "resume", "nothing"):
            refused = await act(http, action, name="code/job-1", to="code", content="y", id="x", approve=True)
            assert refused.status_code == 403
            assert "--read-only" in refused.json()["error"]
    assert (await coordinator.task("job-1").status()).state == "queued"


async def test_each_named_token_acts_as_its_own_coordinator_until_it_is_removed(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    (tmp_path / "team").mkdir()
    team = Team(tmp_path / "team")
    for name, who in (("alice", "main"), ("bob", "lead")):
        await team.add(name, {"url": server.url}, who)
    async with ui_server(tmp_path / "ui.log", "--tokens", str(team.file)) as ui:
        assert ui.token == ""
        assert (
            await _said_to_a_stranger(ui) == f"{NO_SESSION}. Sign in with your token; agentbus mcp token add makes one"
        )
        async with browser(ui, team.tokens["alice"]) as alice, browser(ui, team.tokens["bob"]) as bob:
            assert (await bob.get("api/session")).json()["coordinator"] == "lead"
            assert (await act(bob, "publish", to="code", content="of bob", task_id="job-b")).status_code == 200
            assert (await act(alice, "publish", to="code", content="of alice", task_id="job-a")).status_code == 200
            owners = {name: (await coordinator.task(name).status()).owner for name in ("job-a", "job-b")}
            assert owners == {"job-a": "main", "job-b": "lead"}
            async with browser(ui, await new_link(bob)) as phone:
                assert (await phone.get("api/session")).json()["coordinator"] == "lead"
                await team.change("remove", "bob")
                await _until_refused(phone)
                await _until_refused(bob)
            assert (await alice.get("api/session")).status_code == 200


async def test_a_server_that_is_started_anew_says_to_a_browser_of_before_how_it_signs_in(tmp_path: Path):
    async with AsyncExitStack() as looking:
        async with ui_server(tmp_path / "first.log", "--nats-url", NOWHERE) as ui:
            http = await looking.enter_async_context(browser(ui))
            assert (await http.get("api/session")).status_code == 200
        async with ui_server(tmp_path / "again.log", "--nats-url", NOWHERE, "--port", str(ui.port)) as again:
            for path in ("api/session", "api/board", "api/events"):
                answer = await http.get(path)
                assert answer.status_code == 401
                how = "Press Enter where agentbus ui runs for a new link, or take one from a browser that is signed in"
                assert answer.json()["error"] == f"{NO_SESSION}. {how}"
            assert (await http.post("api/session", json={"token": again.token}, headers=HEADER)).status_code == 200
            assert (await http.get("api/session")).status_code == 200


async def _said_to_a_stranger(ui: UiServer) -> str:
    async with httpx2.AsyncClient(base_url=ui.url, timeout=BOUND_S) as other:
        answer = await other.get("api/session")
    assert answer.status_code == 401
    return answer.json()["error"]


async def _until_refused(http: httpx2.AsyncClient) -> None:
    async def refused() -> bool:
        return (await http.get("api/session")).status_code == 401

    await eventually(refused, "the session has ended with its token")


async def test_the_mcp_server_has_the_same_page_beside_its_own_path(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    at = ("--http", "127.0.0.1:0", "--ui", "--nats-url", server.url)
    async with ui_server(tmp_path / "mcp.log", *at, command=("agentbus_mcp",)) as ui:
        assert ui.url.endswith("/ui/")
        async with httpx2.AsyncClient(timeout=BOUND_S) as http:
            short = await http.get(ui.url.removesuffix("/"))  # what people type, perhaps to a proxy with TLS
            assert (short.status_code, short.headers["location"]) == (307, "ui/")
            assert "content-security-policy" in short.headers
        how = "agentbus-mcp prints a new link whenever it is started; a browser that is signed in has one, too"
        assert await _said_to_a_stranger(ui) == f"{NO_SESSION}. {how}"
        async with browser(ui) as http:
            assert (await http.get("")).text.startswith("<!doctype html>")
            assert (await http.get("static/app.js")).status_code == 200
            assert (await board(http))["head"]["rows"]["head"]["coordinator"] == "main"
            assert (await http.get(f"http://127.0.0.1:{ui.port}/healthz")).json()["bus"] == "connected"
            assert (await http.get("", headers={"Sec-Fetch-Site": "cross-site"})).status_code == 403


# -- the parts --------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_link_is_too_old_after_a_while_and_a_session_that_is_not_used_ends():
    clock = Clock()
    sessions = Sessions(lambda _: False, clock)
    old, used = sessions.new_link(EVERYONE), sessions.new_link(EVERYONE)
    key = sessions.redeem(used)
    assert key is not None
    assert sessions.redeem(used) is None
    clock.now = LINK_S
    assert sessions.redeem(old) is None
    session = sessions.of_key(key)
    assert session is not None
    clock.now += IDLE_S
    assert sessions.of_key(key) is None
    assert session.ended.is_set()


def test_sessions_and_links_are_bounded_and_the_one_used_longest_ago_goes():
    clock = Clock()
    sessions = Sessions(bool, clock)
    first = sessions.redeem("a token of a file")
    for _ in range(MOST_SESSIONS):
        clock.now += 1
        assert sessions.redeem("a token of a file") is not None
    assert first is not None
    assert sessions.of_key(first) is None

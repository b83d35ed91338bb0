"""A team on one MCP server over HTTP: each client is a coordinator of its own, and reaches nothing of another one."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from agentbus import Coordinator
from agentbus.config.mcp_tokens import hash_of
from agentbus.errors import TaskNotFoundError
from support.harness import BOUND_S, eventually, run_cli
from support.installation import OwnBus, own_bus
from support.mcp_harness import NOWHERE, HttpServer, both_eras, data_of, error_of, http_server, over_http, settle
from support.named_tokens import ACCEPT, Team, authorized, modern, modern_request, post

pytestmark = pytest.mark.posix("files for their owner alone")

LOCAL = {"url": NOWHERE}
LISTING = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}


@pytest.fixture
def team(tmp_path: Path) -> Team:
    folder = tmp_path / "team"
    folder.mkdir()
    return Team(folder)


@asynccontextmanager
async def serving(team: Team, log: Path) -> AsyncGenerator[HttpServer]:
    async with http_server(log, "--tokens", str(team.file)) as mcp:
        yield mcp


@asynccontextmanager
async def two_of_a_team(team: Team, folder: Path) -> AsyncGenerator[tuple[OwnBus, HttpServer]]:
    """A bus as `agentbus init` makes it: alice is its coordinator `main`, bob the agent `lead`, who may task `code`."""
    async with own_bus(folder, may_task={"lead": ["code"]}) as bus:
        await team.add("alice", bus.nats("main"), "main")
        await team.add("bob", bus.nats("lead"), "lead")
        async with serving(team, folder / "mcp.log") as mcp:
            yield bus, mcp


async def status(mcp: HttpServer, token: str) -> int:
    return (await post(mcp, token)).status_code


async def becomes(mcp: HttpServer, token: str, wanted: int) -> None:
    async def is_so() -> bool:
        return await status(mcp, token) == wanted

    await eventually(is_so, f"the token is answered with {wanted}")


# -- each its own -----------------------------------------------------------------------------------------------


@both_eras
async def test_two_clients_work_at_once_each_as_its_own_coordinator(era: str, team: Team, tmp_path: Path) -> None:
    async def work(url: str, name: str) -> dict[str, Any]:
        async with over_http(url, era, team.tokens[name]) as client:
            task = {"to": ["code"], "content": f"from {name}", "task_type": "test", "task_id": f"of-{name}"}
            data_of(await client.call_tool("publish_task", task))
            watch = {"task_ids": [f"of-{name}"], "agent": "code", "timeout_seconds": 60}
            [result] = data_of(await client.call_tool("watch_results", watch))["results"]
            inbox = data_of(await client.call_tool("get_results", {"newest": 10}))["results"]
            others = await client.call_tool(
                "get_results", {"newest": 10, "agent": {"alice": "lead", "bob": "main"}[name]}
            )
            resources = {str(resource.uri) for resource in (await client.list_resources()).resources}
        return {"output": result["output"], "inbox": inbox, "others": error_of(others), "resources": resources}

    async def settled(coordinator: Coordinator, task_id: str, owner: str) -> None:
        async def known() -> bool:
            try:
                await coordinator.task(task_id, agent="code", owner=owner).status()
            except TaskNotFoundError:
                return False
            return True

        await eventually(known, f"{task_id} is published")
        await settle(coordinator, task_id, f"result {task_id}", owner=owner)

    async with (
        two_of_a_team(team, tmp_path) as (bus, mcp),
        bus.coordinator("code") as worker,
        asyncio.TaskGroup() as group,
    ):
        alice, bob = (group.create_task(work(mcp.url, name)) for name in ("alice", "bob"))
        for name, owner in (("alice", "main"), ("bob", "lead")):
            group.create_task(settled(worker, f"of-{name}", owner))
    for name, done, inbox in (("alice", alice.result(), "main"), ("bob", bob.result(), "lead")):
        assert done["output"] == f"result of-{name}"
        assert [result["task_id"] for result in done["inbox"]] == [f"of-{name}"]
        assert "not allow" in done["others"]
        assert f"agentbus://agents/{inbox}/results" in done["resources"]


async def test_a_session_of_another_token_is_unknown(team: Team, tmp_path: Path) -> None:
    for name in ("alice", "bob"):
        await team.add(name, LOCAL, name)
    alice, bob = team.tokens.values()
    async with serving(team, tmp_path / "mcp.log") as mcp:
        session = (await post(mcp, alice)).headers["mcp-session-id"]
        for method in ("POST", "GET", "DELETE"):
            answers = [
                await post(mcp, bob, LISTING, method=method, **{"Mcp-Session-Id": one}) for one in (session, "0" * 32)
            ]
            assert [answer.status_code for answer in answers] == [404, 404]
            assert answers[0].content == answers[1].content
        assert (await post(mcp, alice, LISTING, **{"Mcp-Session-Id": session})).status_code == 200


async def test_an_mcp_task_of_another_token_is_unknown(team: Team, tmp_path: Path) -> None:
    async with two_of_a_team(team, tmp_path) as (bus, mcp), bus.coordinator("main") as main:
        alice, bob = team.tokens["alice"], team.tokens["bob"]
        await main.publish("code", "work", task_type="test", task_id="a")
        call = {"name": "watch_results", "arguments": {"task_ids": ["a"]}}
        made = (await modern(mcp, alice, "tools/call", call, "watch_results"))["result"]
        task_id = made["taskId"]
        calls: list[tuple[str, dict[str, Any]]] = [("tasks/get", {}), ("tasks/cancel", {})]
        calls.append(("tasks/update", {"inputResponses": {}}))
        for method, more in calls:
            refused = await modern(mcp, bob, method, {"taskId": task_id, **more}, task_id)
            unknown = await modern(mcp, bob, method, {"taskId": f"{task_id}x", **more}, f"{task_id}x")
            assert refused["error"]["code"] == unknown["error"]["code"] == -32602
        request, headers = modern_request("subscriptions/listen", {"notifications": {"taskIds": [task_id]}})
        async with (
            httpx2.AsyncClient(timeout=BOUND_S) as http,
            http.stream("POST", mcp.url, json=request, headers={**headers, **authorized(bob)}) as stream,
        ):
            first = await anext(line async for line in stream.aiter_lines() if line.startswith("data:"))
        assert task_id not in first
        found = (await modern(mcp, alice, "tasks/get", {"taskId": task_id}, task_id))["result"]
    assert found["status"] == "working"


async def test_subscriptions_are_told_of_the_own_coordinator_only(team: Team, tmp_path: Path) -> None:
    async with two_of_a_team(team, tmp_path) as (bus, mcp), bus.coordinator("main") as main, AsyncExitStack() as stack:
        told: dict[str, list[str]] = {}
        for name in ("alice", "bob"):
            uris = ["agentbus://agents/main/results", "agentbus://agents/lead/results"]
            client = await stack.enter_async_context(over_http(mcp.url, token=team.tokens[name]))
            events = await stack.enter_async_context(client.listen(resource_subscriptions=uris))
            told[name] = []

            async def follow(name: str = name, events: Any = events) -> None:
                async for event in events:
                    told[name].append(str(event))

            task = asyncio.create_task(follow())
            stack.callback(task.cancel)
        await main.publish("code", "work", task_type="test", task_id="a")
        await settle(main, "a")
        await eventually(lambda: told["alice"], "alice is told of her inbox")
    assert all("agents/main/results" in event for event in told["alice"])
    assert not any("agents/main/results" in event for event in told["bob"])


# -- the file ---------------------------------------------------------------------------------------------------


async def test_a_running_server_follows_the_file(team: Team, tmp_path: Path) -> None:
    alice = await team.add("alice", LOCAL, "alice")
    async with serving(team, tmp_path / "mcp.log") as mcp:
        assert await status(mcp, alice) == 200
        bob = await team.add("bob", LOCAL, "bob")
        await becomes(mcp, bob, 200)
        session = (await post(mcp, bob)).headers["mcp-session-id"]
        renewed = await team.change("rotate", "alice")
        await becomes(mcp, alice, 401)
        await becomes(mcp, renewed, 200)
        await team.change("remove", "alice")
        await becomes(mcp, renewed, 401)
        assert (await post(mcp, bob, LISTING, **{"Mcp-Session-Id": session})).status_code == 200
        await team.change("remove", "bob")
        await becomes(mcp, bob, 401)


@pytest.mark.parametrize(
    "how",
    ["not TOML", "no file", "readable"]
    + [pytest.param(how, marks=pytest.mark.long) for how in ("empty", "an unknown key", "two alike", "writable")],
)
async def test_a_bad_edit_keeps_the_tokens_and_says_so(how: str, team: Team, tmp_path: Path) -> None:
    alice = await team.add("alice", LOCAL, "alice")
    text = team.file.read_text(encoding="utf-8")
    config = team.folder / "alice.toml"
    changed = {
        "not TOML": "[tokens.",
        "empty": "",
        "an unknown key": text + f'token = "{alice}"\n',
        "two alike": text + f'[tokens.bob]\nsha256 = "{hash_of(alice)}"\ncoordinator = "{config}"\n',
    }
    said = {
        "not TOML": "is not valid TOML",
        "empty": "tokens: is missing",
        "an unknown key": "tokens.alice.token: Extra inputs are not permitted",
        "two alike": "two names have the same token",
        "no file": "No such file",
        "readable": "other users can read or change",
        "writable": "other users can read or change",
    }[how]
    async with serving(team, tmp_path / "mcp.log") as mcp:
        session = (await post(mcp, alice)).headers["mcp-session-id"]
        if how in changed:
            team.file.write_text(changed[how], encoding="utf-8")
        elif how == "no file":
            team.file.unlink()
        else:
            team.file.chmod(0o640 if how == "readable" else 0o602)
        await mcp.process.until_said("the tokens that were read before stay in force")
        assert mcp.process.said(said)
        assert (await post(mcp, alice, LISTING, **{"Mcp-Session-Id": session})).status_code == 200
        ran = await run_cli("--http", "127.0.0.1:0", "--tokens", str(team.file), module="agentbus_mcp")
        assert (ran.code, ran.out) == (1, "")
        assert said in ran.err
        team.file.unlink(missing_ok=True)
        bob = await team.add("bob", LOCAL, "bob")  # the file is right again
        await becomes(mcp, bob, 200)
        assert await status(mcp, alice) == 401
        assert not mcp.process.said(alice)
        assert not mcp.process.said("Traceback")
        assert alice not in ran.err


async def test_a_changed_configuration_of_a_coordinator_is_taken_up_and_a_bad_one_is_not(
    team: Team, tmp_path: Path
) -> None:
    alice = await team.add("alice", LOCAL, "alice")
    async with serving(team, tmp_path / "mcp.log") as mcp, own_bus(tmp_path) as bus:
        (team.folder / "alice.toml").write_text("[nats", encoding="utf-8")
        await mcp.process.until_said("the token alice: ")
        assert await status(mcp, alice) == 200
        team.coordinator("alice", bus.nats("main"), "main")
        await mcp.process.until_said("connected to nats-server")
        await becomes(mcp, alice, 200)


@pytest.mark.gate("2026")
@both_eras
async def test_what_is_open_with_a_removed_token_ends_and_that_of_others_goes_on(
    era: str, team: Team, tmp_path: Path
) -> None:
    async def opened(token: str) -> list[httpx2.Response]:
        """A call that waits, and a stream beside it; in the 2025 era both of one session."""
        call = {"name": "watch_results", "arguments": {"task_ids": ["a"], "timeout_seconds": 200}}
        if era == "legacy":
            session = {"Mcp-Session-Id": (await post(mcp, token)).headers["mcp-session-id"]}
            call["_meta"] = {"progressToken": 1}
            requests = [
                ("GET", None, session),
                ("POST", {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}, session),
            ]
        else:
            listening = {"notifications": {"resourceSubscriptions": ["agentbus://tasks/a"]}}
            requests = [
                ("POST", *modern_request("tools/call", call, "watch_results", tasks=False)),
                ("POST", *modern_request("subscriptions/listen", listening)),
            ]
        return [
            await stack.enter_async_context(
                http.stream(method, mcp.url, json=body, headers={**ACCEPT, **headers, **authorized(token)})
            )
            for method, body, headers in requests
        ]

    async def rest(answer: httpx2.Response) -> list[str]:
        async with asyncio.timeout(BOUND_S):
            return [line async for line in answer.aiter_lines() if line.startswith("data:")]

    async with two_of_a_team(team, tmp_path) as (bus, mcp), bus.coordinator("main") as main, AsyncExitStack() as stack:
        await main.publish("code", "work", task_type="test", task_id="a")
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=BOUND_S))
        of_bob, of_alice = await opened(team.tokens["bob"]), await opened(team.tokens["alice"])
        assert [answer.status_code for answer in (*of_bob, *of_alice)] == [200] * 4
        await team.change("remove", "bob")
        ended = [await rest(answer) for answer in of_bob]
        assert not any('"output"' in line for lines in ended for line in lines)
        if era != "legacy":
            assert json.loads(ended[-1][-1].removeprefix("data:"))["result"]["resultType"] == "complete"
        await settle(main, "a", "all is well")
        async with asyncio.timeout(BOUND_S):
            async for line in of_alice[-1].aiter_lines():
                if "all is well" in line or "notifications/resources/updated" in line:
                    break
            else:
                pytest.fail("alice was told nothing")
        assert not mcp.process.said("Traceback")


# -- secrets ----------------------------------------------------------------------------------------------------


async def test_tokens_are_kept_as_hashes_and_shown_once(team: Team, tmp_path: Path) -> None:
    made = [await team.add(name, LOCAL, name) for name in ("alice", "bob")]
    made.append(await team.change("rotate", "bob"))
    listed = await run_cli("mcp", "token", "list", "--tokens", str(team.file))
    async with serving(team, tmp_path / "mcp.log") as mcp:
        assert await status(mcp, made[0]) == 200
        assert await status(mcp, made[1]) == 401
        command = " ".join(psutil.Process(mcp.process.pid).cmdline())
        await team.change("remove", "alice")
        await becomes(mcp, made[0], 401)
        texts = [mcp.process.log.read_text(encoding="utf-8"), team.file.read_text(encoding="utf-8"), command]
    assert [json.loads(line)["name"] for line in listed.out.splitlines()] == ["alice", "bob"]
    assert len(set(made)) == 3
    for token in made:
        assert len(token) >= 50
        assert not any(token in text for text in (*texts, listed.out, listed.err))
    assert hash_of(made[2]) in texts[1]
    assert stat.S_IMODE(team.file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--tokens", "x"], 2, "--tokens goes with --http HOST:PORT"),
        (["--http", "127.0.0.1:0", "--tokens", "x", "--token-file", "y"], 2, "--tokens excludes --token-file"),
        (["--http", "127.0.0.1:0", "--tokens", "x", "--nats-url", NOWHERE], 2, "--tokens excludes --token-file"),
        (["--http", "127.0.0.1:0", "--tokens", "/nowhere/x"], 1, "cannot read /nowhere/x: No such file or directory"),
    ],
)
async def test_options_that_exclude_each_other_are_one_line(args: list[str], code: int, said: str) -> None:
    ran = await run_cli(*args, module="agentbus_mcp")
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err.splitlines()[-1]


async def test_a_configuration_that_is_missing_keeps_the_server_from_starting(team: Team) -> None:
    await team.add("alice", LOCAL, "alice")
    (team.folder / "alice.toml").unlink()
    ran = await run_cli("--http", "127.0.0.1:0", "--tokens", str(team.file), module="agentbus_mcp")
    assert ran.code == 1
    assert "the token alice: cannot read" in ran.err


async def test_named_tokens_open_the_server_to_other_machines(team: Team, tmp_path: Path) -> None:
    alice = await team.add("alice", LOCAL, "alice")
    async with http_server(tmp_path / "mcp.log", "--tokens", str(team.file), at="0.0.0.0:0") as mcp:
        assert await status(mcp, alice) == 200
        assert await status(mcp, "x" * 60) == 401
        async with httpx2.AsyncClient(timeout=BOUND_S) as http:
            assert (await http.get(f"{mcp.base}/healthz")).json() == {"status": "ok", "bus": "disconnected"}
        os.kill(mcp.process.pid, 15)
        assert await mcp.process.exit_code() == 0


async def test_each_client_reads_and_writes_files_below_the_folders_of_its_own_coordinator_alone(
    team: Team, tmp_path: Path
) -> None:
    folders = {name: tmp_path / f"of-{name}" for name in ("alice", "bob", "carol")}
    for folder in folders.values():
        folder.mkdir()
        (folder / "file").write_text("x", encoding="utf-8")
    async with own_bus(tmp_path / "bus", may_task={"lead": ["code"]}) as bus:
        for name, user in (("alice", "main"), ("bob", "lead")):
            await team.add(name, bus.nats(user), user)
            with (team.folder / f"{name}.toml").open("a", encoding="utf-8") as config:
                config.write(f"[mcp]\nfolders = [{json.dumps(str(folders[name]))}]\n")
        await team.add("carol", bus.nats("main"), "main")
        async with serving(team, tmp_path / "mcp.log") as mcp:
            for name in folders:
                async with over_http(mcp.url, token=team.tokens[name]) as client:
                    for owner, folder in folders.items():
                        task = {"to": ["code"], "content": "x", "task_type": "test", "files": [str(folder / "file")]}
                        sent = await client.call_tool("publish_task", task)
                        save = {"task_ids": ["none"], "agent": "code", "save_to": str(folder)}
                        saved = await client.call_tool("get_results", save)
                        if name == owner != "carol":
                            assert data_of(sent)["published"]
                            assert "save_to: " not in error_of(saved)  # there is no such task
                        else:
                            why = "may use no files" if name == "carol" else "is not below a folder"
                            assert why in error_of(sent)
                            assert why in error_of(saved)

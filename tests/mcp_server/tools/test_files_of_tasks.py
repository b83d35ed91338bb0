"""Files that tasks bring and that runs leave, through a real MCP client: what is sent, shown, read, saved, refused."""

import base64
import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import BlobResourceContents, TextResourceContents

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import decode
from agentbus.protocol.work.results import Changes, Commit
from agentbus.provision.nats_server import NatsServer
from agentbus_mcp.operations.left_files import MAX_RESOURCE_BYTES
from support.left_work import artifact, content_of, settle_with
from support.mcp_harness import both_eras, data_of, error_of, in_memory, over_stdio, settle

LOG = "größer\n".encode() * 9_000
FILES = {"log.txt": LOG, "plots/one.png": bytes(range(256))}
KINDS = {"plots/one.png": "image/png"}
CHANGES = Changes(
    "a" * 40, "agentbus/job-1", "b" * 40, commits=1, files=2, insertions=3, log=(Commit("b" * 40, "Fix it"),)
)
CALL = {"to": ["code"], "content": "work", "task_type": "test"}
LEFT = {"task_ids": ["code/job-1"]}


@asynccontextmanager
async def client_of(server: NatsServer, folder: Path) -> AsyncGenerator[Client]:
    """A client of the server process of a coordinator whose configuration allows the folder `shared`."""
    config, shared = folder / "coordinator.toml", folder / "shared"
    shared.mkdir(exist_ok=True)
    config.write_text(
        f"[nats]\nurl = {json.dumps(server.url)}\n[mcp]\nfolders = [{json.dumps(str(shared))}]\n", encoding="utf-8"
    )
    config.chmod(0o600)
    async with over_stdio(folder / "log", "auto", "--config", str(config)) as client:
        yield client


async def settle_work(coordinator: Coordinator, **more: Any) -> None:
    described = {name: replace(artifact(name, FILES[name]), media_type=kind) for name, kind in KINDS.items()}
    await settle_with(coordinator, FILES, CHANGES, as_described=described, **more)


async def test_files_go_with_a_task_and_come_home_over_stdio(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await settle_work(coordinator, left_out=[{"name": ".env", "why": "looks like a secret"}])
    shared = tmp_path / "shared"
    (shared / "notes").mkdir(parents=True)
    (shared / "notes" / "trace.log").write_bytes(b"a trace\r\n")
    async with client_of(server, tmp_path) as client:
        sent = {"files": [str(shared / "notes")], "base": "main", "branch": "fix", "task_id": "job-2"}
        data_of(await client.call_tool("publish_task", {**CALL, **sent}))
        stored = await coordinator.bus.last_message("AGENT_TASKS", subjects.tasks_of("code", "main", second=True))
        assert stored is not None
        task: Any = decode(stored.data)
        assert [(one["name"], one["bytes"]) for one in task["files"]] == [("notes/trace.log", 9)]
        assert (task["work"], sorted(task["needs"])) == ({"base": "main", "branch": "fix"}, ["files", "work"])

        brief = data_of(await client.call_tool("get_results", LEFT))["results"][0]
        assert brief["artifacts"] == [
            {"name": "log.txt", "bytes": len(LOG), "media_type": "text/plain; charset=utf-8"},
            {"name": "plots/one.png", "bytes": 256, "media_type": "image/png"},
        ]
        counts = {"commits": 1, "files": 2, "insertions": 3, "deletions": 0}
        assert brief["changes"] == {"branch": "agentbus/job-1", **counts, "log": ["Fix it"]}
        assert brief["left_out"] == [{"name": ".env", "why": "looks like a secret"}]
        for tool, arguments in {
            "get_results": {**LEFT, "response_format": "detailed"},
            "watch_results": {**LEFT, "response_format": "detailed"},
            "get_task": {"task_id": "code/job-1"},
        }.items():
            found = data_of(await client.call_tool(tool, arguments))
            whole = found["result"] if tool == "get_task" else found["results"][0]
            assert whole["artifacts"][0]["sha256"] == hashlib.sha256(LOG).hexdigest()
            assert (whole["changes"]["base"], whole["changes"]["head"]) == ("a" * 40, "b" * 40)

        call: dict[str, Any] = {**LEFT, "artifact": "log.txt"}
        parts: list[str] = []
        while call:
            read = data_of(await client.call_tool("get_results", call))
            parts.append(read["results"][0]["output"])
            assert read["results"][0]["artifact"] == "log.txt"
            assert "artifacts" not in read["results"][0]
            call = read["next"]["arguments"] if "next" in read else {}
        assert len(parts) > 2
        assert "".join(parts).encode() == LOG

        for _ in range(2):  # what is there already stays
            call = {**LEFT, "save_to": str(shared / "new" / "folder")}
            saved = data_of(await client.call_tool("get_results", call))["saved"]
            assert saved == {"folder": str(shared / "new" / "folder"), "files": 2, "bytes": len(LOG) + 256}
        assert {name: found for name, (_, found) in content_of(shared / "new" / "folder").items()} == FILES
        call = {**LEFT, "artifact": "plots/one.png", "save_to": str(shared)}
        assert data_of(await client.call_tool("get_results", call))["saved"]["files"] == 1

        [text] = (await client.read_resource("agentbus://tasks/code/job-1/files/log.txt")).contents
        assert isinstance(text, TextResourceContents)
        assert (text.mime_type, text.text.encode()) == ("text/plain; charset=utf-8", LOG)
        [image] = (await client.read_resource("agentbus://tasks/job-1/files/plots%2Fone.png")).contents
        assert isinstance(image, BlobResourceContents)
        assert (image.mime_type, base64.b64decode(image.blob)) == ("image/png", FILES["plots/one.png"])


async def test_what_leads_out_of_the_allowed_folders_is_refused_and_touches_nothing(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await settle_work(coordinator)
    shared, outside = tmp_path / "shared", tmp_path / "outside"
    for folder in (shared / "in", outside):
        folder.mkdir(parents=True)
    (outside / "secret").write_text("s3cret", encoding="utf-8")
    (shared / "out").symlink_to(outside)
    (shared / "link").symlink_to(outside / "secret")
    (shared / "in" / "link").symlink_to(outside / "secret")
    before = content_of(tmp_path)
    refused = {
        str(outside / "secret"): "is not below a folder that this MCP server may use",
        str(shared / ".." / "outside" / "secret"): "is no absolute path without `..`",
        "secret": "is no absolute path without `..`",
        f"{shared}/a\0b": "is no absolute path without `..`",
        str(shared / "link"): "leads through a link",
        str(shared / "out" / "secret"): "leads through a link",
        f"{shared}-more/secret": "is not below a folder that this MCP server may use",
    }
    async with in_memory(server.url, folders=[shared]) as client:
        for path, why in refused.items():
            said = error_of(await client.call_tool("publish_task", {**CALL, "files": [path]}))
            assert said.startswith("publish_task: files: ")
            assert why in said
            said = error_of(await client.call_tool("get_results", {**LEFT, "save_to": path}))
            assert said.startswith("get_results: save_to: ")
            assert why in said
        for path, why in {"in": "it is a link", "none": "cannot be read: No such file"}.items():
            said = error_of(await client.call_tool("publish_task", {**CALL, "files": [str(shared / path)]}))
            assert why in said
        said = error_of(await client.call_tool("get_results", {**LEFT, "save_to": str(shared / ".git" / "hooks")}))
        assert "save_to: " in said
    assert content_of(tmp_path) == before
    assert list(outside.iterdir()) == [outside / "secret"]


@both_eras
async def test_without_folders_in_the_configuration_no_file_is_sent_or_saved_and_the_key_is_named(
    era: str, server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await settle_work(coordinator)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    async with in_memory(server.url, era) as client:
        for tool, arguments in {
            "publish_task": {**CALL, "files": [str(tmp_path / "file")]},
            "get_results": {**LEFT, "save_to": str(tmp_path)},
        }.items():
            said = error_of(await client.call_tool(tool, arguments))
            assert "`folders` in the section [mcp] of the coordinator's configuration" in said
        assert is_read_only(await client.list_tools())
    assert [path.name for path in tmp_path.iterdir() if path.is_file()].count("file") == 1
    async with in_memory(server.url, era, folders=[tmp_path]) as client:
        assert not is_read_only(await client.list_tools())


def is_read_only(listed: Any) -> bool:
    [tool] = [one for one in listed.tools if one.name == "get_results"]
    return bool(tool.annotations.read_only_hint)


async def test_what_cannot_be_read_of_the_files_of_a_task_is_said(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    large = replace(artifact("log.txt", LOG), bytes=MAX_RESOURCE_BYTES + 1)
    odd = replace(artifact("odd", b"x"), sha256="0" * 64)
    binary = replace(artifact("one.bin", b"\0"), media_type="application/octet-stream")
    files = {"log.txt": LOG, "odd": b"x", "one.bin": b"\0"}
    await settle_with(coordinator, files, as_described={"log.txt": large, "odd": odd, "one.bin": binary})
    await coordinator.publish("code", "wait", task_id="job-3")
    calls: dict[str, dict[str, Any]] = {
        "has left no file '../x'; it has left: log.txt, odd, one.bin": {**LEFT, "artifact": "../x"},
        "artifact: one.bin is no text (application/octet-stream); save it": {**LEFT, "artifact": "one.bin"},
        "offset: 2 is beyond the end; odd has 1 bytes": {**LEFT, "artifact": "odd", "offset": 2},
        "odd of the task job-1 is not what its result says": {
            **LEFT,
            "artifact": "odd",
            "save_to": str(tmp_path / "to"),
        },
        "job-3 is queued; its work comes home with its result": {"task_ids": ["job-3"], "artifact": "log.txt"},
        "artifact and save_to: are of one task": {"artifact": "log.txt"},
    }
    resources = {
        "log.txt": f"has {MAX_RESOURCE_BYTES + 1} bytes, and a resource at most {MAX_RESOURCE_BYTES}",
        "odd": "is not what its result says",
        "none": "has left no file 'none'",
        "..%2Fodd": "Unknown resource",
    }
    async with in_memory(server.url, folders=[tmp_path]) as client:
        for said, call in calls.items():
            assert said in error_of(await client.call_tool("get_results", call))
        for name, said in resources.items():
            with pytest.raises(MCPError, match=said):
                await client.read_resource(f"agentbus://tasks/code/job-1/files/{name}")
        with pytest.raises(MCPError, match="job-3 is queued"):
            await client.read_resource("agentbus://tasks/job-3/files/odd")
        said = error_of(await client.call_tool("publish_task", {**CALL, "base": "--upload-pack=x"}))
        assert "base: is no name of a branch, tag or commit" in said
    assert [path.name for path in (tmp_path / "to").iterdir()] == []


async def test_many_files_with_long_names_stay_within_a_concise_answer(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    listed = [artifact(f"{number:02}{'n' * 100}", b"x").to_json() for number in range(40)]
    for number in range(10):
        task_id = f"many-{number}"
        await coordinator.publish("code", "work", task_type="test", task_id=task_id)
        await settle_listed(coordinator, task_id, listed)
    async with in_memory(server.url) as client:
        one = data_of(await client.call_tool("get_results", {"task_ids": ["many-0"]}))
        ten = data_of(await client.call_tool("get_results", {"task_ids": [f"many-{number}" for number in range(10)]}))
        whole = data_of(await client.call_tool("get_results", {"task_ids": ["many-0"], "response_format": "detailed"}))
    assert (len(one["results"][0]["artifacts"]), one["results"][0]["more_artifacts"]) == (8, 32)
    assert [(result.get("artifacts"), result["more_artifacts"]) for result in ten["results"]] == [(None, 40)] * 10
    assert all(len(json.dumps(answer).encode()) <= 4_100 for answer in (one, ten))
    assert len(whole["results"][0]["artifacts"]) == 40


async def settle_listed(coordinator: Coordinator, task_id: str, listed: list[Any]) -> None:
    await settle(coordinator, task_id, "x" * 5_000, extra={"artifacts": listed, "changes": CHANGES.to_json()})

"""The files that a task brings: laid into a folder of the run before it starts, as they were sent, or not at all."""

import os
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.errors import WorkError
from agentbus.protocol.json_codec import encode
from agentbus.protocol.messages import decode_task, new_task
from agentbus.protocol.work import input_names
from agentbus.protocol.work.task_work import SentFile, with_work
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.publish import publish
from agentbus.tasks.work.input_store import put_input
from support.harness import BOUND_S, eventually, worker, worker_toml
from support.in_pieces import in_pieces
from support.left_work import content_of

COPYING = 'cp -R "$AGENTBUS_INPUTS" "$0"; case "$1" in *"lie in the folder $AGENTBUS_INPUTS."*) echo told;; esac'
FILES = {"trace.log": b"a trace\n", "data/ü.bin": os.urandom(700_000), "data/empty": b""}


async def test_a_run_finds_the_files_of_its_task_as_they_were_sent(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    copy, paths = tmp_path / "copy", [tmp_path / "trace.log", tmp_path / "data"]
    config = worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", COPYING, str(copy), "{input}"])
    async with worker(config):
        await eventually(lambda: has_files_worker(coordinator), "the worker takes files")
        task = await coordinator.publish("code", "look", files=paths)
        result = await task.result(timeout_s=BOUND_S)
    assert (result.status, str(result.result).strip()) == ("completed", "told"), result.error
    found = content_of(copy)
    assert {name: content for name, (_, content) in found.items()} == FILES
    assert {mode for mode, _ in found.values()} == {0o600}
    extra = task.message.model_extra or {}
    assert extra["needs"] == ["files"]
    assert [one["name"] for one in extra["files"]] == ["trace.log", "data/empty", "data/ü.bin"]
    again = await coordinator.publish(
        "code", "look", task_id=task.id, files=[tmp_path / "trace.log", tmp_path / "data"]
    )
    assert again.known


async def has_files_worker(coordinator: Coordinator) -> bool:
    return any("files" in (one.needs or ()) for one in await coordinator.agents("code"))


@pytest.mark.parametrize("wrong", ["missing", "changed"])
async def test_a_file_that_is_not_what_the_task_names_is_a_failure_of_the_workspace(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path, wrong: str
) -> None:
    ran = tmp_path / "ran"
    config = worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", f"touch {ran}", "{input}"])
    async with worker(config):
        await eventually(lambda: has_files_worker(coordinator), "the worker takes files")
        sent = await put_input(coordinator.bus, "code", "main", "x", in_pieces(b"content"))
        claimed = sent.model_copy(update={"object": "y"} if wrong == "missing" else {"sha256": "0" * 64})
        task = new_task(to="code", content="x", task_type="test")
        file = SentFile(name="a", **claimed.model_dump())
        made = decode_task(encode(with_work(task.to_json(), None, [file])))
        await publish(coordinator.bus, made, "main")
        result = await coordinator.task(made.id).result(timeout_s=BOUND_S)
    assert result.failure is not None
    assert result.failure.code == "workspace", result.failure
    assert "the file a of the task: " in result.failure.message
    assert not ran.exists()


async def test_what_cannot_be_sent_is_said_before_anything_is_published(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".git").mkdir()
    (tmp_path / "a" / ".git" / "config").write_bytes(b"x")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "big").touch()
    os.truncate(tmp_path / "big", (256 << 20) + 1)
    (tmp_path / "many").mkdir()
    for number in range(101):
        (tmp_path / "many" / str(number)).touch()
    for path, why in {
        "nothing": "cannot be read: No such file",
        "link": "it is a link; name what it points to",
        "a": "it leads into a repository",
        "big": "a task may bring 256 MiB in all",
        "many": "a task may bring 100 files",
    }.items():
        with pytest.raises(WorkError, match=why):
            await coordinator.publish("code", "x", files=[tmp_path / path])
    (tmp_path / "small").write_bytes(b"x")
    with pytest.raises(WorkError, match=r"no files can be sent to the agent code on this bus: .* agentbus setup"):
        await coordinator.publish("code", "x", files=[tmp_path / "small"])
    assert (await coordinator.bus.stream_info("AGENT_TASKS")).state.messages == 0
    assert input_names.stream("code") not in await coordinator.bus.stream_names()


async def test_a_task_with_files_is_retried_by_its_owner_and_another_is_told_at_once_who_can(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"content")
    config = worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", 'cat "$AGENTBUS_INPUTS/a"', "{input}"])
    alice = Coordinator(coordinator.bus, "alice")
    async with worker(config):
        await eventually(lambda: has_files_worker(coordinator), "the worker takes files")
        task = await alice.publish("code", "look", files=[tmp_path / "a"])
        await task.result(timeout_s=BOUND_S)
        again = await (await alice.task(task.id).retry()).result(timeout_s=BOUND_S)
        assert (again.status, again.result) == ("completed", "content"), again.error
        published = (await coordinator.bus.stream_info("AGENT_TASKS")).state.last_seq
        with pytest.raises(WorkError, match=r"brings files or commits that alice has sent, .*: have alice retry it"):
            await coordinator.task(task.id).retry()
    assert (await coordinator.bus.stream_info("AGENT_TASKS")).state.last_seq == published

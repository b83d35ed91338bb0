"""The source of a repository: a server that asks for a password, and workers that share one."""

import asyncio
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.config.loading import load_worker
from agentbus.errors import WorkspaceError
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.disk.threads import AT_ONCE
from agentbus_worker.repositories.clones import Clones
from support.harness import worker
from support.jobs import publish, settled
from support.repositories import artifacts, git, repository_worker, source_repository

REFUSAL = (
    b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)

TOGETHER = """
touch {folder}/$AGENTBUS_TASK_ID.began
while [ ! -e {folder}/1.began ] || [ ! -e {folder}/2.began ]; do sleep 0.05; done
echo $AGENTBUS_TASK_ID > README
"""


async def test_a_server_that_asks_for_a_password_is_told_none_and_no_program_asks_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(REFUSAL)
        await writer.drain()
        writer.close()

    asked = tmp_path / "asked"
    program = tmp_path / "ask.sh"
    program.write_text(f"#!/bin/sh\ntouch {asked}\necho secret\n", encoding="utf-8")
    program.chmod(0o755)
    for name in ("GIT_ASKPASS", "SSH_ASKPASS"):
        monkeypatch.setenv(name, str(program))
    settings = tmp_path / "gitconfig"
    settings.write_text(f"[core]\n\taskPass = {program}\n", encoding="utf-8")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        source = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/repository.git"
        config, _ = load_worker(repository_worker(tmp_path / "worker", "nats://127.0.0.1:4222", source, ""))
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with pytest.raises(WorkspaceError, match=r"could not read Username .*terminal prompts disabled"):
            await Clones(config, tmp_path / "base", AT_ONCE).of_task(TaskKey("code", "1"), "1", None, stop)
    assert not asked.exists()
    assert not list((tmp_path / "base" / "clones").iterdir())


async def test_two_workers_with_one_source_share_its_mirror(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
):
    source, folder = source_repository(tmp_path / "source"), tmp_path / "worker"
    config = repository_worker(folder, server.url, source, TOGETHER.format(folder=folder))
    async with worker(config), worker(config):  # each has one slot, and no task ends before both run
        tasks = [await publish(coordinator, "work", task_id=task_id) for task_id in ("1", "2")]
        for task_id in tasks:
            done = await settled(coordinator, task_id)
            assert (done.state, set(artifacts(done))) == ("completed", {"changes.bundle", "changes.patch"})
    [_] = folder.glob("state/mirrors/*/repository.git")


async def test_what_a_killed_fetch_has_left_in_the_mirror_goes_with_the_next_one(tmp_path: Path):
    source = source_repository(tmp_path / "source")
    config, _ = load_worker(repository_worker(tmp_path / "worker", "nats://127.0.0.1:4222", source, ""))
    clones, stop = Clones(config, tmp_path / "base", AT_ONCE), asyncio.get_running_loop().create_future()
    (await clones.of_task(TaskKey("code", "1"), "1", None, stop)).close()
    [mirror] = tmp_path.glob("worker/state/mirrors/*/repository.git")
    left = [mirror / "objects" / "pack" / "tmp_pack_a1b2c3", mirror / "refs" / "heads" / "main.lock"]
    for path in (*left, mirror.parent / "fetching"):
        path.touch()
    (source / "README").write_text("two\n", encoding="utf-8")
    git(source, "commit", "-qnam", "Two")
    clone = await clones.of_task(TaskKey("code", "2"), "2", None, stop)
    assert (clone.tree / "README").read_text(encoding="utf-8") == "two\n"
    clone.close()
    assert not any(path.exists() for path in (*left, mirror.parent / "fetching"))

"""A backup holds what was on the bus, and what is restored goes on where it was."""

import asyncio
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.admin import backup as backup_module
from agentbus.admin.backup import _send_chunk, back_up, restore  # pyright: ignore[reportPrivateUsage]
from agentbus.bus.nats_client import Msg
from agentbus.bus.setup import set_up
from agentbus.errors import BusError, ConfigError, NoRespondersError
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.protocol.subjects import COORDINATOR
from agentbus.provision.nats_server import NatsServer, run_server
from support.clustered import ELECTION_S, cluster
from support.harness import BOUND_S, eventually, run_cli, worker, worker_toml
from support.installation import own_bus

pytestmark = pytest.mark.posix("not tried on Windows")


async def publish(coordinator: Coordinator, *contents: str) -> list[str]:
    return [(await coordinator.publish("code", text, task_type="test")).id for text in contents]


async def done(coordinator: Coordinator, ids: Sequence[str], timeout_s: float = 2 * BOUND_S) -> set[str]:
    """Wait for tasks; returns the states they have come to."""
    waited = await coordinator.wait(ids, timeout_s=timeout_s)
    assert not waited.pending, waited.pending
    return {status.state for status in waited.settled.values()}


async def inbox(coordinator: Coordinator) -> list[str]:
    return [message.result.task_id for message in await coordinator.results(100) if message.result]


async def test_a_restored_bus_continues_where_it_was(tmp_path: Path):
    async with run_server(store=tmp_path / "old") as server, connect(server.url) as coordinator:
        await set_up(coordinator.bus, ["code"])
        async with worker(worker_toml(tmp_path, server.url, worker={"inline_output_bytes": 1024})):
            finished = await publish(coordinator, "say:one", "bytes:5000")
            await done(coordinator, finished)
        queued = await publish(coordinator, "say:two", "say:three")
        (tmp_path / "file").write_bytes(os.urandom(200_000))  # a run that does not get it as it was sent fails
        queued.append((await coordinator.publish("code", "say:file", files=[tmp_path / "file"])).id)
        copied = [one.stream async for one in back_up(coordinator.bus, tmp_path / "backup")]
        assert copied == [
            "AGENT_TASKS",
            "AGENT_RESULTS",
            "AGENT_DEAD",
            "AGENT_AUDIT",
            "AGENT_AUDIT_SAID",
            "KV_AGENT_CONTROL",
            "KV_AGENT_STATE",
            "OBJ_AGENT_FILES_code",
            "OBJ_AGENT_INPUTS_code",
        ]
    async with run_server(store=tmp_path / "new") as server, connect(server.url) as coordinator:
        back = [one.stream async for one in restore(coordinator.bus, tmp_path / "backup")]
        assert set(back) == set(copied)
        assert back[-1] == "AGENT_TASKS", "no worker meets a task whose state is not there yet"
        outcomes = {item.name: item.outcome for item in await set_up(coordinator.bus, ["code"])}
        assert {name for name, outcome in outcomes.items() if outcome != "found"} == {
            "AGENT_PROGRESS_code",
            "KV_AGENT_REGISTRY",
        }
        assert await inbox(coordinator) == finished
        whole = b"".join([piece async for piece in coordinator.task(finished[1]).output()])
        assert len(whole) >= 5000
        async with worker(worker_toml(tmp_path, server.url)):
            assert await done(coordinator, queued) == {"completed"}
        assert sorted(await inbox(coordinator)) == sorted([*finished, *queued])


async def test_tasks_finished_after_the_backup_run_again_and_later_ones_are_unknown(tmp_path: Path):
    async with run_server(store=tmp_path / "old") as server, connect(server.url) as coordinator:
        await set_up(coordinator.bus, ["code"])
        before = await publish(coordinator, "say:before")
        assert [one async for one in back_up(coordinator.bus, tmp_path / "backup")]
        later = await publish(coordinator, "say:later")
        async with worker(worker_toml(tmp_path, server.url)):
            await done(coordinator, [*before, *later])
        first = {message.result.id for message in await coordinator.results(10) if message.result}
    async with run_server(store=tmp_path / "new") as server, connect(server.url) as coordinator:
        assert [one async for one in restore(coordinator.bus, tmp_path / "backup")]
        await set_up(coordinator.bus, ["code"])
        async with worker(worker_toml(tmp_path, server.url)):
            assert await done(coordinator, before) == {"completed"}
        assert await inbox(coordinator) == before
        [again] = await coordinator.results(1)
        assert again.result is not None
        assert again.result.id not in first, "a run of its own, with a result of its own"
        assert {one.task_id for one in (await coordinator.list_tasks()).tasks} == set(before)


async def test_a_task_that_was_being_settled_during_the_backup_gets_its_one_result(tmp_path: Path):
    """The tasks are copied first and the ledger last: what is delivered again is settled from the ledger."""
    async with run_server(store=tmp_path / "old") as server, connect(server.url) as coordinator:
        await set_up(coordinator.bus, ["code"])
        ids = await publish(coordinator, "say:between")
        result = None
        async for one in back_up(coordinator.bus, tmp_path / "backup"):
            if one.stream == "AGENT_RESULTS":  # the task is in the copy, its result is not, and the ledger will be
                async with worker(worker_toml(tmp_path, server.url)):
                    await done(coordinator, ids)
                [result] = [message.result for message in await coordinator.results(1)]
        assert result is not None
    async with run_server(store=tmp_path / "new") as server, connect(server.url) as coordinator:
        assert [one async for one in restore(coordinator.bus, tmp_path / "backup")]
        assert await inbox(coordinator) == []
        await set_up(coordinator.bus, ["code"])
        async with worker(worker_toml(tmp_path, server.url)):
            await eventually(lambda: inbox(coordinator), "the result is in the inbox again")
        [again] = [message.result for message in await coordinator.results(1)]
        assert again == result, "it was not run a second time"


async def test_the_commands_move_a_bus_with_accounts_to_a_cluster(tmp_path: Path):
    backup = tmp_path / "backup"
    async with own_bus(tmp_path / "one", ["code"]) as bus:
        async with bus.coordinator(COORDINATOR) as coordinator:
            ids = await publish(coordinator, "say:one", "say:two")
        ran = await run_cli("backup", str(backup), "--config", str(bus.folder.administrator))
        assert (ran.code, ran.err) == (0, "")
        assert json.loads(ran.out.splitlines()[0])["messages"] == 2
        assert bus.violations() == []
    assert {path.stat().st_mode & 0o077 for path in backup.rglob("*")} == {0}
    async with cluster(tmp_path / "three") as servers:
        config = str(servers.folder.administrator)
        ran = await run_cli("restore", str(backup), "--config", config, "--replicas", "3", timeout_s=ELECTION_S)
        assert (ran.code, ran.err) == (0, "")
        ran = await run_cli("setup", "--config", config, "--replicas", "3", timeout_s=3 * ELECTION_S)
        assert ran.code == 0, ran.err
        async with servers.coordinator() as coordinator, worker(servers.worker_toml(tmp_path, "code")):
            assert await done(coordinator, ids, ELECTION_S) == {"completed"}
        again = await run_cli("restore", str(backup), "--config", config)
        assert again.code == 1
        assert "exists on this bus" in again.err


async def test_the_copied_store_of_a_stopped_server_is_the_bus(tmp_path: Path):
    async with run_server(store=tmp_path / "old") as server, connect(server.url) as coordinator:
        await set_up(coordinator.bus, ["code"])
        queued = await publish(coordinator, "say:one", "say:two")
    shutil.copytree(tmp_path / "old", tmp_path / "elsewhere")
    async with run_server(store=tmp_path / "elsewhere") as server, connect(server.url) as coordinator:
        assert {item.outcome for item in await set_up(coordinator.bus, ["code"])} == {"found"}
        async with worker(worker_toml(tmp_path, server.url)):
            assert await done(coordinator, queued) == {"completed"}


async def test_a_backup_needs_an_empty_folder(server: NatsServer, tmp_path: Path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine", encoding="utf-8")
    async with connect(server.url) as coordinator:
        with pytest.raises(ConfigError, match="is not empty"):
            assert [one async for one in back_up(coordinator.bus, tmp_path / "full")]
    assert (tmp_path / "full" / "file").read_text(encoding="utf-8") == "mine"


async def test_an_incomplete_backup_is_not_restored(server: NatsServer, tmp_path: Path):
    async with connect(server.url) as coordinator:
        await set_up(coordinator.bus)
        assert [one async for one in back_up(coordinator.bus, tmp_path / "backup")]
        (tmp_path / "backup" / "backup.json").unlink()
        with pytest.raises(ConfigError, match="there is no complete backup in"):
            assert [one async for one in restore(coordinator.bus, tmp_path / "backup")]


async def test_a_full_disk_and_a_missing_file_are_named(server: NatsServer, tmp_path: Path):
    resource = pytest.importorskip("resource")
    async with connect(server.url) as coordinator:
        await set_up(coordinator.bus, ["code"])
        await publish(coordinator, os.urandom(50_000).hex())
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # of this process, as a quota would
        try:
            with pytest.raises(ConfigError, match="AGENT_TASKS failed: File too large"):
                _ = [one async for one in back_up(coordinator.bus, tmp_path / "part")]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        _ = [one async for one in back_up(coordinator.bus, tmp_path / "whole")]
    (tmp_path / "whole" / "AGENT_RESULTS" / "snapshot").unlink()
    async with run_server(store=tmp_path / "empty") as empty, connect(empty.url) as coordinator:
        with pytest.raises(ConfigError, match=r"AGENT_RESULTS.snapshot failed: No such file"):
            _ = [one async for one in restore(coordinator.bus, tmp_path / "whole")]


async def test_a_damaged_backup_is_refused_by_the_server(tmp_path: Path):
    async with run_server(store=tmp_path / "old") as server, connect(server.url) as coordinator:
        await set_up(coordinator.bus)
        assert [one async for one in back_up(coordinator.bus, tmp_path / "backup")]
    data = tmp_path / "backup" / "AGENT_RESULTS" / "snapshot"
    data.write_bytes(b"?" * len(data.read_bytes()))
    async with run_server(store=tmp_path / "new") as server, connect(server.url) as coordinator:
        with pytest.raises(BusError, match="AGENT_RESULTS cannot be restored"):
            assert [one async for one in restore(coordinator.bus, tmp_path / "backup")]


async def test_only_the_administrator_can_back_up(tmp_path: Path):
    async with own_bus(tmp_path, ["code"]) as bus:
        for party, code in ((ADMINISTRATOR, 0), (COORDINATOR, 1)):
            config = tmp_path / f"{party}.toml"
            nats = bus.nats(party)
            lines = [f"{key} = {json.dumps(str(value))}" for key, value in nats.items()]
            config.write_text("\n".join(["[nats]", *lines, f'inbox_prefix = "_INBOX_{party}"', ""]), encoding="utf-8")
            ran = await run_cli("backup", str(tmp_path / f"of-{party}"), "--config", str(config))
            assert ran.code == code, ran.err


async def test_a_chunk_is_sent_again_until_the_restoring_server_is_known(server: NatsServer):
    async with connect(server.url) as ours, connect(server.url) as restoring:
        sending = asyncio.create_task(_send_chunk(ours.bus, "restore.here", b"chunk"))
        await ours.bus.api("INFO")  # the chunk went out before this request, and no one was there to take it
        assert not sending.done()
        answers: set[asyncio.Task[None]] = set()

        def answer(message: Msg) -> None:
            answers.add(asyncio.create_task(restoring.bus.publish(message.reply, message.data + b" taken")))

        await restoring.bus.subscribe("restore.here", answer)
        assert await asyncio.wait_for(sending, BOUND_S) == b"chunk taken"
        await asyncio.wait(answers)


async def test_a_chunk_that_no_server_takes_is_an_error(server: NatsServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backup_module, "_INTEREST_S", 0.2)
    async with connect(server.url) as coordinator:
        with pytest.raises(NoRespondersError, match=r"nothing on the bus listens on restore\.here"):
            await _send_chunk(coordinator.bus, "restore.here", b"chunk")

"""Outcomes on disk: what a worker has finished is not run again, and is delivered once, whatever happens in between."""

import shutil
import sys
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.protocol.json_codec import decode, encode
from agentbus.provision.nats_server import NatsServer, run_server
from support.file_faults import full_disk
from support.harness import Process, eventually, worker, worker_toml
from support.jobs import (
    acknowledged,
    agent_keys,
    counts,
    error,
    outcome,
    publish,
    ran_nothing,
    result_messages,
    settled,
    short_lease,
    text,
)
from support.outage import Outage, outage_of
from support.slow_ledger import slow_ledger


@pytest.fixture
async def outage(tmp_path: Path) -> AsyncGenerator[Outage]:
    async with outage_of(tmp_path / "nats") as held:
        await short_lease(held.bus)
        yield held


def entries(folder: Path, pattern: str = "*.json") -> list[Path]:
    return sorted((folder / "state").glob(f"*/code/*/outbox/{pattern}"))


async def entry_on_disk(folder: Path) -> Path:
    [entry] = await eventually(lambda: entries(folder), "the outcome is on disk")
    return entry


async def finished_without_a_server(outage: Outage, folder: Path, child: Process) -> str:
    """A task whose command has ended while the server was away; its outcome is on disk."""
    task_id = await publish(outage.bus, f"touch:{folder}/ran sleep:1 say:done")
    await eventually((folder / "ran").exists, "the command runs")
    outage.begin()
    entry = await entry_on_disk(folder)
    assert decode(entry.read_bytes())["result"]["result"] == "done\n"
    return task_id


def runs(folder: Path) -> int:
    return len((folder / "ran").read_text(encoding="utf-8").splitlines())


async def inbox_full(bus: Coordinator) -> Callable[[], Any]:
    """Let the result stream refuse what comes; returns what ends that."""
    config = (await bus.bus.api("STREAM.INFO.AGENT_RESULTS"))["config"]
    await bus.bus.store("agent.doc.results", b"filler")
    await bus.bus.api("STREAM.UPDATE.AGENT_RESULTS", {**config, "max_msgs": 1})
    return lambda: bus.bus.api("STREAM.UPDATE.AGENT_RESULTS", {**config, "max_msgs": -1})


# -- the server is gone when the command ends -------------------------------------------------------------------


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
async def test_the_next_start_delivers_an_outcome_that_was_finished_during_an_outage(
    tmp_path: Path, outage: Outage, end: str
):
    config = worker_toml(tmp_path, outage.url, worker={"drain_timeout_seconds": 0.3})
    async with worker(config) as child:
        task_id = await finished_without_a_server(outage, tmp_path, child)
        if end == "SIGTERM":
            child.terminate()
            assert await child.exit_code() == 0
            assert child.said("its outcome stays in the outbox")
        else:
            child.kill()
    entry = await entry_on_disk(tmp_path)
    await outage.end()
    async with worker(config) as child:
        status = await settled(outage.bus, task_id)
        await acknowledged(outage.bus)
        assert child.said(f"task {task_id}: its outcome from before the restart is delivered")
        assert ran_nothing(child)
    assert (status.state, text(status), status.record.entry.attempt) == ("completed", "done\n", 1)
    assert runs(tmp_path) == 1
    assert not entry.exists()
    [result] = await result_messages(outage.bus)
    assert result["id"] == status.record.entry.result_id


async def test_a_running_worker_stores_the_outcome_as_soon_as_the_server_is_back(tmp_path: Path, outage: Outage):
    async with worker(worker_toml(tmp_path, outage.url)) as child:
        task_id = await finished_without_a_server(outage, tmp_path, child)
        await outage.end()
        assert text(await settled(outage.bus, task_id)) == "done\n"
        await acknowledged(outage.bus)
        await eventually(lambda: not entries(tmp_path), "the outbox is empty")
    assert runs(tmp_path) == 1
    assert (await counts(outage.bus))["AGENT_RESULTS"] == 1


async def test_an_outcome_whose_task_another_worker_has_settled_is_dropped_and_logged(tmp_path: Path, outage: Outage):
    config = worker_toml(tmp_path, outage.url)
    async with worker(config) as child:
        task_id = await finished_without_a_server(outage, tmp_path, child)
        child.kill()
    await outage.end()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with worker(worker_toml(elsewhere, outage.url)):
        status = await settled(outage.bus, task_id)
        await acknowledged(outage.bus)
    assert status.record.entry.attempt == 2
    async with worker(config) as child:
        assert child.said(f"task {task_id}: an outcome from before the restart is dropped: the task has another result")
    assert runs(tmp_path) == 2
    assert entries(tmp_path) == []
    assert (await outage.bus.task(task_id).status()).record.revision == status.record.revision
    assert (await counts(outage.bus))["AGENT_RESULTS"] == 1


async def test_an_outcome_whose_task_another_worker_runs_is_dropped_and_the_other_worker_settles_it(
    tmp_path: Path, outage: Outage
):
    ran, go = tmp_path / "ran", tmp_path / "go"
    second = f"[ $(wc -l < {ran}) = 1 ] || until [ -e {go} ]; do sleep 0.1; done"
    command = ["/bin/sh", "-c", f"echo ran >> {ran}; {second}; sleep 1; echo done", "sh", "{input}"]
    config = worker_toml(tmp_path, outage.url, chat_cmd=command)
    async with worker(config) as child:
        task_id = await finished_without_a_server(outage, tmp_path, child)
        child.kill()
    await outage.end()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with worker(worker_toml(elsewhere, outage.url, chat_cmd=command)):
        await eventually(lambda: runs(tmp_path) == 2, "another worker runs it")
        async with worker(config) as child:
            assert child.said("is dropped: another worker has the task")
            go.touch()
            status = await settled(outage.bus, task_id)
            await acknowledged(outage.bus)
    assert (text(status), status.record.entry.attempt) == ("done\n", 2)
    assert (await counts(outage.bus))["AGENT_RESULTS"] == 1


async def test_a_cancel_request_after_the_command_has_finished_does_not_change_the_outcome(
    tmp_path: Path, outage: Outage
):
    config = worker_toml(tmp_path, outage.url)
    async with worker(config) as child:
        task_id = await finished_without_a_server(outage, tmp_path, child)
        child.kill()
    await outage.end()
    assert (await outage.bus.task(task_id).cancel()).state == "working"
    async with worker(config):
        status = await settled(outage.bus, task_id)
        await acknowledged(outage.bus)
    assert (status.state, text(status)) == ("completed", "done\n")
    assert (await counts(outage.bus))["AGENT_RESULTS"] == 1


# -- the server is gone when the task is to be queued again ------------------------------------------------------


def exits_once_told(folder: Path, outage: Outage, **keys: Any) -> Path:
    """A worker whose first command waits for the file `go` and fails; later ones succeed at once."""
    wait = f"until [ -e {folder}/go ]; do sleep 0.02; done; exit 3"
    script = f"echo x >> {folder}/ran; [ $(wc -l < {folder}/ran) = 1 ] || exit 0; {wait}"
    return worker_toml(folder, outage.url, chat_cmd=["/bin/sh", "-c", script, "sh", "{input}"], worker=keys)


async def test_a_failure_that_cannot_be_queued_for_a_retry_becomes_the_result_once_the_server_is_back(
    tmp_path: Path, outage: Outage
):
    async with worker(exits_once_told(tmp_path, outage, retry_on=["exit:3"])) as child:
        task_id = await publish(outage.bus, "x")
        await eventually((tmp_path / "ran").exists, "the command runs")
        outage.begin()
        (tmp_path / "go").touch()
        await child.until_said("could not be queued for another attempt")
        await outage.end()
        status = await settled(outage.bus, task_id)
        await acknowledged(outage.bus)
    assert (status.state, status.record.entry.attempt) == ("failed", 1)
    assert runs(tmp_path) == 1
    assert len(await result_messages(outage.bus)) == 1


async def test_a_task_that_cannot_be_released_is_released_by_the_next_worker_here(tmp_path: Path, outage: Outage):
    config = exits_once_told(tmp_path, outage, drain_timeout_seconds=0)
    async with worker(config) as child:
        task_id = await publish(outage.bus, "x")
        await eventually((tmp_path / "ran").exists, "the command runs")
        outage.begin()
        child.terminate()
        await child.until_said("could not be released")
        assert await child.exit_code() == 0
    await outage.end()
    assert (await outage.bus.task(task_id).status()).state == "working"
    async with worker(config):
        status = await settled(outage.bus, task_id)
        await acknowledged(outage.bus)
    released = sys.platform == "linux"  # elsewhere its lease expires, which counts
    assert (status.state, status.record.entry.attempt) == ("completed", 1 if released else 2)
    assert runs(tmp_path) == 2
    assert len(await result_messages(outage.bus)) == 1


# -- committed, and not published -------------------------------------------------------------------------------


async def test_a_committed_result_that_was_not_published_is_published_under_the_same_id(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator)
    config = worker_toml(tmp_path, server.url)
    take_results = await inbox_full(coordinator)
    async with worker(config) as child:
        task_id = await publish(coordinator, "say:done")
        await child.until_said("the result cannot be stored yet")
        await entry_on_disk(tmp_path)
        committed = (await coordinator.task(task_id).status()).record.entry.result_id
        assert committed
        child.kill()
    await take_results()
    async with worker(config) as child:
        await acknowledged(coordinator)
        assert child.said("its outcome from before the restart is delivered")
        assert ran_nothing(child)
    assert entries(tmp_path) == []
    [message] = await coordinator.results(newest=9)
    assert message.result is not None
    assert message.result.id == committed
    assert (await coordinator.task(task_id).status()).record.entry.result == message.result.to_json()


async def test_a_start_waits_until_the_bus_stores_results_again(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url)
    take_results = await inbox_full(coordinator)
    async with worker(config) as child:
        await publish(coordinator, "say:done")
        await child.until_said("the result cannot be stored yet")
        await entry_on_disk(tmp_path)
        child.kill()
    async with worker(config, ready=False) as child:
        await child.until_said("the outbox cannot be delivered yet")
        await take_results()
        await child.until_said("its outcome from before the restart is delivered")
        await child.until_said("ready for tasks")
    assert len(await result_messages(coordinator)) == 1


@pytest.mark.parametrize("age_days", [7.9, 8.1])
async def test_an_outcome_older_than_the_duplicate_window_is_not_published_again(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, age_days: float
):
    config = worker_toml(tmp_path, server.url)
    take_results = await inbox_full(coordinator)
    async with worker(config) as child:
        await publish(coordinator, "say:done")
        await child.until_said("the result cannot be stored yet")
        entry = await entry_on_disk(tmp_path)
        child.kill()
    await take_results()
    await coordinator.bus.api("STREAM.PURGE.AGENT_TASKS")  # its message has grown too old before
    entry.write_bytes(encode({**decode(entry.read_bytes()), "written_at": time.time() - age_days * 86_400}))
    async with worker(config) as child:
        assert child.said("is dropped: it is too old") == (age_days > 8)
    assert len(await result_messages(coordinator)) == (0 if age_days > 8 else 1)
    assert not entry.exists()


# -- what cannot be read, or written ----------------------------------------------------------------------------


async def test_an_unreadable_outbox_entry_is_set_aside_and_the_others_are_delivered(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url)
    take_results = await inbox_full(coordinator)
    async with worker(config) as child:
        task_id = await publish(coordinator, "say:done")
        await child.until_said("the result cannot be stored yet")
        entry = await entry_on_disk(tmp_path)
        child.kill()
    await take_results()
    whole = decode(entry.read_bytes())
    odd = {
        "empty": b"",
        "half": entry.read_bytes()[:100],
        "list": b"[]",
        "fields": b'{"agent": "code"}',
        "nameless": encode({**whole, "nonce": "x", "result": {"status": "completed"}}),
        "anonymous": encode({**whole, "nonce": "z", "result": {**whole["result"], "id": ""}}),
        "unsound": encode({**whole, "nonce": "y", "task_id": "..", "inbox": "a b"}),
    }
    for name, content in odd.items():
        (entry.parent / f"{name}.json").write_bytes(content)
    (entry.parent / "folder.json").mkdir()
    async with worker(config) as child:
        assert child.log.read_text(encoding="utf-8").count("cannot be read and was set aside") == len(odd) + 1
        assert child.said("its outcome from before the restart is delivered")
    assert {path.stem: path.read_bytes() for path in entries(tmp_path, "*.unreadable") if path.is_file()} == odd
    assert entries(tmp_path) == []
    [result] = await result_messages(coordinator)
    assert result["task"]["id"] == task_id


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
async def test_on_a_full_disk_the_result_arrives_and_the_log_says_that_there_is_no_copy(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    with full_disk(tmp_path / "state") as fill:
        async with slow_ledger(server.url) as link, worker(worker_toml(tmp_path, link.url)) as child:
            fill()
            link.delay_s = 0.1  # so slow that a copy is wanted
            statuses = [await outcome(coordinator, f"say:{number} bytes:200000") for number in range(2)]
            await acknowledged(coordinator)
            assert child.said(f"task {statuses[0].task_id}: no copy of the outcome on disk: No space left on device")
            assert child.said(f"task {statuses[0].task_id}: its process is not on record: No space left on device")
            assert child.popen.poll() is None
    for number, status in enumerate(statuses):
        assert status.state == "completed"
        assert text(status).startswith(f"{number}\nxxx")
        assert status.result is not None
        note = status.result.to_json()["output"]
        assert (note["truncated"], note["bytes"], "file" in note) == (True, 200_002, False)
    assert len(await result_messages(coordinator)) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
@pytest.mark.parametrize("via", ["stdin", "file"])
async def test_on_a_full_disk_a_prompt_that_cannot_be_written_is_a_failed_result_unless_it_needs_no_disk(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, via: str
):
    with full_disk(tmp_path / "state") as fill:
        command = ["cat", "{input_file}"] if via == "file" else ["cat"]
        keys = {"prompt_via": via, "setback_limit_seconds": 0}
        config = agent_keys(worker_toml(tmp_path, server.url, chat_cmd=command), **keys)
        async with worker(config) as child:
            fill()
            status = await outcome(coordinator, "hello")
            await acknowledged(coordinator)
            assert child.popen.poll() is None
    if via == "stdin":
        assert status.state == "completed"
    else:
        assert status.state == "failed"
        assert "No space left on device" in error(status)


async def test_state_folders_that_are_deleted_do_not_end_a_running_worker(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with slow_ledger(server.url) as link, worker(worker_toml(tmp_path, link.url)) as child:
        [slot] = (tmp_path / "state").glob("*/code/[0-9]*")
        for name in ("outbox", "children"):
            shutil.rmtree(slot / name)
            (slot / name).write_text("a file where the folder was", encoding="utf-8")
        link.delay_s = 0.1  # so slow that a copy is wanted
        first = await outcome(coordinator, "say:one")
        await acknowledged(coordinator)
        assert child.said("no copy of the outcome on disk")
        for name in ("outbox", "children"):
            (slot / name).unlink()
        second = await outcome(coordinator, "say:two")
        await acknowledged(coordinator)
        assert child.popen.poll() is None
    assert (text(first), text(second)) == ("one\n", "two\n")
    assert len(await result_messages(coordinator)) == 2


# -- what the bus refuses for good ------------------------------------------------------------------------------


@pytest.fixture
async def restricted(tmp_path: Path) -> AsyncGenerator[tuple[str, Coordinator]]:
    """A bus on which the worker may not publish into the inbox of `secret`: the worker's URL, and a coordinator."""
    conf = tmp_path / "users.conf"
    conf.write_text(
        f'listen: "127.0.0.1:-1"\njetstream {{ store_dir: "{tmp_path / "s"}" }}\n'
        "authorization { users: [ { user: admin, password: x }, { user: agent-code, password: x, permissions: {\n"
        '  publish: { allow: [">"], deny: ["agent.secret.results"] }, subscribe: [">"] } } ] }\n',
        encoding="utf-8",
    )
    async with (
        run_server(store=tmp_path / "s", config=conf) as server,
        connect(server.url.replace("nats://", "nats://admin:x@")) as bus,
    ):
        await set_up(bus.bus)
        await short_lease(bus)
        yield server.url.replace("nats://", "nats://agent-code:x@"), bus


async def test_a_result_for_a_forbidden_inbox_neither_ends_a_worker_nor_prevents_its_start(
    tmp_path: Path, restricted: tuple[str, Coordinator]
):
    url, bus = restricted
    config = worker_toml(tmp_path, url, worker={"concurrency": 2})
    async with worker(config) as child:
        running = await publish(bus, f"touch:{tmp_path}/ran sleep:2 say:unharmed")
        await eventually((tmp_path / "ran").exists, "another task runs beside it")
        refused = await publish(bus, "say:done", reply_to="secret")
        status = await settled(bus, refused)
        assert (status.state, text(status)) == (
            "completed",
            "done\n",
        )  # the ledger has it, which the coordinator may read
        await child.until_said("does not allow this user to publish to agent.secret.results")
        assert text(await settled(bus, running)) == "unharmed\n"
        assert child.popen.poll() is None
        await only_that_one_is_left(bus)
    async with worker(config):
        assert text(await outcome(bus, "say:still_here")) == "still here\n"
        await only_that_one_is_left(bus)


async def only_that_one_is_left(bus: Coordinator) -> None:
    """It is not acknowledged: its result is not in its inbox."""

    async def one() -> bool:
        return (await counts(bus))["AGENT_TASKS"] == 1

    await eventually(one, "the other task is acknowledged, and it is not")

"""Clock, disk, streams or network fail: no task is lost or done twice, and the log says what to do."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncGenerator
from datetime import datetime
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.admin.dead_letters import newest_dead_letters, requeue
from agentbus.bus.setup import set_up
from agentbus.errors import RequeueError, StreamFullError
from agentbus.provision.nats_server import NatsServer, run_server
from agentbus_worker.metrics import Metrics
from agentbus_worker.settling import unsettled as unsettled_module
from agentbus_worker.settling.outbox import Outbox, OutboxEntry
from agentbus_worker.settling.server_clock import ServerClock
from agentbus_worker.settling.unsettled import Unsettled
from support.harness import BOUND_S, SUPPORT, Process, eventually, process, run_cli, worker, worker_toml
from support.jobs import (
    acknowledged,
    counts,
    error,
    fill,
    outcome,
    publish,
    result_messages,
    settled,
    short_lease,
    text,
)
from support.pace import at_this_pace
from support.slow_ledger import slow_ledger

DAY_S = 86_400
ODD_CLOCK = str(SUPPORT / "odd_clock.py")


def runs(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


# -- a ledger that answers slowly -------------------------------------------------------------------------------


async def test_a_slow_ledger_only_delays_the_work(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    await short_lease(coordinator, lease_s=6)
    ran = tmp_path / "ran"
    async with slow_ledger(server.url) as link, worker(worker_toml(tmp_path, link.url)) as child:
        link.delay_s = 0.8
        status = await outcome(coordinator, f"touch:{ran} sleep:2.5 say:done")
        await acknowledged(coordinator)
        assert not child.said("cannot be"), child.log.read_text(encoding="utf-8")
    assert (text(status), status.record.entry.attempt, runs(ran)) == ("done\n", 1, 1)
    assert len(await result_messages(coordinator)) == 1


async def test_a_ledger_that_answers_too_late_for_a_while_is_logged_and_no_work_is_lost(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=1.5)
    ran = tmp_path / "ran"
    async with slow_ledger(server.url) as link, worker(worker_toml(tmp_path, link.url)) as child:
        task_id = await publish(coordinator, f"touch:{ran} sleep:3 say:done")
        await eventually(ran.exists, "it runs")
        link.delay_s = 6.0
        await child.until_said(f"task {task_id}: its lease cannot be renewed: the bus did not answer within 0.5 s")
        await child.until_said(f"task {task_id}: the result cannot be stored yet: the bus did not answer within 5 s")
        link.delay_s = 0.0
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
    assert (text(status), status.record.entry.attempt, runs(ran)) == ("done\n", 1, 1)
    assert len(await result_messages(coordinator)) == 1


async def test_a_worker_that_cannot_renew_in_time_loses_its_task_and_sends_nothing(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=1.5)
    ran = tmp_path / "ran"
    near = worker_toml(tmp_path, server.url)
    (tmp_path / "far").mkdir()
    async with slow_ledger(server.url) as link, worker(worker_toml(tmp_path / "far", link.url)) as owner:
        task_id = await publish(coordinator, f"touch:{ran} sleep:4 say:done")
        await eventually(ran.exists, "it runs")
        link.delay_s = 3.0
        async with worker(near):
            status = await settled(coordinator, task_id)
            await acknowledged(coordinator)
            link.delay_s = 0.0
            await owner.until_said(f"task {task_id}: the lease was lost")
    assert (text(status), status.record.entry.attempt, runs(ran)) == ("done\n", 2, 2)
    assert [message["attempt"] for message in await result_messages(coordinator)] == [2]


# -- a clock that jumps -----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def worker_with_clock(config: Path, offset: Path) -> AsyncGenerator[Process]:
    """A worker whose clock is wrong by the seconds in the file `offset`."""
    argv = [sys.executable, ODD_CLOCK, str(offset), "worker", "run", "--config", str(config)]
    with process(argv, offset.with_suffix(".log")) as child:
        await child.until_said("ready for tasks")
        yield child


@pytest.fixture(params=[-3 * DAY_S, 3 * DAY_S], ids=["back", "ahead"])
def jump(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """The file that sets a clock (right at first), and what to write there."""
    offset = tmp_path / "offset"
    offset.write_text("0", encoding="utf-8")
    return offset, str(request.param)


async def test_a_replica_with_a_wrong_clock_takes_over_no_task_with_a_valid_lease(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, jump: tuple[Path, str]
):
    await short_lease(coordinator, lease_s=1.5)
    offset, wrong = jump
    ran = tmp_path / "ran"
    config = worker_toml(tmp_path, server.url)
    async with worker(config), worker_with_clock(config, offset) as other:
        offset.write_text(wrong, encoding="utf-8")
        task_id = await publish(coordinator, f"touch:{ran} sleep:4 say:done")
        await eventually(ran.exists, "it runs")
        message = await coordinator.bus.last_message("AGENT_TASKS", "agent.code.tasks")
        assert message is not None
        # Once more, as from a server that has forgotten who has it: it goes to the one that is free.
        await coordinator.bus.store("agent.code.tasks", message.data, msg_id="once more")
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
        assert other.popen.poll() is None
    assert (text(status), status.record.entry.attempt, runs(ran)) == ("done\n", 1, 1)
    assert len(await result_messages(coordinator)) == 1


async def test_a_jump_of_the_clock_changes_neither_the_time_limit_nor_the_lease_of_a_task(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, jump: tuple[Path, str]
):
    await short_lease(coordinator, lease_s=1.5)
    limit_s = at_this_pace(5)
    offset, wrong = jump
    ran = tmp_path / "ran"
    config = worker_toml(tmp_path, server.url, worker={"task_timeout_seconds": limit_s, "concurrency": 2})
    async with worker_with_clock(config, offset):
        short, long = [await publish(coordinator, f"touch:{ran} sleep:{length} say:done") for length in (2.5, 1000)]
        await eventually(lambda: runs(ran) == 2, "both run")
        offset.write_text(wrong, encoding="utf-8")
        status = await settled(coordinator, short)
        assert (status.state, text(status), status.record.entry.attempt) == ("completed", "done\n", 1)
        status = await settled(coordinator, long)
        assert (error(status), status.record.entry.attempt) == (f"timed out after {limit_s:g} s and was ended", 1)
        assert status.result is not None
        assert limit_s <= status.result.to_json()["duration_seconds"] < limit_s + BOUND_S
        await acknowledged(coordinator)
    assert runs(ran) == 2


async def test_the_backoff_of_a_retry_does_not_depend_on_the_clock_of_the_machine(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, jump: tuple[Path, str]
):
    offset, wrong = jump
    ran = tmp_path / "ran"
    script = f"echo ran >> {ran}; [ $(wc -l < {ran}) -gt 1 ] || exit 3; echo done"
    config = worker_toml(
        tmp_path,
        server.url,
        chat_cmd=["/bin/sh", "-c", script, "sh", "{input}"],
        worker={"retry_on": ["exit:3"], "retry_backoff_seconds": 2, "drain_timeout_seconds": 1},
    )
    async with worker(config) as first:
        task_id = await publish(coordinator, "x")
        await first.until_said("trying again in")
        first.kill()
    offset.write_text(wrong, encoding="utf-8")
    async with worker_with_clock(config, offset):
        status = await settled(coordinator, task_id)
    record = status.record
    assert (text(status), record.entry.attempt) == ("done\n", 2)


async def test_an_expired_outcome_is_not_published_again_after_the_clock_was_set_back(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    """The server's memory of ids is over by then: the same id would make a second message."""
    await short_lease(coordinator)
    async with worker(worker_toml(tmp_path, server.url)):
        status = await outcome(coordinator, "say:done")
        await acknowledged(coordinator)
    result, claim = status.result, status.record.entry.claim
    assert result is not None
    assert claim is not None
    left = OutboxEntry(
        agent="code",
        task_id=status.task_id,
        nonce=claim.nonce,
        status="completed",
        inbox="main",
        result=result,
        written_at=time.time() + DAY_S,
    )
    outbox = Outbox(tmp_path)
    await outbox.put(left)
    clock = ServerClock(coordinator.bus, "AGENT_TASKS", "agent-code")
    monkeypatch.setattr(unsettled_module, "DUPLICATE_WINDOW_S", 0.1)
    await coordinator.bus.api("STREAM.PURGE.AGENT_RESULTS")
    await eventually(lambda: _aged(clock, status.record.changed_at), "the commit is older than the memory of its id")
    await Unsettled(coordinator.bus, outbox, clock, Metrics(), lease_s=30).settle_left()
    assert await result_messages(coordinator) == []
    assert outbox.entries() == []


async def _aged(clock: ServerClock, since: datetime) -> bool:
    now = await clock.now()
    return now is not None and (now - since).total_seconds() > 0.2


# -- what is gone -----------------------------------------------------------------------------------------------


async def test_without_a_registry_tasks_run_and_the_log_says_why_the_worker_is_not_listed(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await coordinator.bus.api("STREAM.DELETE.KV_AGENT_REGISTRY")
    async with worker(worker_toml(tmp_path, server.url)) as child:
        await child.until_said("this worker cannot be seen by others: a stream for $KV.AGENT_REGISTRY.code.")
        assert child.said("make it with: agentbus setup")
        published = await run_cli(
            "task", "publish", "--nats-url", server.url, "--to", "code", "--task-type", "test", "say:done"
        )
        assert (published.code, published.err) == (0, "")
        status = await settled(coordinator, json.loads(published.out)["id"])
        assert text(status) == "done\n"
        listed = await run_cli("agent", "list", "--nats-url", server.url)
        assert listed.code == 1
        assert listed.err.startswith("error: the stream KV_AGENT_REGISTRY does not exist on this bus; make it with:")
        await set_up(coordinator.bus)
        assert text(await outcome(coordinator, "say:again")) == "again\n"
        await eventually(coordinator.agents, "the worker is seen again")
        assert child.log.read_text(encoding="utf-8").count("cannot be seen by others") == 1


async def test_a_worker_that_may_not_remake_its_deleted_consumer_waits_and_says_who_can(tmp_path: Path):
    conf = tmp_path / "users.conf"
    conf.write_text(
        f'listen: "127.0.0.1:-1"\njetstream {{ store_dir: "{tmp_path / "s"}" }}\n'
        "authorization { users: [ { user: admin, password: x }, { user: agent-code, password: x, permissions: {\n"
        '  publish: { allow: [">"], deny: ["$JS.API.CONSUMER.CREATE.>", "$JS.API.STREAM.CREATE.>"] }\n'
        '  subscribe: [">"] } } ] }\n',
        encoding="utf-8",
    )
    async with (
        run_server(store=tmp_path / "s", config=conf) as server,
        connect(server.url.replace("nats://", "nats://admin:x@")) as bus,
    ):
        await set_up(bus.bus, ["code"])
        url = server.url.replace("nats://", "nats://agent-code:x@")
        async with worker(worker_toml(tmp_path, url)) as child:
            await bus.bus.api("CONSUMER.DELETE.AGENT_TASKS.agent-code")
            await child.until_said("does not exist and this worker may not make it; an administrator must run: ")
            assert child.said("agentbus setup --agent code; waiting for it")
            task_id = await publish(bus, "say:done")
            await set_up(bus.bus, ["code"])
            assert text(await settled(bus, task_id)) == "done\n"
            assert child.log.read_text(encoding="utf-8").count("waiting for it") == 1


# -- what is full -----------------------------------------------------------------------------------------------


async def test_a_full_task_stream_refuses_a_task_and_says_what_to_do(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await publish(coordinator, "say:first")
    make_room = await fill(coordinator, "AGENT_TASKS")
    args = ("task", "publish", "--nats-url", server.url, "--to", "code", "--task-type", "test", "--task-id", "job", "x")
    refused = await run_cli(*args)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.count("\n") == 1
    assert "the stream that takes agent.code.tasks is full" in refused.err
    assert "nothing was stored" in refused.err
    assert "raise its max_bytes" in refused.err
    await make_room()
    assert (await run_cli(*args)).code == 0


@pytest.mark.usefixtures("room_is_asked_for")
async def test_a_full_ledger_delays_tasks_and_loses_none(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    await short_lease(coordinator, lease_s=6)
    ran = tmp_path / "ran"
    async with worker(worker_toml(tmp_path, server.url, worker={"concurrency": 2})) as child:
        running = await publish(coordinator, f"touch:{ran} sleep:1 bytes:2000")
        await eventually(ran.exists, "it runs")
        waiting = await publish(coordinator, "say:second", task_id="second")
        await settled(coordinator, waiting)
        make_room = await fill(coordinator, "KV_AGENT_STATE")
        with pytest.raises(StreamFullError):
            await publish(coordinator, "say:third", task_id="third")
        await child.until_said(f"task {running}: the result cannot be stored yet: the stream that takes")
        await make_room()
        assert len(text(await settled(coordinator, running))) == 2000
        await acknowledged(coordinator)
    assert runs(ran) == 1
    assert len(await result_messages(coordinator)) == 2
    assert (await counts(coordinator))["AGENT_DEAD"] == 0


async def test_a_worker_that_cannot_store_a_result_during_its_lease_does_not_take_over_its_own_task(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=1.0)
    ran = tmp_path / "ran"
    async with worker(worker_toml(tmp_path, server.url)) as child:
        task_id = await publish(coordinator, f"touch:{ran} sleep:1 bytes:2000")
        await eventually(ran.exists, "it runs")
        make_room = await fill(coordinator, "KV_AGENT_STATE")
        await child.until_said(f"task {task_id}: the result cannot be stored yet: ")
        await asyncio.sleep(4.5)  # three leases, while its worker tries more and more seldom
        assert (await coordinator.bus.api("CONSUMER.INFO.AGENT_TASKS.agent-code"))["num_redelivered"] == 0
        await make_room()
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
        assert text(await outcome(coordinator, "say:next")) == "next\n"
        assert child.popen.poll() is None
    assert (len(text(status)), status.record.entry.attempt, runs(ran)) == (2000, 1, 1)
    assert len(await result_messages(coordinator)) == 2


@pytest.mark.usefixtures("room_is_asked_for")
async def test_with_a_full_result_stream_results_wait_on_disk_and_the_worker_goes_on_with_other_tasks(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    tasks = [await publish(coordinator, f"say:{number}") for number in range(5)]
    await coordinator.bus.store("agent.doc.results", b"filler")
    make_room = await fill(coordinator, "AGENT_RESULTS")
    with pytest.raises(StreamFullError, match="no task is taken that would add a result"):
        await publish(coordinator, "say:more", agent="doc")
    async with worker(worker_toml(tmp_path, server.url, worker={"concurrency": 1})) as child:
        for number, task_id in enumerate(tasks):
            status = await settled(coordinator, task_id)
            assert (status.state, text(status)) == ("completed", f"{number}\n"), "who waits is told"
            await child.until_said(f"task {task_id}: the result cannot be stored yet: the stream that takes")
        await eventually(lambda: len(on_disk(tmp_path)) == len(tasks), "the outcomes are on disk")
        assert (await counts(coordinator))["AGENT_TASKS"] == len(tasks)
        await make_room()
        await acknowledged(coordinator)
        await eventually(lambda: not on_disk(tmp_path), "the outbox is empty")
    assert {message["task"]["id"] for message in await result_messages(coordinator)} == set(tasks)
    assert len(await result_messages(coordinator)) == len(tasks)


def on_disk(folder: Path) -> list[Path]:
    return list((folder / "state").glob("*/code/*/outbox/*.json"))


async def test_with_full_dead_letters_an_invalid_message_is_settled_and_does_not_come_back(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    task_id = await publish(coordinator, "x" * 5_000)
    await coordinator.bus.store("agent.code.tasks", b"not json")
    make_room = await fill(coordinator, "AGENT_DEAD")
    async with worker(worker_toml(tmp_path, server.url, worker={"max_task_bytes": 2_000})) as child:
        status = await settled(coordinator, task_id)
        assert (status.state, error(status)[:25]) == ("failed", "not accepted: too large: ")
        await child.until_said("(not JSON")
        await acknowledged(coordinator)
        assert child.log.read_text(encoding="utf-8").count("was not kept, because AGENT_DEAD is full: remove") == 2
        assert text(await outcome(coordinator, "say:next")) == "next\n"
        await make_room()
    assert (await counts(coordinator))["AGENT_DEAD"] == 0


async def test_with_little_room_for_dead_letters_the_reason_is_kept_without_the_content(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    task_id = await publish(coordinator, "x" * 5_000)
    config = (await coordinator.bus.api("STREAM.INFO.AGENT_DEAD"))["config"]
    await coordinator.bus.api("STREAM.UPDATE.AGENT_DEAD", {**config, "max_bytes": 2_000})
    async with worker(worker_toml(tmp_path, server.url, worker={"max_task_bytes": 2_000})) as child:
        await child.until_said("was kept as a dead letter without its content: too large")
        await acknowledged(coordinator)
    [letter] = await newest_dead_letters(coordinator.bus, 9)
    assert (letter.data, letter.complete, letter.reason[:9]) == (b"", False, "too large")
    assert letter.size > 5_000
    with pytest.raises(RequeueError, match="0 of"):
        await requeue(coordinator.bus, letter.seq)
    assert (await coordinator.task(task_id).status()).state == "failed"


async def test_a_dead_letter_whose_sender_cannot_be_told_yet_is_stored_once(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await publish(coordinator, "x" * 5_000)
    await coordinator.bus.store("agent.doc.results", b"filler")
    make_room = await fill(coordinator, "AGENT_RESULTS")
    async with worker(worker_toml(tmp_path, server.url, worker={"max_task_bytes": 2_000})) as child:
        # The bus has forgotten the id of the letter when the message comes back.
        await eventually(
            lambda: child.log.read_text(encoding="utf-8").count("as a dead letter yet") > 1, "it has come back"
        )
        await make_room()
        await acknowledged(coordinator)
    assert (await counts(coordinator))["AGENT_DEAD"] == 1
    [told] = await result_messages(coordinator)
    assert told["status"] == "failed"

"""What commands show to a person on a terminal, in place of JSON."""

import os
import signal
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.protocol import subjects
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer, start_server
from support.free_ports import free_port
from support.harness import eventually, worker, worker_toml
from support.jobs import outcome, pid_from, publish, settled
from support.restricted import all_but, restricted_bus
from support.terminal import on_terminal, shown_on_terminal

pytestmark = pytest.mark.posix("needs a pseudo-terminal")


def row_with(shown: str, text: str) -> str:
    """The one line that holds a text."""
    [row] = [line for line in shown.splitlines() if text in line]
    return row


async def test_results_are_a_table_with_the_output_below(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    async with worker(worker_toml(tmp_path, server.url)):
        done = await outcome(coordinator, "say:hello")
        failed = await outcome(coordinator, "say:before exit:3")
    await coordinator.bus.store("agent.main.results", b"junk")
    shown = await shown_on_terminal("result", "get", "--agent", "main", "--limit", "3", "--nats-url", server.url)
    assert "completed" in row_with(shown, done.task_id)
    assert "failed" in row_with(shown, failed.task_id)
    lines = [line.strip() for line in shown.splitlines()]
    assert lines.index("hello") < lines.index("the command exited with status 3: before") < lines.index("before")
    assert "not JSON" in row_with(shown, "not a result")
    assert "(sequence 3)" in row_with(shown, "not a result")


async def test_a_list_of_tasks_is_a_table_and_names_how_it_continues(server: NatsServer, coordinator: Coordinator):
    first, second = [await publish(coordinator, "x", task_id=name) for name in ("first", "second")]
    list_ = ("task", "list", "--nats-url", server.url)
    shown = await shown_on_terminal(*list_)
    for task_id in (first, second):
        row = row_with(shown, task_id).split()
        assert (row[:3], row[-2:]) == ([task_id, "queued", "code"], ["test", "x"])
    shown = await shown_on_terminal(*list_, "--limit", "1")
    assert second in shown
    assert first not in shown
    assert "older tasks: --cursor 2" in shown
    await coordinator.bus.store(subjects.state(TaskKey("code", first)), b"junk")
    shown = await shown_on_terminal(*list_)
    assert "warning: the ledger entry of first (agent code) cannot be read" in shown
    assert row_with(shown, "queued").split()[0] == second


async def test_a_wait_shows_each_change_of_state(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    task_id = await publish(coordinator, f"pid:{tmp_path}/pid wait:{tmp_path}/end say:done")
    async with on_terminal("task", "wait", task_id, "--nats-url", server.url) as waiting:
        async with worker(worker_toml(tmp_path, server.url)):
            await waiting.until_shown(f"{task_id}: working")
            (tmp_path / "end").touch()
            await waiting.until_shown(f"{task_id}: completed")
        assert await waiting.exit_code() == 0
        await waiting.drained()
        assert waiting.text.split()[-1] == "done"


async def test_the_overview_shows_running_tasks_with_their_worker_and_their_age(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)) as child:
        task_id = await publish(coordinator, f"pid:{tmp_path}/pid sleep:1000")
        await pid_from(tmp_path / "pid")
        shown = await shown_on_terminal("status", "--nats-url", server.url)
        await coordinator.task(task_id).cancel()
        await settled(coordinator, task_id)
    row = row_with(shown, task_id)
    assert f"-{child.pid}-" in row
    assert row.split()[2] == "s", "its age in seconds"
    agents = shown.partition("Agents")[2]
    assert "code" in agents


async def test_the_overview_begins_with_the_coordinator_and_the_bus_that_it_is_of(
    server: NatsServer, coordinator: Coordinator
):
    shown = await shown_on_terminal("status", "--nats-url", server.url)
    head = shown.splitlines()[0].split()
    assert head[:6] == ["agentbus", "main", "on", server.url, "nats-server", coordinator.bus.server_version]
    assert head[-1] == "UTC"


async def test_publishing_names_the_coordinator_and_the_bus_and_says_that_no_worker_is_alive(
    server: NatsServer, coordinator: Coordinator
):
    shown = await shown_on_terminal(
        "task", "publish", "--nats-url", server.url, "--to", "code", "--task-type", "test", "say:done"
    )
    waits, where, message = shown.splitlines()[:3]
    assert waits == "no worker of the agent code is alive now; the task waits for one, for up to 7 days"
    assert where == f"published as main on {server.url}"
    assert message.endswith(" -> code")


async def test_the_overview_names_streams_that_are_missing_and_parts_that_are_forbidden(
    tmp_path: Path, server: NatsServer
):
    shown = await shown_on_terminal("status", "--nats-url", server.url)
    assert "missing: AGENT_TASKS, " in shown
    assert "make it with: agentbus setup" in shown
    async with restricted_bus(tmp_path, {"main": all_but("$JS.API.STREAM.INFO.AGENT_DEAD")}) as bus:
        shown = await shown_on_terminal("status", "--nats-url", bus.url("main"))
    assert "not shown to this user: AGENT_DEAD" in shown


async def test_top_shows_an_outage_above_the_last_overview_and_recovers(tmp_path: Path):
    server = await start_server(store=tmp_path / "nats", port=free_port())
    port = int(server.url.rpartition(":")[2])
    try:
        async with connect(server.url) as coordinator:
            await set_up(coordinator.bus)
            await publish(coordinator, "x")
        async with on_terminal("top", "--nats-url", server.url, "--interval", "0.2") as top:
            await top.until_shown("Queued (1)")
            server.kill()
            await top.until_shown(f"no connection to nats://127.0.0.1:{port} within")
            await eventually(
                lambda: top.text.rindex("Queued (1)") > top.text.rindex("no connection"),
                "the last overview is below the error",
            )
            server = await start_server(store=tmp_path / "nats", port=port)
            overviews = top.text.count("nats-server 2.")

            await eventually(lambda: top.text.count("nats-server 2.") > overviews + 10, "it shows overviews again")
            top.child.send_signal(signal.SIGINT)
            assert await top.exit_code() == 130
            assert "Traceback" not in top.text
    finally:
        await server.stop()


async def test_agents_dead_letters_and_findings_are_tables(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    url = ("--nats-url", server.url)
    await coordinator.bus.store("agent.code.tasks", b"junk")
    async with worker(worker_toml(tmp_path, server.url)) as child:
        await child.until_said("kept as a dead letter")
        shown = await shown_on_terminal("agent", "list", *url)
        assert row_with(shown, "code").split()[:5] == ["code", "1", "1", "0", "0"]
    shown = await shown_on_terminal("dead", "list", *url)
    assert row_with(shown, "not JSON").split()[:2] == ["1", "code"]
    await coordinator.bus.api("STREAM.DELETE.AGENT_DEAD")
    shown = await shown_on_terminal("setup", *url)
    assert "made" in row_with(shown, "AGENT_DEAD")
    assert "found" in row_with(shown, "AGENT_TASKS")
    shown = await shown_on_terminal("backup", str(tmp_path / "backup"), *url)
    assert row_with(shown, "AGENT_TASKS: ").startswith("AGENT_TASKS: 0 messages, ")


async def test_up_tells_how_to_continue_and_how_to_stop(tmp_path: Path):
    async with on_terminal("up", "--port", "0", "--store", str(tmp_path / "store"), "--agent", "code") as up:
        await up.until_shown("Ctrl-C stops it; the messages stay in the store")
        assert "streams, buckets and consumers ready (13 of them new)" in up.text
        assert f"store {tmp_path / 'store'}" in up.text
        up.child.send_signal(signal.SIGINT)
        assert await up.exit_code() == 0


async def test_the_services_of_this_machine_are_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    manager = tmp_path / "supervisorctl"  # stands for the program
    manager.write_text("#!/bin/sh\necho agentbus-worker-code RUNNING pid 1\n", encoding="utf-8")
    manager.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    config = worker_toml(tmp_path, "nats://127.0.0.1:4222")
    options = ("--manager", "supervisor", "--folder", str(tmp_path))
    shown = await shown_on_terminal("service", "install", "--config", str(config), *options)
    assert row_with(shown, "running").split()[:3] == ["code", "supervisor", "running"]
    manager.write_text("#!/bin/sh\necho agentbus-worker-code FATAL too quick\n", encoding="utf-8")
    shown = await shown_on_terminal("service", "status", *options, code=1)
    assert row_with(shown, "fatal").split()[:3] == ["code", "supervisor", "fatal"]

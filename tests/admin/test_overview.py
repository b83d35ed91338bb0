"""`agentbus status` and `agentbus top`: an overview of the bus, which names what it cannot show."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator, connect
from agentbus.admin.overview import OverviewReader
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer, start_server
from support.free_ports import free_port
from support.harness import BOUND_S, eventually, run_cli, worker, worker_toml
from support.jobs import outcome, pid_from, publish, settled
from support.mcp_harness import settle
from support.pseudo_terminal import on_terminal
from support.restricted import only, restricted_bus

pytestmark = pytest.mark.posix("not tried on Windows")


async def shown(server: NatsServer, *more: str) -> dict[str, Any]:
    done = await run_cli("status", "--nats-url", server.url, *more)
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


async def test_the_overview_shows_agents_running_and_settled_tasks_and_how_full_the_streams_are(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)):
        first = await outcome(coordinator, "say:done")
        failed = await outcome(coordinator, "exit:3")
        running = await publish(coordinator, f"pid:{tmp_path}/me sleep:1000")
        waiting = await publish(coordinator, "say:later")
        await pid_from(tmp_path / "me")
        found = await shown(server)
        await coordinator.task(running).cancel()
        await settled(coordinator, running)
        await settled(coordinator, waiting)
    [agent] = found["agents"]
    assert (agent["agent"], agent["online"], len(agent["workers"])) == ("code", True, 1)
    assert agent["workers"][0]["slots"] == 1
    assert [task["id"] for task in found["running"]] == [running]
    assert [(task["id"], task["state"]) for task in found["recent"]] == [
        (failed.task_id, "failed"),
        (first.task_id, "completed"),
    ]
    assert "result" not in found["recent"][0]
    streams = {stream["name"]: stream for stream in found["streams"]}
    assert streams["AGENT_TASKS"]["messages"] == 2
    assert streams["AGENT_RESULTS"]["messages"] == 2
    assert all(stream["bytes"] >= 0 for stream in streams.values())
    assert found["missing"] == found["hidden"] == found["warnings"] == []
    assert found["server_version"].split(".")[0] == "2"


async def test_settled_tasks_are_found_behind_many_queued_ones(server: NatsServer, coordinator: Coordinator):
    [cancelled] = [await publish(coordinator, "x")]
    await coordinator.task(cancelled).cancel()
    for _ in range(50):
        await publish(coordinator, "x")
    overview = await OverviewReader(coordinator, recent=10).read()
    assert [status.task_id for status in overview.recent] == [cancelled]
    assert (overview.coordinator, overview.servers) == ("main", server.url)
    assert (await OverviewReader(coordinator, recent=0).read()).recent == []


@pytest.mark.posix("needs a pseudo-terminal")
async def test_whose_tasks_they_are_is_shown_where_not_all_are_of_main(server: NatsServer, coordinator: Coordinator):
    await settle(coordinator, (await coordinator.publish("code", "x")).id)
    before = (await on_terminal("status", "--nats-url", server.url))[1]
    async with connect(server.url) as connected:
        await settle(coordinator, (await Coordinator(connected.bus, "alice").publish("code", "x")).id, owner="alice")
    after = (await on_terminal("status", "--nats-url", server.url))[1]
    assert "owner" not in before
    assert ("owner" in after, "alice" in after) == (True, True)


@pytest.mark.posix("needs a pseudo-terminal")
async def test_a_stream_that_is_nearly_full_stands_at_the_top_of_the_page(server: NatsServer, coordinator: Coordinator):
    config = (await coordinator.bus.stream_info("AGENT_RESULTS")).config
    await coordinator.bus.api("STREAM.UPDATE.AGENT_RESULTS", {**config, "max_bytes": 1 << 20})
    await coordinator.bus.store("agent.main.results", bytes(900_000))
    page = (await on_terminal("status", "--nats-url", server.url))[1]
    assert page.index("warning: AGENT_RESULTS holds 86% of its 1 MiB") < page.index("Agents")
    assert "agentbus setup --keep-results 15" in " ".join(page.split())


async def test_a_bus_that_was_not_set_up_is_shown_as_such(server: NatsServer):
    found = await shown(server)
    assert "AGENT_TASKS" in found["missing"]
    assert found["agents"] == found["running"] == found["recent"] == []


async def test_forbidden_parts_are_named_and_requested_only_once(tmp_path: Path):
    log = tmp_path / "nats.log"
    granted = only(["$JS.API.STREAM.INFO.AGENT_TASKS"])
    async with restricted_bus(tmp_path, {"main": granted}, log=log) as bus, connect(bus.url("main")) as coordinator:
        reader = OverviewReader(coordinator)
        first = await reader.read()
        refusals = log.read_text(encoding="utf-8").count("Permissions Violation")
        second = await reader.read()
        assert log.read_text(encoding="utf-8").count("Permissions Violation") == refusals
    assert [usage.name for usage in first.streams] == ["AGENT_TASKS"]
    assert first.hidden == second.hidden
    assert {"agents", "tasks", "KV_AGENT_STATE"} <= set(first.hidden)


async def test_top_in_a_pipe_prints_a_line_for_each_overview_also_over_a_restart(tmp_path: Path):
    server = await start_server(store=tmp_path / "nats", port=free_port())
    port = int(server.url.rpartition(":")[2])
    try:
        async with connect(server.url) as coordinator:
            await set_up(coordinator.bus)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agentbus", "top", "--nats-url", server.url, "--interval", "0.2",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        try:
            async with asyncio.timeout(BOUND_S):
                first = json.loads(await child.stdout.readline())
                server.kill()
                server = await start_server(store=tmp_path / "nats", port=port)
                later = first
                for _ in range(20):
                    later = json.loads(await child.stdout.readline())
                child.send_signal(signal.SIGINT)
                _, err = await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        assert child.returncode == 130
        assert b"Traceback" not in err
        assert later["at"] > first["at"]
        assert later["missing"] == []
    finally:
        await server.stop()


async def test_top_in_a_pipe_warns_during_an_outage_and_ends_after_as_many_overviews_as_were_asked_for(tmp_path: Path):
    server = await start_server(store=tmp_path / "nats", port=free_port())
    out, err = tmp_path / "out", tmp_path / "err"
    try:
        async with connect(server.url) as coordinator:
            await set_up(coordinator.bus)
        with out.open("wb") as stdout, err.open("wb") as stderr:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "agentbus", "top", "--nats-url", server.url, "--interval", "0.2", "--count", "3",
                stdout=stdout, stderr=stderr,
            )  # fmt: skip
        async with asyncio.timeout(BOUND_S):
            await eventually(lambda: out.read_bytes().count(b"\n"), "the first overview is there")
            server.kill()
            assert await child.wait() == 0
    finally:
        await server.stop()
    warnings = err.read_text(encoding="utf-8").splitlines()
    assert all(line.startswith("warning: ") for line in warnings), warnings
    overviews = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(overviews) + len(warnings) == 3
    assert warnings


@pytest.mark.posix("needs a pseudo-terminal")
@pytest.mark.parametrize("command", ["status", "top"])
async def test_on_a_terminal_the_page_has_no_control_characters_from_the_bus(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, command: str
):
    config = worker_toml(tmp_path, server.url)
    config.write_text(
        config.read_text(encoding="utf-8").replace("[agent]", '[agent]\ndescription = "evil \\u001b[31m text"'),
        encoding="utf-8",
    )
    async with worker(config):
        await outcome(coordinator, "say:done")
        more = ["--count", "1"] if command == "top" else []
        code, text = await on_terminal(command, "--nats-url", server.url, *more)
    assert code == 0, text
    for word in ("Agents", "Running", "Settled", "code", "completed", "main on nats:"):
        assert word in text
    assert r"evil \x1b[31m text" in text

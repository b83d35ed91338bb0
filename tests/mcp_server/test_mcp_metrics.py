"""The metrics of the MCP server over HTTP: the real process, scraped while clients of both eras use it."""

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from mcp import Client

from agentbus import Coordinator, __version__, connect
from agentbus.bus.setup import set_up
from agentbus.observability.metrics_endpoint import new_registry
from agentbus.provision.nats_server import NatsServer, start_server
from agentbus_mcp.metrics import PrometheusMetrics
from support.free_ports import free_port
from support.harness import BOUND_S, process, run_cli, run_python
from support.mcp_harness import NOWHERE, HttpServer, both_eras, data_of, error_of, http_server, over_http, settle
from support.mcp_task_client import knowing_tasks
from support.scraping import documented, get, registered, scrape, until, url_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:resources/subscribe is removed"),
    pytest.mark.posix("not tried on Windows"),
]

TOOLS = [
    *("publish_task", "watch_results", "get_results", "get_task"),
    *("list_tasks", "list_questions", "list_agents", "cancel_task", "answer_approval"),
]
OUTCOMES = {"ok", "error", "crash", "cancelled"}
CALLS = "agentbus_mcp_tool_calls_total"
WAITING = "agentbus_mcp_tool_calls_in_progress"
DELIVERED = "agentbus_mcp_results_delivered_total"


@asynccontextmanager
async def measured(folder: Path, url: str) -> AsyncGenerator[tuple[HttpServer, str]]:
    """Run a server that serves metrics at a free port; yield it and their URL."""
    async with http_server(folder / "mcp.log", "--nats-url", url, "--metrics-port", "0") as mcp:
        yield mcp, await url_of(mcp.process)


def task(task_id: str, **more: Any) -> dict[str, Any]:
    return {"to": ["code"], "content": "work", "task_type": "test", "task_id": task_id, **more}


# -- values -----------------------------------------------------------------------------------------------------


@pytest.mark.gate("2026")
@both_eras
async def test_calls_are_counted_by_tool_and_outcome(
    era: str, server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    async with measured(tmp_path, server.url) as (mcp, url), over_http(mcp.url, era) as client:
        before = await scrape(url)
        data_of(await client.call_tool("publish_task", task("a")))
        data_of(await client.call_tool("publish_task", task("b")))
        error_of(await client.call_tool("get_task", {"task_id": "unknown-task"}))
        error_of(await client.call_tool("get_results", {"newest": "many"}))
        error_of(await client.call_tool("no-such-tool", {}))
        await settle(coordinator, "a", "one")
        await settle(coordinator, "b", "two")
        assert len(data_of(await client.call_tool("watch_results", {"task_ids": ["a", "b"]}))["results"]) == 2
        assert len(data_of(await client.call_tool("get_results", {"task_ids": ["a"]}))["results"]) == 1
        after = await scrape(url)
    calls = {
        (tool, outcome): after.value(CALLS, tool=tool, outcome=outcome)
        for tool in (*TOOLS, "unknown")
        for outcome in OUTCOMES
    }
    assert {key: count for key, count in calls.items() if count} == {
        ("publish_task", "ok"): 2,
        ("get_task", "error"): 1,
        ("get_results", "error"): 1,
        ("unknown", "error"): 1,
        ("watch_results", "ok"): 1,
        ("get_results", "ok"): 1,
    }
    assert after.value("agentbus_mcp_tool_call_duration_seconds_count", tool="publish_task") == 2
    assert 0 < after.value("agentbus_mcp_tool_call_duration_seconds_sum", tool="publish_task") < BOUND_S
    assert after.value(DELIVERED) == 3
    assert after.value("agentbus_mcp_build_info", version=__version__) == 1
    assert before.series == after.series, "nothing that was asked for became a series"
    assert after.label_values == {*TOOLS, *OUTCOMES, "unknown", __version__}


async def test_waiting_calls_are_shown_and_cancelled_ones_are_counted(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    async with measured(tmp_path, server.url) as (mcp, url), over_http(mcp.url) as client:
        data_of(await client.call_tool("publish_task", task("a")))
        watch = {"task_ids": ["a"], "timeout_seconds": 200}
        waiting = [asyncio.create_task(client.call_tool("watch_results", watch)) for _ in range(3)]
        await until(url, 3, WAITING, tool="watch_results")
        waiting[0].cancel()
        await until(url, 1, CALLS, tool="watch_results", outcome="cancelled")
        await until(url, 2, WAITING, tool="watch_results")
        await settle(coordinator, "a")
        await asyncio.gather(*waiting[1:])
        after = await until(url, 0, WAITING, tool="watch_results")
    assert after.value(CALLS, tool="watch_results", outcome="ok") == 2
    assert after.value(DELIVERED) == 2


async def test_results_of_an_mcp_task_are_counted(server: NatsServer, coordinator: Coordinator, tmp_path: Path) -> None:
    async with (
        measured(tmp_path, server.url) as (mcp, url),
        knowing_tasks(partial(Client, mcp.url)) as tasks,
    ):
        created = await tasks.call("publish_task", task("a", watch=True))
        assert (await tasks.get(created["taskId"]))["status"] == "working"
        assert (await scrape(url)).value(DELIVERED) == 0
        await settle(coordinator, "a")
        await tasks.until(created["taskId"], "completed")
        after = await scrape(url)
    assert after.value(DELIVERED) == 1
    assert after.value(CALLS, tool="publish_task", outcome="ok") == 1


async def test_open_sessions_and_streams_are_shown(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    async with measured(tmp_path, server.url) as (mcp, url):
        assert {(await scrape(url)).value(f"agentbus_mcp_{name}") for name in ("sessions", "listen_streams")} == {0}
        async with over_http(mcp.url, "legacy"), over_http(mcp.url, "legacy"):
            await until(url, 2, "agentbus_mcp_sessions")
        await until(url, 0, "agentbus_mcp_sessions")
        async with over_http(mcp.url) as client:
            async with client.listen(resource_subscriptions=["agentbus://agents/main/results"]):
                await until(url, 1, "agentbus_mcp_feeds")
                await until(url, 1, "agentbus_mcp_listen_streams")
            await until(url, 0, "agentbus_mcp_listen_streams")
            await until(url, 0, "agentbus_mcp_feeds")


async def test_an_outage_of_the_bus_is_shown_and_reconnects_are_counted(tmp_path: Path) -> None:
    server = await start_server(store=tmp_path / "s", port=free_port())
    port = int(server.url.rpartition(":")[2])
    try:
        async with connect(server.url) as bus:
            await set_up(bus.bus)
        async with measured(tmp_path, server.url) as (_, url):
            first = await until(url, 1, "agentbus_mcp_bus_connected")
            server.kill()
            await until(url, 0, "agentbus_mcp_bus_connected")
            server = await start_server(store=tmp_path / "s", port=port)
            back = await until(url, 1, "agentbus_mcp_bus_reconnects_total")
    finally:
        await server.stop()
    assert first.value("agentbus_mcp_bus_reconnects_total") == 0
    assert back.value("agentbus_mcp_bus_connected") == 1


# -- access -----------------------------------------------------------------------------------------------------


async def test_mcp_clients_cannot_reach_the_metrics(tmp_path: Path) -> None:
    async with measured(tmp_path, NOWHERE) as (mcp, url):
        assert (await get(f"{mcp.base}/metrics")).status_code == 404
        assert (await get(url.replace("/metrics", "/mcp"))).status_code == 404
        assert (await get(url, Host="evil.example")).status_code == 421
        assert (await scrape(url)).value("agentbus_mcp_bus_connected") == 0


async def test_without_the_option_there_is_no_listener_and_the_library_is_not_loaded(tmp_path: Path) -> None:
    async with http_server(tmp_path / "mcp.log", "--nats-url", NOWHERE) as mcp:
        connections = psutil.Process(mcp.process.pid).net_connections("inet")
        listening = {found.laddr.port for found in connections if found.status == psutil.CONN_LISTEN}
        assert listening == {int(mcp.base.rpartition(":")[2])}
        assert not mcp.process.said("metrics")
    loaded = "import sys, agentbus_mcp.transports.streamable_http; print({'prometheus_client'} & set(sys.modules))"
    assert (await run_python("-c", loaded)).out.strip() == "set()"


async def test_a_port_in_use_is_an_error_at_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        args = ["--nats-url", NOWHERE, "--http", "127.0.0.1:0", "--metrics-port", port]
        ran = await run_cli(*args, module="agentbus_mcp")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"error: cannot serve metrics on 127.0.0.1:{port}: Address already in use; ")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--metrics-port", "0"], "--metrics-port goes with --http HOST:PORT"),
        (["--http", "127.0.0.1:0", "--metrics-port", "65536"], "65536 is not in the range 0<=x<=65535"),
        (["--http", "127.0.0.1:0", "--metrics-port", "0.0.0.0:9464"], "is not a valid integer range"),
    ],
)
async def test_an_invalid_port_is_a_usage_error(args: list[str], said: str) -> None:
    ran = await run_cli("--nats-url", NOWHERE, *args, module="agentbus_mcp")
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


WITHOUT = "import sys; sys.modules['prometheus_client'] = None; from agentbus_mcp.cli import main; main()"


async def test_a_port_without_the_library_is_an_error_that_names_the_extra_to_install(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", WITHOUT, "--nats-url", NOWHERE, "--http", "127.0.0.1:0"]
    with process([*argv, "--metrics-port", "0"], tmp_path / "with.log") as child:
        assert await child.exit_code() == 1
        assert child.said('install it with: pip install "agentbus-mcp[metrics]"')
        assert not child.said("Traceback")
    with process(argv, tmp_path / "without.log") as child:
        await child.until_said('{"url":')


# -- documentation ----------------------------------------------------------------------------------------------


def test_the_documentation_lists_every_metric() -> None:
    registry = new_registry()
    PrometheusMetrics(registry).know(TOOLS)
    assert documented("MCP server") == registered(registry)

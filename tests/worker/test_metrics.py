"""The metrics of a worker: a real worker, scraped over HTTP while it works, and clients that must not read them."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from agentbus import Coordinator, __version__, connect
from agentbus.bus.setup import set_up
from agentbus.config.loading import load_worker
from agentbus.observability.metrics_endpoint import exposed, new_registry
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.outcomes.run_report import Run, Usage
from agentbus.provision.nats_server import NatsServer, start_server
from agentbus_worker.metrics import PrometheusMetrics
from support.acp_driver import AGENT
from support.answering import answer, waiting
from support.free_ports import free_port
from support.harness import BOUND_S, Process, eventually, process, run_python, worker, worker_toml
from support.jobs import acknowledged, agent_keys, pid_from, publish, settled, short_lease
from support.pace import at_this_pace
from support.scraping import MONITORING, documented, get, of_openmetrics, registered, scrape, until, url_of

NOWHERE = "nats://127.0.0.1:1"
STATUSES = {"completed", "failed", "needs_approval", "cancelled"}
REASONS = {"exited", "timeout", "idle", "stalled", "hopeless", "stopped", "unsupervised"}


@asynccontextmanager
async def measured(folder: Path, url: str, *, ready: bool = True, **keys: Any) -> AsyncGenerator[tuple[Process, str]]:
    """A worker that serves metrics at a free port, and their URL."""
    folder.mkdir(exist_ok=True)
    async with worker(worker_toml(folder, url, metrics={"port": 0}, worker=keys), ready=ready) as child:
        yield child, await url_of(child)


# -- what they tell ---------------------------------------------------------------------------------------------


async def test_the_outcomes_of_tasks_are_counted(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    async with measured(tmp_path, server.url, task_timeout_seconds=at_this_pace(1)) as (_, url):
        before = await scrape(url)
        for content in ("say:hello", "say:hello", "exit:3", "approval", "sleep:60"):
            await settled(coordinator, await publish(coordinator, content))
        await acknowledged(coordinator)
        after = await until(url, 2, "agentbus_worker_tasks_settled_total", status="failed")
    assert {before.value("agentbus_worker_tasks_settled_total", status=status) for status in STATUSES} == {0}
    told = {status: after.value("agentbus_worker_tasks_settled_total", status=status) for status in STATUSES}
    assert told == {"completed": 2, "failed": 2, "needs_approval": 1, "cancelled": 0}
    ended = {reason: after.value("agentbus_worker_runs_ended_total", reason=reason) for reason in REASONS}
    assert ended == {**dict.fromkeys(REASONS, 0), "exited": 4, "timeout": 1}
    assert after.value("agentbus_worker_runs_started_total") == 5
    assert after.value("agentbus_worker_run_duration_seconds_count") == 5
    assert 1 <= after.value("agentbus_worker_run_duration_seconds_sum") < BOUND_S
    assert after.value("agentbus_worker_run_duration_seconds_bucket", le="1.0") <= 4
    assert after.value("agentbus_worker_run_duration_seconds_bucket", le="28800.0") == 5
    question = len("status=needs_approval\nmay I delete the branch?\n")
    assert after.value("agentbus_worker_output_bytes_total") == 2 * len("hello\n") + question
    assert after.value("agentbus_worker_build_info", agent="code", version=__version__) == 1


async def test_running_and_waiting_tasks_are_shown_while_they_run_and_wait(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    gate = tmp_path / "gate"
    async with measured(tmp_path, server.url, concurrency=2) as (_, url):
        idle = await scrape(url)
        ids = [await publish(coordinator, f"wait:{gate}") for _ in range(2)]
        await until(url, 2, "agentbus_worker_slots_taken")
        ids += [await publish(coordinator, f"wait:{gate}") for _ in range(3)]
        cancelled = await coordinator.publish("code", f"wait:{gate}", task_type="test")
        assert (await scrape(url)).value("agentbus_worker_backlog_tasks") == 0, "nothing waited when these were taken"
        gate.touch()
        await coordinator.task(cancelled.id).cancel()
        for task_id in [*ids, cancelled.id]:
            await settled(coordinator, task_id)
        await acknowledged(coordinator)
        after = await until(url, 0, "agentbus_worker_tasks_held")
    assert (idle.value("agentbus_worker_slots"), idle.value("agentbus_worker_slots_taken")) == (2, 0)
    assert idle.value("agentbus_worker_bus_connected") == 1
    assert after.value("agentbus_worker_slots_taken") == 0
    assert sum(after.value("agentbus_worker_tasks_settled_total", status=status) for status in STATUSES) == 6


async def test_questions_that_are_open_are_shown_until_they_are_answered(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url, chat_cmd=[*AGENT, "ask_twice"], metrics={"port": 0})
    async with worker(agent_keys(config, output="acp", permissions="ask")) as child:
        url = await url_of(child)
        assert (await scrape(url)).value("agentbus_worker_questions_open") == 0
        task_id = await publish(coordinator, "x")
        await until(url, 2, "agentbus_worker_questions_open")
        one, other = await waiting(coordinator, task_id, 2)
        await answer(coordinator, task_id, one, allow=True)
        await until(url, 1, "agentbus_worker_questions_open")
        await answer(coordinator, task_id, other, allow=False)
        await settled(coordinator, task_id)
        await until(url, 0, "agentbus_worker_questions_open")


async def test_the_backlog_is_the_number_of_tasks_behind_the_last_delivery(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    gate = tmp_path / "gate"
    for _ in range(4):
        await publish(coordinator, f"wait:{gate}")
    async with measured(tmp_path, server.url) as (_, url):
        await until(url, 3, "agentbus_worker_backlog_tasks")
        gate.touch()
        await acknowledged(coordinator)
        await until(url, 0, "agentbus_worker_backlog_tasks")


async def test_retries_and_dead_letters_are_counted(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    keys: dict[str, Any] = {"retry_on": ["exit:3"], "retry_backoff_seconds": 0.1, "max_attempts": 3}
    async with measured(tmp_path, server.url, **keys) as (_, url):
        await settled(coordinator, await publish(coordinator, "exit:3"))
        await coordinator.bus.store(subjects.tasks("code"), b"no task", msg_id="broken")
        await acknowledged(coordinator)
        after = await until(url, 1, "agentbus_worker_dead_letters_total")
    assert after.value("agentbus_worker_retries_total") == 2
    assert after.value("agentbus_worker_runs_started_total") == 3
    assert after.value("agentbus_worker_tasks_settled_total", status="failed") == 1
    assert after.value("agentbus_worker_takeovers_total") == 0


async def test_a_takeover_is_counted_by_both_workers(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    await short_lease(coordinator, lease_s=1)
    ran = tmp_path / "ran"
    task_id = await publish(coordinator, f"touch:{ran} sleep:1 say:done")
    async with measured(tmp_path / "a", server.url) as (first, lost):
        await eventually(ran.exists, "the first worker runs it")
        os.kill(first.pid, signal.SIGSTOP)
        async with measured(tmp_path / "b", server.url) as (_, taken):
            await settled(coordinator, task_id)
            os.kill(first.pid, signal.SIGCONT)
            await until(taken, 1, "agentbus_worker_takeovers_total")
            after = await until(lost, 1, "agentbus_worker_leases_lost_total")
    assert {after.value("agentbus_worker_tasks_settled_total", status=status) for status in STATUSES} == {0}
    assert after.value("agentbus_worker_takeovers_total") == 0


async def test_a_released_task_is_counted(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    """Seen while the worker still ends: another command of it takes its time."""
    pids = [tmp_path / "yielding", tmp_path / "stubborn"]
    async with measured(tmp_path, server.url, concurrency=2, kill_grace_seconds=60) as (child, url):
        await publish(coordinator, f"pid:{pids[0]} sleep:600")
        await publish(coordinator, f"stubborn pid:{pids[1]} sleep:600")
        _, stubborn = [await pid_from(path) for path in pids]
        child.terminate()
        await child.until_said("stopping")
        child.terminate()
        after = await until(url, 1, "agentbus_worker_tasks_given_back_total")
        os.kill(stubborn, signal.SIGKILL)
        assert await child.exit_code() == 0
    assert after.value("agentbus_worker_runs_ended_total", reason="stopped") == 1
    assert (after.value("agentbus_worker_slots_taken"), after.value("agentbus_worker_tasks_held")) == (1, 1)


async def ends_without_a_bus(bus: Coordinator, server: NatsServer, child: Process, url: str, gate: Path) -> str:
    """A task whose command ends while the bus is away: its id."""
    task_id = await publish(bus, f"wait:{gate} say:done")
    await until(url, 1, "agentbus_worker_runs_started_total")
    server.kill()
    await until(url, 0, "agentbus_worker_bus_connected")
    gate.touch()
    await child.until_said("the result cannot be stored yet")
    return task_id


async def test_delayed_results_and_outages_are_counted(tmp_path: Path):
    server = await start_server(store=tmp_path / "s", port=free_port())
    port = int(server.url.rpartition(":")[2])
    try:
        async with connect(server.url) as bus:
            await set_up(bus.bus)
            async with measured(tmp_path, server.url) as (child, url):
                task_id = await ends_without_a_bus(bus, server, child, url, tmp_path / "gate")
                away = await until(url, 1, "agentbus_worker_outbox_entries")
                server = await start_server(store=tmp_path / "s", port=port)
                await settled(bus, task_id)
                back = await until(url, 1, "agentbus_worker_results_stored_late_total")
    finally:
        await server.stop()
    assert (away.value("agentbus_worker_slots_taken"), away.value("agentbus_worker_tasks_held")) == (0, 1)
    assert away.value("agentbus_worker_tasks_settled_total", status="completed") == 0
    assert away.value("agentbus_worker_bus_reconnects_total") == 0
    assert back.value("agentbus_worker_tasks_settled_total", status="completed") == 1
    assert (back.value("agentbus_worker_bus_connected"), back.value("agentbus_worker_bus_reconnects_total")) == (1, 1)
    assert back.value("agentbus_worker_outbox_entries") == 0


async def test_outcomes_of_an_earlier_worker_are_shown_before_the_bus_is_connected(tmp_path: Path):
    server = await start_server(store=tmp_path / "s", port=free_port())
    port = int(server.url.rpartition(":")[2])
    try:
        async with connect(server.url) as bus:
            await set_up(bus.bus)
            async with measured(tmp_path, server.url) as (child, url):
                task_id = await ends_without_a_bus(bus, server, child, url, tmp_path / "gate")
                await until(url, 1, "agentbus_worker_outbox_entries")
                child.kill()
            async with measured(tmp_path, server.url, ready=False) as (_, url):
                left = await until(url, 1, "agentbus_worker_outbox_entries")
                server = await start_server(store=tmp_path / "s", port=port)
                await settled(bus, task_id)
                after = await until(url, 1, "agentbus_worker_results_stored_late_total")
    finally:
        await server.stop()
    assert left.value("agentbus_worker_bus_connected") == 0
    assert after.value("agentbus_worker_runs_started_total") == 0


async def test_a_result_that_the_bus_refuses_is_counted(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    async with measured(tmp_path, server.url) as (_, url):
        await coordinator.bus.api(f"STREAM.DELETE.{subjects.RESULTS_STREAM}")
        await publish(coordinator, "say:done")
        await until(url, 1, "agentbus_worker_results_refused_total")


async def test_metrics_can_be_read_while_the_event_loop_is_blocked(tmp_path: Path):
    config, _ = load_worker(worker_toml(tmp_path, NOWHERE))
    registry = new_registry()
    PrometheusMetrics(registry, config).count("retry")
    with exposed(registry, 0) as url:
        answer = httpx2.get(url, timeout=BOUND_S)  # blocks the only event loop of this process
    assert "agentbus_worker_retries_total 1.0" in answer.text


# -- what does not get in, or out -------------------------------------------------------------------------------


async def test_no_series_and_no_label_comes_from_the_bus(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    async with measured(tmp_path, server.url) as (_, url):
        before = await scrape(url)
        for number in range(20):
            name = f'zz{number}"\n}} 1 \\'
            task: dict[str, Any] = {"id": f"zz-{number}", "from": name, "to": "code", "type": "task.request"}
            task |= {
                "task_type": name,
                "reply_to": "zz",
                "payload": {"fmt": "text", "content": f"say:zz exit:{number}"},
            }
            await coordinator.bus.store(subjects.tasks("code"), encode(task), msg_id=f"zz-{number}")
            await coordinator.bus.store(subjects.tasks("code"), encode({**task, "id": name}), msg_id=f"bad-{number}")
        await acknowledged(coordinator)
        after = await until(url, 20, "agentbus_worker_dead_letters_total")
    assert after.value("agentbus_worker_runs_started_total") == 20
    assert after.series == before.series
    assert after.label_values == {*STATUSES, *REASONS, "code", __version__}


@pytest.mark.parametrize(
    ("method", "path", "host", "status"),
    [
        ("GET", "/metrics", None, 200),
        ("GET", "/metrics?x=1", "localhost", 200),
        ("GET", "/metrics", "LOCALHOST:9464", 200),
        ("GET", "/metrics", "127.0.0.1", 200),
        ("GET", "/metrics", "evil.example", 421),
        ("GET", "/metrics", "evil.example:9464", 421),
        ("GET", "/metrics", "127.0.0.1.evil.example", 421),
        ("GET", "/metrics", "evil.example:127.0.0.1", 421),
        ("GET", "/metrics", "", 421),
        ("GET", "/metrics", "localhost:99999", 421),
        ("GET", "/metrics", "localhost:9464@evil.example", 421),
        ("GET", "/", None, 404),
        ("GET", "/metrics/", None, 404),
        ("GET", "/favicon.ico", None, 404),
        ("HEAD", "/metrics", None, 405),
        ("POST", "/metrics", None, 405),
        ("DELETE", "/metrics", None, 405),
        ("OPTIONS", "/metrics", None, 405),
        ("TRACE", "/metrics", None, 405),
    ],
)
async def test_only_metrics_are_served_and_only_for_the_host_name_of_this_machine(
    method: str, path: str, host: str | None, status: int
):
    with exposed(new_registry(), 0) as url:
        async with httpx2.AsyncClient(timeout=BOUND_S) as http:
            headers = {} if host is None else {"Host": host}
            answer = await http.request(method, url.removesuffix("/metrics") + path, headers=headers)
    assert answer.status_code == status
    assert ("process_" in answer.text) == (status == 200)
    assert answer.headers["server"] == "agentbus"


@pytest.mark.parametrize("request_bytes", [b"\r\n\r\n", b"GET\r\n\r\n", b"\x00\xff\r\n\r\n", b"GET /metrics\r\n\r\n"])
async def test_a_request_that_is_not_http_gets_no_metrics(request_bytes: bytes):
    with exposed(new_registry(), 0) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2].split("/")[0]))
        async with asyncio.timeout(BOUND_S):
            writer.write(request_bytes)
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
        assert b"process_" not in answer
        assert (await get(url)).status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address only")
async def test_the_endpoint_listens_on_one_loopback_address():
    with exposed(new_registry(), 0) as url:
        port = int(url.split(":")[2].split("/")[0])
        listening = [found for found in psutil.Process().net_connections("inet") if found.laddr.port == port]
    assert {found.laddr.ip for found in listening} == {"127.0.0.1"}


async def test_clients_that_never_finish_block_neither_other_clients_nor_the_shutdown():
    with ExitStack() as stack:
        with exposed(new_registry(), 0) as url:
            address = ("127.0.0.1", int(url.split(":")[2].split("/")[0]))
            for _ in range(6):
                stack.enter_context(socket.create_connection(address)).sendall(b"GET /metrics HTTP/1.1\r\n")
            assert (await get(url)).status_code == 200
            for _ in range(30):  # more than are served at the same time
                stack.enter_context(socket.create_connection(address)).sendall(b"GET /metrics HTTP/1.1\r\n")
            loop = asyncio.get_running_loop()
            before = loop.time()
        assert loop.time() - before < 5  # and not the time-out of each of them


async def test_a_client_that_accepts_openmetrics_gets_it(tmp_path: Path):
    registry = new_registry()
    metrics = PrometheusMetrics(registry, load_worker(worker_toml(tmp_path, NOWHERE))[0])
    metrics.count("retry")
    metrics.count("retry")
    with exposed(registry, 0) as url:
        answer = await get(url, Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    [tasks] = [family for family in of_openmetrics(answer.text) if family.name == "agentbus_worker_retries"]
    assert [sample.value for sample in tasks.samples] == [2]


async def test_the_endpoint_ends_with_the_worker(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    async with measured(tmp_path, server.url) as (child, url):
        await scrape(url)
        child.terminate()
        assert await child.exit_code() == 0
        with pytest.raises(httpx2.ConnectError):
            await get(url)


# -- off, and what is wrong -------------------------------------------------------------------------------------


async def test_without_a_port_there_is_no_endpoint_and_the_library_is_not_imported(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)) as child:
        await settled(coordinator, await publish(coordinator, "say:done"))
        connections = psutil.Process(child.pid).net_connections("inet")
        assert [found for found in connections if found.status == psutil.CONN_LISTEN] == []
        assert not child.said("metrics")
    loaded = "import sys, agentbus_worker.worker; print({'prometheus_client', 'http.server'} & set(sys.modules))"
    assert (await run_python("-c", loaded)).out.strip() == "set()"


async def test_a_port_in_use_is_an_error_at_the_start(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = worker_toml(tmp_path, server.url, metrics={"port": port})
        async with worker(config, ready=False) as child:
            assert await child.exit_code() == 1
        assert child.said(f"stopped: cannot serve metrics on 127.0.0.1:{port}: Address already in use; each process")
        assert not child.said("Traceback")
        assert not child.said("connected")


WITHOUT = "import sys; sys.modules['prometheus_client'] = None; from agentbus.cli import main; main()"


async def test_a_port_without_the_library_is_an_error_that_names_the_extra_to_install(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    for port, code in ((0, 1), (None, 0)):
        config = worker_toml(tmp_path, server.url, metrics={"port": port})
        argv = [sys.executable, "-c", WITHOUT, "worker", "run", "--config", str(config)]
        with process(argv, tmp_path / f"{port}.log") as child:
            if port is None:
                await child.until_said("ready for tasks")
                child.terminate()
            assert await child.exit_code() == code
            assert child.said('pip install "agentbus-mcp[metrics]"') == (port is not None)
            assert not child.said("Traceback")


# -- what is written about them ---------------------------------------------------------------------------------


def test_the_documentation_lists_every_metric(tmp_path: Path):
    config, _ = load_worker(worker_toml(tmp_path, NOWHERE))
    registry = new_registry()
    # Series with names of models are there once a run has ended.
    PrometheusMetrics(registry, config).used(Run("claude", usage=Usage(1, 1, 1), cost_usd=1))
    assert documented("worker") == registered(registry)


def test_the_alerts_use_existing_metrics_and_each_is_explained():
    text = MONITORING.read_text(encoding="utf-8").partition("\n### Alerts\n")[2].partition("\n## ")[0]
    rules, table = text.partition("```yaml\n")[2].split("\n```\n")
    used = set(re.findall(r"\bagentbus_\w+", rules))
    assert len(used) > 5
    assert used <= {*documented("worker"), *documented("MCP server")}
    assert re.findall(r"alert: (\w+)", rules) == re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)

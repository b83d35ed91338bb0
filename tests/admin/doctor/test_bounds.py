"""`agentbus doctor` warns when tasks in work and connections come near to their bounds."""

from dataclasses import replace
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.jetstream import connect
from agentbus.bus.setup import set_up
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.protocol import subjects
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.provision.bus_folder.new_bus import create
from agentbus.provision.bus_folder.server_folder import monitoring_address
from agentbus.provision.join import join_as_coordinator, join_as_worker
from agentbus.provision.nats_server import NatsServer, run_server
from support.doctor import doctor, doctor_in_process, not_ok, the_finding
from support.free_ports import free_port
from support.harness import eventually, worker, worker_toml
from support.installation import FAKE, PLAN

pytestmark = pytest.mark.posix("not tried on Windows")


async def test_from_eight_tenths_of_the_tasks_that_an_agent_may_have_in_work_on_that_is_a_warning(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"], max_ack_pending=5)
    for _ in range(5):
        await coordinator.publish("code", "sleep:1000", task_type="test")
    assert not_ok(await doctor_in_process(server.url)) == []

    async def in_work() -> int:
        consumer = await coordinator.bus.consumer_info(subjects.TASKS_STREAM, subjects.durable("code"))
        return consumer.num_ack_pending

    config = worker_toml(tmp_path, server.url, worker={"concurrency": 4, "drain_timeout_seconds": 1})
    async with worker(config):

        async def four() -> bool:
            return await in_work() >= 4

        await eventually(four, "four are in work")
        reports = [await doctor_in_process(server.url, role) for role in ("coordinator", "administrator")]
        reports.append(await doctor("--role", "worker", "--config", str(config)))
    for report in reports:
        found = the_finding(report, "tasks in work")
        assert found["verdict"] == "warning"
        assert found["text"].startswith("code has ")
        assert found["text"].endswith(" tasks in work, and may have 5 (agent-code)")
        assert "agentbus setup --agent code --max-ack-pending 10" in found["fix"]


async def test_in_the_folder_of_the_bus_doctor_compares_workers_and_connections_with_their_bounds(tmp_path: Path):
    plan = replace(PLAN, port=free_port(), monitoring_port=free_port(), connections=5, connections_of_agent=1)
    bus = create(tmp_path / "bus", plan, ["code"])
    joined = join_as_worker(bus.bundle("code"), tmp_path / "code", FAKE)
    config = join_as_coordinator(bus.bundle("main"), tmp_path / "main")

    def settings(path: Path, name: str):
        return connection_settings(load_coordinator(path=path)[0].nats, agent=name, name="test")

    async with run_server(store=tmp_path / "nats", config=bus.servers[0].configuration):
        async with connect(settings(bus.administrator, ADMINISTRATOR)) as administrator:
            await set_up(administrator, ["code"])
        administrators = ("--role", "administrator", "--config", str(bus.administrator))
        assert not_ok(await doctor(*administrators)) == []
        async with connect(settings(config, "main")) as main, worker(joined):
            coordinator = Coordinator(main, "main")
            await eventually(coordinator.agents, "the worker is alive")
            found = [one for one in await doctor(*administrators) if one["check"] == "connections"]
            assert not_ok(await doctor("--config", str(config), code=1)) != [], "main has its only connection already"
    assert sorted(one["text"] for one in found) == [
        "code has 1 workers, a connection each, and may have 1",
        "the server has 4 connections, and takes 5",
    ]
    assert all("growing.md#limits" in one["fix"] for one in found)


def test_the_monitoring_port_is_read_from_a_plain_line_and_from_nothing_else(tmp_path: Path):
    [server] = create(tmp_path / "bus", replace(PLAN, monitoring_port=8333), ["code"]).servers
    found = monitoring_address(server)
    assert found is not None
    assert (found.host, found.port) == ("127.0.0.1", 8333)
    for text in ('http: "127.0.0.1:-1"\n', "https: 127.0.0.1:8333\n", "", "http: {\n"):
        server.configuration.write_text(text, encoding="utf-8")
        assert monitoring_address(server) is None
    server.configuration.unlink()
    assert monitoring_address(server) is None

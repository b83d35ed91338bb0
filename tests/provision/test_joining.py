"""An operator makes a bus with commands, machines join it while it runs, and credentials are rotated and removed."""

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.jetstream import connect
from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.errors import AuthenticationError
from agentbus.provision.bundle import read_bundle
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.join import join_as_coordinator, join_as_worker
from agentbus.provision.nats_server import NatsServer, run_server
from support.harness import BOUND_S, FAKE_AGENT, eventually, worker
from support.installation import FAKE, free_port, outcome_of
from support.operator_commands import Operator, secrets_in

pytestmark = pytest.mark.posix("not tried on Windows")


class TwoMachines:
    """A bus, a machine with a worker of `code` and one with the coordinator, each in a folder of its own."""

    def __init__(self, path: Path, server: NatsServer, operator: Operator) -> None:
        self.path, self.server, self.operator = path, server, operator
        self.bus, self.coordinator_folder, self.worker_folder = path / "bus", path / "coordinator", path / "worker"

    async def bundle(self, name: str) -> Path:
        made = self.path / f"{name}-{os.urandom(3).hex()}.bundle"
        await self.operator.run("agent", "bundle", name, "--bus", self.bus, "--output", made)
        return made

    async def reload(self, times: int = 1) -> None:
        """Have the server read its configuration again, as the commands say."""
        for _ in range(times):
            before = self.server.log.read_text(encoding="utf-8").count("Reloaded server configuration")
            self.server.reload()
            await eventually(
                lambda seen=before: (
                    self.server.log.read_text(encoding="utf-8").count("Reloaded server configuration") > seen
                ),
                "the server has read its configuration again",
            )

    @asynccontextmanager
    async def coordinator(self) -> AsyncGenerator[Coordinator]:
        async with connect(self.settings("main", self.coordinator_folder)) as connected:
            yield Coordinator(connected)

    def settings(self, name: str, folder: Path) -> ConnectionSettings:
        config, _ = load_coordinator(path=folder / "coordinator.toml")
        return connection_settings(config.nats, agent=name, name="test")


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncGenerator[TwoMachines]:
    operator, bus = Operator(), tmp_path / "bus"
    await operator.run("init", bus, "--port", str(free_port()), "--monitoring-port", "0", "--agent", "code")
    async with run_server(store=tmp_path / "nats", config=bus / "nats-server.conf") as server:
        made = TwoMachines(tmp_path, server, operator)
        await operator.run("setup", "--config", bus / "admin.toml", "--agent", "code")
        command = ("--command", f"{sys.executable} {FAKE_AGENT} {{input}}")
        await operator.run(
            "worker", "init", "--bundle", await made.bundle("code"), "--folder", made.worker_folder, *command
        )
        await operator.run(
            "coordinator", "init", "--bundle", await made.bundle("main"), "--folder", made.coordinator_folder
        )
        yield made
        assert [line for line in server.log.read_text(encoding="utf-8").splitlines() if "Violation" in line] == []
    assert [secret for secret in secrets_in(BusFolder(bus)) if secret in operator.output] == []


async def test_an_agent_joins_a_running_bus_and_is_removed_without_disturbing_others(machines: TwoMachines) -> None:
    operator, other = machines.operator, machines.path / "other"
    async with machines.coordinator() as main, worker(machines.worker_folder / "config.toml") as process:
        assert await outcome_of(main, "code") == "completed"
        await operator.run("agent", "add", "doc", "--may-task", "code", "--bus", machines.bus)
        await machines.reload(times=2)
        await operator.run("setup", "--config", machines.bus / "admin.toml", "--agent", "doc")
        bundle = read_bundle(await machines.bundle("doc"))
        join_as_worker(bundle, other, FAKE)
        join_as_coordinator(bundle, other)
        async with worker(other / "config.toml"):
            assert await outcome_of(main, "doc") == "completed"
        async with connect(machines.settings("doc", other)) as connected:
            doc = Coordinator(connected, "doc")
            task = await doc.publish("code", "say:done", task_type="test")
            assert (await doc.wait([task.id], timeout_s=BOUND_S, agent="code")).settled[task.id].state == "completed"

        await operator.run("agent", "remove", "doc", "--bus", machines.bus)
        await machines.reload()
        with pytest.raises(AuthenticationError):
            async with connect(machines.settings("doc", other)):
                pass
        assert await outcome_of(main, "code") == "completed"
        assert main.bus.seconds_since_reconnect == float("inf")
        assert not process.said("connection lost")


async def test_a_worker_with_a_rotated_credential_exits_with_the_reason_and_runs_again_with_a_new_bundle(
    machines: TwoMachines,
) -> None:
    old = BusFolder(machines.bus).secret_file("code").read_text(encoding="utf-8").strip()
    config = machines.worker_folder / "config.toml"
    async with machines.coordinator() as main:
        async with worker(config) as process:
            assert await outcome_of(main, "code") == "completed"
            await machines.operator.run("agent", "rotate", "code", "--bus", machines.bus)
            await machines.reload()
            assert await process.exit_code() == 1
            assert process.said("refused the credentials")
        async with worker(config, ready=False) as late:
            assert await late.exit_code() == 1
            assert late.said("refused the credentials")
        fresh = await machines.bundle("code")
        await machines.operator.run("worker", "init", "--bundle", fresh, "--folder", machines.worker_folder, "--renew")
        async with worker(config):
            assert await outcome_of(main, "code") == "completed"
        assert main.bus.seconds_since_reconnect == float("inf")
    assert old not in machines.operator.output

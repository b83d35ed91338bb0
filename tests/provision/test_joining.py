"""An operator makes a bus with commands, machines join it while it runs, and credentials are rotated and removed."""

import os
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.jetstream import connect
from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.errors import AuthenticationError, PermissionDeniedError
from agentbus.provision.bundle import read_bundle
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.join import join_as_coordinator, join_as_worker
from agentbus.provision.nats_server import NatsServer, run_server
from support.free_ports import free_port
from support.harness import BOUND_S, FAKE_AGENT, eventually, worker
from support.installation import FAKE, outcome_of
from support.operator_commands import Operator, secrets_in

pytestmark = pytest.mark.posix("not tried on Windows")


class TwoMachines:
    """A bus, a machine with a worker of `code` and one with the coordinator, each in a folder of its own."""

    def __init__(self, path: Path, server: NatsServer, operator: Operator) -> None:
        self.path, self.server, self.operator = path, server, operator
        self.expected: list[str] = []
        self.bus, self.coordinator_folder, self.worker_folder = path / "bus", path / "coordinator", path / "worker"

    async def bundle(self, name: str, kind: str = "agent") -> Path:
        made = self.path / f"{name}-{os.urandom(3).hex()}.bundle"
        await self.operator.run(kind, "bundle", name, "--bus", self.bus, "--output", made)
        return made

    async def joined(self, name: str, *role: str) -> Path:
        """Add a coordinator, as the commands say; returns the folder from which it has joined."""
        await self.operator.run("coordinator", "add", name, *role, "--bus", self.bus)
        await self.reload(times=2)
        folder = self.path / name
        made = await self.bundle(name, "coordinator")
        await self.operator.run("coordinator", "init", "--bundle", made, "--folder", folder)
        return folder

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
        refused = [line for line in server.log.read_text(encoding="utf-8").splitlines() if "Violation" in line]
        assert [line for line in refused if not any(part in line for part in made.expected)] == []
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


async def test_a_member_is_removed_and_its_tasks_stay(machines: TwoMachines) -> None:
    folder = await machines.joined("alice", "--agent", "code")
    async with machines.coordinator() as main, worker(machines.worker_folder / "config.toml"):
        async with connect(machines.settings("alice", folder)) as connected:
            alice = Coordinator(connected, "alice")
            done = await alice.publish("code", "say:done", task_type="test")
            await alice.wait([done.id], timeout_s=BOUND_S)
            running = await alice.publish("code", "sleep:30", task_type="test")
            await eventually(lambda: _state(alice, running.id, "working"), "the task is being worked on")
            queued = await alice.publish("code", "say:late", task_type="test")
            await machines.operator.run("coordinator", "remove", "alice", "--bus", machines.bus)
            await machines.reload()
            with pytest.raises(AuthenticationError):
                await alice.wait([running.id], timeout_s=BOUND_S)
        with pytest.raises(AuthenticationError):
            async with connect(machines.settings("alice", folder)):
                pass
        listed = {one.task_id: (one.owner, one.state) for one in (await main.list_tasks()).tasks}
        assert listed == {
            done.id: ("alice", "completed"),
            running.id: ("alice", "working"),
            queued.id: ("alice", "queued"),
        }
        for task in (queued, running):
            await main.task(task.id, owner="alice").cancel()
        for task in (queued, running):
            assert await eventually(lambda one=task: _state(main, one.id, "cancelled", "alice"), "it is cancelled")
        assert await outcome_of(main, "code") == "completed"
        assert main.bus.seconds_since_reconnect == float("inf")


async def _state(coordinator: Coordinator, task_id: str, wanted: str, owner: str | None = None) -> bool:
    return (await coordinator.task(task_id, owner=owner).status()).state == wanted


async def test_a_member_with_a_rotated_credential_goes_on_with_the_new_one_and_the_old_one_is_refused(
    machines: TwoMachines,
) -> None:
    folder = await machines.joined("alice")
    old = machines.path / "stolen"
    shutil.copytree(folder, old)
    toml = old / "coordinator.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace(str(folder), str(old)), encoding="utf-8")
    async with machines.coordinator() as main, worker(machines.worker_folder / "config.toml"):
        async with connect(machines.settings("alice", folder)) as connected:
            alice = Coordinator(connected, "alice")
            task = await alice.publish("code", "say:done", task_type="test")
            await machines.operator.run("coordinator", "rotate", "alice", "--bus", machines.bus)
            fresh = await machines.bundle("alice", "coordinator")
            await machines.operator.run("coordinator", "init", "--bundle", fresh, "--folder", folder, "--renew")
            await machines.reload()
            await eventually(lambda: connected.seconds_since_reconnect < BOUND_S, "it is back with the new credential")
            assert (await alice.wait([task.id], timeout_s=BOUND_S)).settled[task.id].state == "completed"
        with pytest.raises(AuthenticationError):
            async with connect(machines.settings("alice", old)):
                pass
        assert await outcome_of(main, "code") == "completed"
        assert main.bus.seconds_since_reconnect == float("inf")


async def test_a_coordinator_that_is_added_again_with_another_role_needs_one_reload(machines: TwoMachines) -> None:
    folder = await machines.joined("alice", "--role", "viewer")
    async with connect(machines.settings("alice", folder)) as connected:
        with pytest.raises(PermissionDeniedError):
            await Coordinator(connected, "alice").publish("code", "x", task_type="test")
    machines.expected.append('Subject "$KV.AGENT_STATE.code.~alice.')
    await machines.operator.run("coordinator", "remove", "alice", "--bus", machines.bus)
    await machines.operator.run("coordinator", "add", "alice", "--bus", machines.bus)
    await machines.reload()
    made = await machines.bundle("alice", "coordinator")
    await machines.operator.run("coordinator", "init", "--bundle", made, "--folder", folder, "--renew")
    async with (
        connect(machines.settings("alice", folder)) as connected,
        worker(machines.worker_folder / "config.toml"),
    ):
        assert await outcome_of(Coordinator(connected, "alice"), "code") == "completed"

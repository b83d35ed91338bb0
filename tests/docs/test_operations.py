"""What docs/operations.md and docs/how-to/growing.md tell people to do works: commands, configurations, manifests."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentbus import Coordinator
from agentbus.bus.jetstream import connect
from agentbus.bus.setup import set_up
from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.config.schema import CoordinatorNatsSection, NatsSection
from agentbus.config.worker_schema import WorkerSection
from agentbus.errors import AuthenticationError
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.protocol.subjects import COORDINATOR
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.new_bus import create
from agentbus.provision.join import join_as_coordinator
from agentbus.provision.nats_server import NatsServer, run_server
from support.documentation import HOW_TO, OPERATIONS, marked
from support.free_ports import free_port
from support.harness import BOUND_S, eventually, worker, worker_toml
from support.installation import PLAN, credential_of
from support.reader import Reader

# Every command starts a process of its own, which takes seconds on a machine that is busy.
pytestmark = pytest.mark.posix("runs shell commands of the documentation")

GROWING = HOW_TO / "growing.md"
INCIDENTS = HOW_TO / "incidents.md"
PEOPLE = HOW_TO / "people.md"


def settings(bus: BusFolder, party: str, ca: Path | None = None) -> ConnectionSettings:
    nats = {"url": bus.url, "ca_file": ca or bus.path / "tls" / "ca.pem", **credential_of(bus, party)}
    return connection_settings(CoordinatorNatsSection.model_validate(nats), agent=party, name=f"test {party}")


@asynccontextmanager
async def serving(bus: BusFolder, tmp_path: Path) -> AsyncGenerator[NatsServer]:
    async with run_server(store=tmp_path / "server", config=bus.servers[0].configuration) as server:
        yield server


async def made_by_init(folder: Path, tmp_path: Path, stack: AsyncExitStack) -> tuple[BusFolder, AsyncExitStack]:
    """A bus as `agentbus init` makes it, with its server, which the inner stack ends."""
    bus = create(folder, replace(PLAN, port=free_port(), listen="127.0.0.1"), ["code", "doc"])
    running = await stack.enter_async_context(AsyncExitStack())
    await running.enter_async_context(serving(bus, tmp_path))
    async with connect(settings(bus, ADMINISTRATOR)) as administrator:
        await set_up(administrator, bus.agents)
    return bus, running


@pytest.mark.posix("signals by pid file")
async def test_an_operator_who_follows_the_page_keeps_the_bus_and_its_tasks(tmp_path: Path, home: Path) -> None:
    async with AsyncExitStack() as stack:
        bus, running = await made_by_init(home / ".agentbus" / "bus", tmp_path, stack)
        config = join_as_coordinator(bus.bundle(COORDINATOR), home / ".agentbus")
        async with connect(settings(bus, COORDINATOR)) as connection:
            task = await Coordinator(connection, COORDINATOR).publish("code", "say:kept", task_type="test")
        with ExitStack() as terminals:
            reader = Reader(tmp_path, terminals, activated=True)
            for block in marked(r"run\b.*", OPERATIONS):
                if block.marker == "run on an empty store":
                    await running.aclose()
                    (bus.path / "jetstream").rename(bus.path / "jetstream-old")
                    await stack.enter_async_context(serving(bus, tmp_path))
                await reader.follow(replace(block, marker="run"))
        assert BusFolder(bus.path).agents == ("code",)
        loaded = load_coordinator(path=config)[0]
        async with connect(connection_settings(loaded.nats, agent=COORDINATOR, name="test")) as connection:
            assert (await Coordinator(connection, COORDINATOR).task(task.id).status()).state == "queued"
        # The server has changed over: who trusts the new authority alone is served.
        async with connect(settings(BusFolder(bus.path), COORDINATOR)) as connection:
            assert connection.connected


@pytest.mark.posix("signals by pid file")
async def test_who_follows_the_page_of_incidents_shuts_out_a_thief_and_clears_what_it_left(
    tmp_path: Path, home: Path
) -> None:
    async with AsyncExitStack() as stack:
        bus, _ = await made_by_init(home / ".agentbus" / "bus", tmp_path, stack)
        join_as_coordinator(bus.bundle(COORDINATOR), home / ".agentbus")
        stolen = tmp_path / "stolen.nk"
        stolen.write_bytes(bus.secret_file("code").read_bytes())
        async with connect(settings(bus, COORDINATOR)) as connection:
            coordinator = Coordinator(connection, COORDINATOR)
            await coordinator.publish("code", "say:kept", task_type="test", task_id="task-20260518-0001")
            planted = {"durable_name": "planted", "filter_subject": "$KV.AGENT_STATE.code.>", "ack_policy": "none"}
            verb = "CONSUMER.CREATE.KV_AGENT_STATE_code.planted.$KV.AGENT_STATE.code.>"
            await connection.api(verb, {"stream_name": "KV_AGENT_STATE_code", "config": planted})
            with ExitStack() as terminals:
                reader = Reader(tmp_path, terminals, activated=True)
                for block in marked("run", INCIDENTS):
                    await reader.follow(block)
            assert (await coordinator.task("task-20260518-0001").status()).state == "cancelled"
        async with connect(settings(BusFolder(bus.path), ADMINISTRATOR)) as administrator:
            assert "planted" not in [one.name for one in await administrator.consumers("KV_AGENT_STATE_code")]
        nats = {"url": bus.url, "nkey_file": stolen, "ca_file": bus.path / "tls" / "ca.pem"}
        thief = connection_settings(NatsSection.model_validate(nats), agent="code", name="thief")
        with pytest.raises(AuthenticationError):
            async with connect(thief):
                pass
        assert (home / "evidence").is_dir()


@pytest.mark.posix("signals by pid file")
async def test_who_follows_the_page_for_people_adds_and_removes_one_whose_tasks_stay(
    tmp_path: Path, home: Path
) -> None:
    async with AsyncExitStack() as stack:
        bus, _ = await made_by_init(home / ".agentbus" / "bus", tmp_path, stack)
        join_as_coordinator(bus.bundle(COORDINATOR), home / ".agentbus")
        async with connect(settings(bus, COORDINATOR)) as connection:
            coordinator = Coordinator(connection, COORDINATOR)
            with ExitStack() as terminals:
                reader = Reader(tmp_path, terminals, activated=True)
                for block in marked(r"run\b.*", PEOPLE):
                    await reader.follow(block)
            [kept] = (await coordinator.list_tasks()).tasks
        assert (kept.owner, kept.state) == ("alice", "queued")
        assert BusFolder(bus.path).coordinators == ("main",)
        assert not (home / ".agentbus" / "bus" / "credentials" / "alice.nk").exists()


def fitted(page_text: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        assert page_text.count(old) >= 1, old
        page_text = page_text.replace(old, new)
    return page_text


async def test_a_worker_behind_a_leaf_does_everything_that_a_worker_does(tmp_path: Path) -> None:
    bus = create(tmp_path / "bus", replace(PLAN, port=free_port()), ["code"])
    [for_bus] = marked("configuration of the bus for a leaf", GROWING)
    [for_leaf] = marked("configuration of a leaf", GROWING)
    port, tls = free_port(), str(bus.path / "tls")
    conf = bus.servers[0].configuration
    added = fitted(for_bus.text, {"0.0.0.0:7522": f"127.0.0.1:{port}", "/home/you/.agentbus/bus/tls": tls})
    conf.write_text(added + conf.read_text(encoding="utf-8"), encoding="utf-8")
    leaf = tmp_path / "leaf.conf"
    leaf.write_text(
        fitted(
            for_leaf.text,
            {
                "127.0.0.1:7422": "127.0.0.1:-1",
                "bus.example.com:7522": f"127.0.0.1:{port}",
                "SEED-OF-CODE": bus.secret_file("code").read_text(encoding="utf-8").strip(),
                "/home/you/code.ca.pem": f"{tls}/ca.pem",
            },
        ),
        encoding="utf-8",
    )
    async with (
        run_server(store=tmp_path / "nats", config=conf),
        run_server(store=tmp_path / "leaf", config=leaf) as site,
        connect(settings(bus, ADMINISTRATOR)) as administrator,
        connect(settings(bus, COORDINATOR)) as connection,
    ):
        await set_up(administrator, bus.agents)
        coordinator = Coordinator(connection, COORDINATOR)
        async with worker(worker_toml(tmp_path, site.url, nats={"inbox_prefix": "_INBOX_code"})):
            tasks = [
                (await coordinator.publish("code", content, task_type="test")).id
                for content in ("say:small", "bytes:200000", "sleep:600")
            ]
            finished = await coordinator.wait(tasks[:2], timeout_s=2 * BOUND_S)
            assert {status.state for status in finished.settled.values()} == {"completed"}
            assert len(b"".join([piece async for piece in coordinator.task(tasks[1]).output()])) >= 200_000
            assert [found.agent for found in await coordinator.agents("code")] == ["code"]

            async def working() -> bool:
                return (await coordinator.task(tasks[2]).status()).state == "working"

            await eventually(working, "the worker has the last task")
            await coordinator.task(tasks[2]).cancel()
            ended = await coordinator.wait(tasks[2:], timeout_s=BOUND_S)
            assert {status.state for status in ended.settled.values()} == {"cancelled"}


def test_the_manifest_gives_a_worker_time_to_drain_and_the_values_of_the_chart_are_what_is_relied_on() -> None:
    deployment, values = (yaml.safe_load(block.text) for block in marked("Kubernetes", GROWING))
    pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
    fields = WorkerSection.model_fields
    stop_s = fields["drain_timeout_seconds"].default + fields["kill_grace_seconds"].default
    assert pod["terminationGracePeriodSeconds"] > stop_s
    [container] = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert container["args"][-1].startswith(mounts["configuration"])
    assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert values["config"]["jetstream"]["merge"]["sync_interval"] == "always"
    assert values["config"]["merge"]["max_payload"] == 8 << 20

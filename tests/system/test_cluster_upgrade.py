"""A cluster that an earlier version made gets the newest layout, one server after the other, with its tasks."""

from dataclasses import replace
from pathlib import Path

import pytest

from agentbus.bus.jetstream import connect
from agentbus.errors import AgentBusError
from agentbus.protocol import subjects
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.protocol.progress.names import agent_of_stream
from agentbus.provision.bus_folder.folder import BusFolder
from support.clustered import ELECTION_S, Cluster, cluster_of, once_led
from support.free_ports import free_port
from support.harness import Ran, eventually, run_cli, worker
from support.old_version import OldVersion

pytestmark = [pytest.mark.posix("a worker needs process groups and signals"), pytest.mark.cluster]


async def make_older_cluster(path: Path, old: OldVersion) -> BusFolder:
    members = [f"127.0.0.1:{free_port()}:{free_port()}" for _ in range(3)]
    named = [word for member in members for word in ("--member", member)]
    made = await old.cli(
        "init", str(path / "bus"), *named, "--agent", "code", "--monitoring-port", "0", "--max-file", "1GiB"
    )
    assert made.code == 0, made.err
    return BusFolder(path / "bus")


async def upgrade(servers: Cluster) -> Ran:
    ran = await run_cli("init", "--upgrade", str(servers.folder.path), timeout_s=4 * ELECTION_S)
    assert ran.code == 0, ran.err
    servers.folder = BusFolder(servers.folder.path)
    return ran


async def current(servers: Cluster, *, moving: bool = False) -> None:
    """Wait until every stream has all its replicas: one where runs tell what they do, three of everything else.

    While the servers restart, some do not know the second credential, and the first one reaches all streams.
    """
    settings = servers.settings(ADMINISTRATOR)
    settings = replace(settings, tasks_credentials=None) if moving else settings

    late = list[str]()

    async def complete() -> bool:
        late.clear()
        try:
            async with connect(settings) as bus:
                for account in bus.accounts:
                    names: list[str] = (await account.api("STREAM.NAMES"))["streams"] or []
                    for name in names:
                        info = await account.api(f"STREAM.INFO.{name}")
                        about, wanted = info.get("cluster", {}), 1 if agent_of_stream(name) else 3
                        others = about.get("replicas", [])
                        whole = len(others) == wanted - 1 and all(one["current"] for one in others)
                        if not about.get("leader") or not whole:
                            late.append(f"{name}: {about}")
        except AgentBusError as error:
            late.append(str(error))
        return not late

    try:
        await eventually(complete, "all replicas are current", timeout_s=2 * ELECTION_S)
    except AssertionError as error:
        raise AssertionError("; ".join([str(error), *late])) from None


async def test_tasks_that_wait_and_run_are_done_once_though_every_server_restarts(
    tmp_path: Path, old: OldVersion
) -> None:
    go = tmp_path / "go"
    async with cluster_of(tmp_path, await make_older_cluster(tmp_path, old)) as servers:
        config = str(servers.folder.administrator)
        made = await old.cli("setup", "--config", config, "--agent", "code", "--replicas", "3")
        assert made.code == 0, made.err
        unhurried = {"task_timeout_seconds": 900}
        async with worker(servers.worker_toml(tmp_path, "code", worker=unhurried)) as process:
            async with servers.coordinator() as main:
                running = await main.publish("code", f"wait:{go}", task_type="test")
                await process.until_said(running.id)
                queued = [await main.publish("code", f"say:{number}", task_type="test") for number in range(3)]
            await upgrade(servers)
            for name in servers.names:
                await servers.running.pop(name).stop()
                await servers.start(name)
                await current(servers, moving=True)
            assert "moved AGENT_TASKS into an account of its own" in (await upgrade(servers)).out
            await current(servers)
            go.touch()
            async with servers.coordinator() as main:
                after = await main.publish("code", "say:after", task_type="test")
                ids = [running.id, *(task.id for task in queued), after.id]
                waited = await main.wait(ids, timeout_s=4 * ELECTION_S)
                assert not waited.pending
                results = [one.result.to_json() for one in waited.settled.values() if one.result]
                assert [(one["status"], one["attempt"]) for one in results] == [("completed", 1)] * 5
                servers.kill(await servers.led_by(subjects.TASKS_STREAM))
                later = await once_led(lambda: main.publish("code", "say:later", task_type="test", task_id="later"))
                assert not (await main.wait([later.id], timeout_s=2 * ELECTION_S)).pending

                async def told() -> list[str]:
                    return sorted(
                        one.result.task_id for one in await once_led(lambda: main.results(newest=100)) if one.result
                    )

                async def all_told() -> bool:  # a wait ends with the ledger's entry, a moment before the inbox has it
                    return len(await told()) > len(ids)

                await eventually(all_told, "the inbox has each result", timeout_s=2 * ELECTION_S)
                assert await told() == sorted([*ids, later.id])

            async def led() -> bool:
                return await servers.meta_leader() in servers.running

            await eventually(led, "JetStream has a leader that runs", timeout_s=2 * ELECTION_S)
            assert "has the newest layout" in (await upgrade(servers)).out

"""Files and processes that a killed worker leaves are taken over by a worker of the other version."""

import sys
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.protocol.json_codec import decode
from agentbus.provision.nats_server import NatsServer
from support.harness import alive, eventually, worker, worker_toml
from support.jobs import (
    acknowledged,
    counts,
    gone,
    pid_from,
    publish,
    ran_nothing,
    result_messages,
    settled,
    short_lease,
    text,
)
from support.old_version import OldVersion
from support.outage import outage_of
from support.supervised import kill_with_supervisors

pytestmark = pytest.mark.posix("a worker needs process groups and signals")

Envs = tuple[dict[str, str], dict[str, str]]


@pytest.fixture(params=["old worker, then new", pytest.param("new worker, then old", marks=pytest.mark.long)])
def versions(request: pytest.FixtureRequest, old: OldVersion) -> Envs:
    """The environments of the worker that is killed, and of the one that follows."""
    return (old.env, {}) if request.param.startswith("old") else ({}, old.env)


async def test_an_outcome_that_a_killed_worker_left_on_disk_is_delivered_once(tmp_path: Path, versions: Envs) -> None:
    before, after = versions
    async with outage_of(tmp_path / "nats") as outage:
        await short_lease(outage.bus)
        config = worker_toml(tmp_path, outage.url)
        async with worker(config, env=before) as child:
            task_id = await publish(outage.bus, f"touch:{tmp_path}/ran wait:{tmp_path}/go say:done")
            await eventually((tmp_path / "ran").exists, "the command runs")
            outage.begin()
            (tmp_path / "go").touch()
            [entry] = await eventually(
                lambda: [*(tmp_path / "state").glob("*/code/*/outbox/*.json")], "the outcome is on disk"
            )
            child.kill()
        assert decode(entry.read_bytes())["result"]["result"] == "done\n"
        await outage.end()
        async with worker(config, env=after) as child:
            status = await settled(outage.bus, task_id)
            await acknowledged(outage.bus)
            assert child.said(f"task {task_id}: its outcome from before the restart is delivered")
            assert ran_nothing(child)
        assert (status.state, text(status), status.record.entry.attempt) == ("completed", "done\n", 1)
        assert (tmp_path / "ran").read_text(encoding="utf-8") == "ran\n"
        assert not entry.exists()
        [result] = await result_messages(outage.bus)
        assert result["id"] == status.record.entry.result_id


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes that left their group in /proc")
async def test_the_command_of_a_worker_killed_with_its_supervisors_is_ended_with_its_children(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, versions: Envs
) -> None:
    before, after = versions
    config = worker_toml(tmp_path, server.url, worker={"kill_grace_seconds": 0.5})
    async with worker(config, env=before) as first:
        task_id = await publish(coordinator, f"session:{tmp_path}/session pid:{tmp_path}/me sleep:1000")
        pids = [await pid_from(tmp_path / name) for name in ("session", "me")]
        await eventually(lambda: [*tmp_path.glob("state/*/code/*/children/*-*.json")], "the command is on record")
        kill_with_supervisors(first)
    assert all(alive(pid) for pid in pids)
    await coordinator.task(task_id).cancel()
    async with worker(config, env=after) as second:
        assert second.said(f"task {task_id}: ending 2 processes of a")  # each version words the rest in its own way
        await gone(*pids)
        assert (await settled(coordinator, task_id)).state == "cancelled"
        await acknowledged(coordinator)
    assert (await counts(coordinator))["AGENT_RESULTS"] == 1


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="there are supervisors on Linux alone")
async def test_a_worker_starts_while_the_supervisors_of_a_killed_one_still_end_its_command(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, versions: Envs
) -> None:
    before, after = versions
    config = worker_toml(tmp_path, server.url, worker={"kill_grace_seconds": 0.5})
    async with worker(config, env=before) as first:
        task_id = await publish(coordinator, f"stubborn session:{tmp_path}/session pid:{tmp_path}/me sleep:1000")
        pids = [await pid_from(tmp_path / name) for name in ("session", "me")]
        await eventually(lambda: [*tmp_path.glob("state/*/code/*/children/*-*.json")], "the command is on record")
        first.kill()
    await coordinator.task(task_id).cancel()
    async with worker(config, env=after):
        await gone(*pids)
        assert (await settled(coordinator, task_id)).state == "cancelled"
        await acknowledged(coordinator)
    assert (await counts(coordinator))["AGENT_RESULTS"] == 1

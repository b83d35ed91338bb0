"""A coordinator of an earlier version on a bus whose ledger is divided, which it does not know."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from support.doctor import coordinator_toml
from support.harness import eventually, worker
from support.installation import OwnBus, own_bus
from support.old_version import OldVersion

pytestmark = pytest.mark.posix("a worker needs process groups and signals")


@pytest.fixture
async def own(tmp_path: Path) -> AsyncGenerator[OwnBus]:
    async with own_bus(tmp_path) as bus:
        yield bus


async def test_it_publishes_and_reads_and_cancels_the_tasks_of_an_agent_that_it_names(
    tmp_path: Path, own: OwnBus, old: OldVersion
) -> None:
    config = str(coordinator_toml(tmp_path, own))

    async def run(*words: str) -> dict[str, object]:
        ran = await old.cli("task", *words, "--config", config)
        assert ran.code == 0, ran
        return json.loads(ran.out)

    done, queued = [
        str((await run("publish", "--to", agent, "--task-type", "test", "say:done"))["id"]) for agent in ("code", "doc")
    ]
    async with worker(own.worker_toml(tmp_path, "code")), own.coordinator("main") as main:

        async def completed() -> bool:
            return (await main.task(done).status()).state == "completed"

        await eventually(completed, "the task is done")
    assert (await run("get", "--agent", "code", done))["state"] == "completed"
    assert (await run("cancel", "--agent", "doc", queued))["state"] == "cancelled"
    assert own.violations() == []


@pytest.mark.parametrize("words", [["list"], ["wait", "--timeout", "30"], ["get"]], ids=["list", "wait", "get"])
async def test_what_needs_all_ledgers_is_refused_as_not_permitted_and_no_task_is_said_to_be_missing(
    tmp_path: Path, own: OwnBus, old: OldVersion, words: list[str]
) -> None:
    async with own.coordinator("main") as main:
        task = await main.publish("code", "say:done", task_type="test")
        asked = [task.id] if words != ["list"] else []
        ran = await old.cli("task", *words, *asked, "--config", str(coordinator_toml(tmp_path, own)))
        assert (ran.code, ran.out) == (1, "")
        assert "the bus does not allow this user to publish to $js.api.consumer.create.kv_agent_state." in ran.err
        assert (await main.task(task.id).status()).state == "queued"

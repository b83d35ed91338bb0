"""A worker that the bus does not let claim: it leaves the tasks to others, and goes on by itself."""

from pathlib import Path

from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import settled
from agentbus.protocol.messages import new_result, new_task
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.presence import PausedWorker
from support.harness import eventually, worker, worker_toml
from support.restricted import all_but, restricted_bus

EVERYTHING = all_but("nothing.at.all")
NO_LEDGER = all_but(subjects.STATE_SUBJECTS)
WAIT_S = 30.0
"""Half as long as one task was put off each time that a worker could not claim it."""


async def test_a_worker_that_may_not_claim_leaves_the_tasks_to_others(tmp_path: Path):
    for name in ("able", "unable"):
        (tmp_path / name).mkdir()
    async with restricted_bus(tmp_path, {"able": EVERYTHING, "unable": NO_LEDGER}, agents=["code"]) as bus:
        unable = worker_toml(tmp_path / "unable", bus.url("unable"))
        able = worker_toml(tmp_path / "able", bus.url("able"))
        async with worker(unable) as first, worker(able):
            tasks = [await bus.admin.publish("code", "sleep:0.3 say:done", task_type="test") for _ in range(12)]
            waited = await bus.admin.wait([task.id for task in tasks], timeout_s=WAIT_S)
            assert not waited.pending
            assert first.said("paused (not_claimed): the bus does not let it claim tasks")


async def test_a_result_that_one_worker_may_not_publish_is_published_by_another_one_soon(tmp_path: Path):
    """The result was committed by a worker that died before it published it."""
    for name in ("able", "unable"):
        (tmp_path / name).mkdir()
    no_results = all_but(subjects.RESULT_SUBJECTS)
    async with restricted_bus(tmp_path, {"able": EVERYTHING, "unable": no_results}, agents=["code"]) as bus:
        task = await bus.admin.publish("code", "say:done", task_type="test")
        record = (await bus.admin.task(task.id).status()).record
        embedded = new_task(to="code", content="say:done", task_type="test", task_id=task.id).to_json()
        result = new_result(embedded, result_id=f"result-code-{task.id}-x", status="completed", result="done")
        await Ledger(bus.admin.bus).write(record.key, settled(record.entry, result), revision=record.revision)
        async with worker(worker_toml(tmp_path / "unable", bus.url("unable"))) as first:
            await first.until_said("could not be claimed")
            async with worker(worker_toml(tmp_path / "able", bus.url("able"))):
                stored = await eventually(bus.admin.results, "the result is in the inbox", timeout_s=WAIT_S)
    assert [message.result.id for message in stored if message.result] == [result.id]


async def test_a_worker_that_may_claim_again_goes_on_by_itself_and_tells_meanwhile_why_it_is_paused(tmp_path: Path):
    async with (
        restricted_bus(tmp_path, {"code": NO_LEDGER}, agents=["code"]) as bus,
        worker(worker_toml(tmp_path, bus.url("code"))) as child,
    ):
        task = await bus.admin.publish("code", "say:done", task_type="test")

        async def paused() -> PausedWorker | None:
            return next((one.paused for one in await bus.admin.agents("code") if one.paused), None)

        pause = await eventually(paused, "it tells of its pause")
        assert pause.code == "not_claimed"
        assert pause.reason.endswith("an administrator must grant it $KV.AGENT_STATE.code.>")
        assert task.id not in pause.reason
        await bus.permit({"code": EVERYTHING})
        waited = await bus.admin.wait([task.id], timeout_s=WAIT_S)
        assert waited.settled[task.id].record.entry.attempt == 1
        await child.until_said("no longer paused")

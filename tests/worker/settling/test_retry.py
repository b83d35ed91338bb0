"""Attempts: which failures are tried again, when, and how often - counted in the ledger, over restarts of workers."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.errors import AgentBusError, TaskNotFoundError
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.messages import new_task
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from support.harness import eventually, run_cli, worker, worker_toml
from support.jobs import (
    acknowledged,
    counts,
    error,
    outcome,
    publish,
    ran_nothing,
    result_messages,
    settled,
    short_lease,
    text,
)
from support.pace import at_this_pace
from support.supervised import KILL_WORKER

# Leaves a file for each run that names the attempt; fails in the attempts before {good} as {bad} says.
AGENT = """
: > {folder}/run.$AGENTBUS_ATTEMPT.$$
if [ "$AGENTBUS_ATTEMPT" -lt {good} ]; then {bad}; fi
echo "attempt $AGENTBUS_ATTEMPT"
"""
BAD = {"exit:3": "exit 3", "timeout": "while echo more; do sleep 0.1; done", "idle": "exec sleep 1000"}
LIMITS = {"exit:3": (), "timeout": ("task_timeout_seconds",), "idle": ("idle_timeout_seconds",)}


def config_for(
    folder: Path, server: NatsServer, *, bad: str = "exit 3", good: int = 99, name: str = "code", **keys: Any
) -> Path:
    script = AGENT.format(folder=folder, good=good, bad=bad)
    return worker_toml(
        folder,
        server.url,
        chat_cmd=["sh", "-c", script, "agent", "{input}"],
        worker={"retry_backoff_seconds": 0.2, "kill_grace_seconds": 0.2, **keys},
    )


def runs(folder: Path) -> list[tuple[int, float]]:
    """The attempt and the time of every run."""
    found = [(int(path.suffixes[0][1:]), path.stat().st_mtime) for path in folder.glob("run.*.*")]
    return sorted(found, key=lambda run: run[1])


async def entry_of(bus: Coordinator, task_id: str) -> Record:
    found = await Ledger(bus.bus).read(TaskKey("code", task_id))
    assert isinstance(found, Record)
    return found


# -- what is tried again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cause", ["exit:3", "timeout", "idle"])
async def test_a_configured_failure_is_retried_until_the_task_succeeds(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, cause: str
):
    limit: dict[str, Any] = {key: at_this_pace(2) for key in LIMITS[cause]}
    config = config_for(tmp_path, server, bad=BAD[cause], good=3, retry_on=[cause], **limit)
    async with worker(config):
        status = await outcome(coordinator, "x")
        await acknowledged(coordinator)
    assert (status.state, text(status)) == ("completed", "attempt 3\n")
    assert status.record.entry.attempt == 3
    assert [attempt for attempt, _ in runs(tmp_path)] == [1, 2, 3]
    [result] = await result_messages(coordinator)
    assert result["attempt"] == 3


@pytest.mark.parametrize(
    ("cause", "retry_on", "why"),
    [
        ("exit:3", ["exit:4", "timeout", "idle", "lost"], "exited with status 3"),
        ("exit:3", ["lost"], "exited with status 3"),
        ("timeout", ["idle", "exit:143", "lost"], "timed out after "),
        ("idle", ["timeout"], "printed nothing for "),
    ],
)
async def test_a_failure_that_is_not_configured_is_the_result_at_once(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, cause: str, retry_on: list[str], why: str
):
    limit: dict[str, Any] = {key: at_this_pace(2) for key in LIMITS[cause]}
    async with worker(config_for(tmp_path, server, bad=BAD[cause], retry_on=retry_on, **limit)):
        status = await outcome(coordinator, "x")
    assert status.state == "failed"
    assert why in error(status)
    assert len(runs(tmp_path)) == 1


async def test_the_last_attempt_makes_the_result(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    async with worker(config_for(tmp_path, server, retry_on=["exit:3"], max_attempts=2)):
        status = await outcome(coordinator, "x")
        await acknowledged(coordinator)
    assert (status.state, error(status)) == ("failed", "the command exited with status 3")
    assert status.record.entry.attempt == 2
    assert [attempt for attempt, _ in runs(tmp_path)] == [1, 2]
    assert (await counts(coordinator))["AGENT_RESULTS"] == 1


async def test_with_one_attempt_the_command_runs_once_whatever_the_reason_of_a_failure(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = config_for(tmp_path, server, retry_on=["exit:3", "timeout", "idle", "lost"], max_attempts=1)
    async with worker(config):
        assert (await outcome(coordinator, "x")).state == "failed"
    assert len(runs(tmp_path)) == 1


# -- when -------------------------------------------------------------------------------------------------------


async def test_the_backoff_doubles_with_jitter_and_other_tasks_run_meanwhile(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = config_for(tmp_path, server, retry_on=["exit:3"], max_attempts=3, retry_backoff_seconds=3)
    async with worker(config) as child:
        task_id = await publish(coordinator, "x")
        await child.until_said("trying again in")
        waiting = await entry_of(coordinator, task_id)
        assert (waiting.entry.state, waiting.entry.attempt) == ("queued", 1)
        assert waiting.entry.last_failure == "the command exited with status 3"
        assert waiting.entry.retry_after_s is not None
        assert 1.5 <= waiting.entry.retry_after_s <= 4.5
        assert (await coordinator.task(task_id).status()).state == "queued"
        other = await publish(coordinator, "y")
        await eventually(lambda: len(runs(tmp_path)) == 2, "another task runs in the pause")
        assert (await coordinator.task(task_id).status()).record.entry.attempt == 1
        await coordinator.task(other).cancel()
        await settled(coordinator, task_id)
    firsts = [at for attempt, at in runs(tmp_path) if attempt == 1]
    later = [at for attempt, at in runs(tmp_path) if attempt > 1]
    assert len(firsts + later) >= 4
    assert later[0] - firsts[0] >= 1.5, "half of three seconds is the shortest first pause"
    assert later[1] - later[0] >= 3.0, "half of six seconds is the shortest second one"


async def test_a_retry_that_is_delivered_too_early_waits_until_it_is_due(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = config_for(tmp_path, server, good=2, retry_on=["exit:3"], retry_backoff_seconds=4)
    async with worker(config) as child:
        task_id = await publish(coordinator, "x")
        await child.until_said("trying again in")
        waiting = await entry_of(coordinator, task_id)
        assert waiting.entry.retry_after_s is not None
        due = waiting.changed_at.timestamp() + waiting.entry.retry_after_s
        # The same message once more, as after a server that has forgotten the delay.
        task = new_task(to="code", content="x", task_type="test", task_id=task_id)
        await coordinator.bus.store("agent.code.tasks", encode(task.to_json()))
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
    assert (status.state, text(status)) == ("completed", "attempt 2\n")
    [_, (_, second)] = runs(tmp_path)
    assert second >= due - 0.01, "the time of a file lags by one tick of the kernel's clock"
    assert (await counts(coordinator))["AGENT_RESULTS"] == 1


# -- how often --------------------------------------------------------------------------------------------------


async def test_attempts_are_counted_over_restarts_of_workers(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator)
    config = config_for(tmp_path, server, retry_on=["exit:3"], max_attempts=3)
    task_id = await publish(coordinator, "x")
    for attempt in (1, 2):
        async with worker(config) as child:
            await eventually(lambda attempt=attempt: len(runs(tmp_path)) == attempt, f"attempt {attempt} runs")
            await child.until_said("trying again in")
            child.terminate()
            assert await child.exit_code() == 0
    async with worker(config):
        status = await settled(coordinator, task_id)
    assert [attempt for attempt, _ in runs(tmp_path)] == [1, 2, 3]
    assert (status.state, status.record.entry.attempt) == ("failed", 3)


async def test_lost_workers_and_failures_both_count_as_attempts(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=1)
    script = f'if [ "$AGENTBUS_ATTEMPT" = 1 ]; then exit 3; fi; {KILL_WORKER}; sleep 1'
    config = config_for(tmp_path, server, bad=script, retry_on=["exit:3", "lost"], max_attempts=2)
    task_id = await publish(coordinator, "x")
    async with worker(config, ready=False) as child:
        assert await child.exit_code() == -signal.SIGKILL
    async with worker(config):
        status = await settled(coordinator, task_id)
    assert [attempt for attempt, _ in runs(tmp_path)] == [1, 2]
    assert status.state == "failed"
    assert "attempts exhausted" in error(status)
    assert "2 workers" not in error(status), "only one worker was lost"


async def test_a_task_of_a_lost_worker_is_not_retried_unless_that_is_configured(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=1)
    config = config_for(tmp_path, server, bad=f"{KILL_WORKER}; sleep 1", retry_on=["exit:3"], max_attempts=5)
    task_id = await publish(coordinator, "x")
    async with worker(config, ready=False) as child:
        assert await child.exit_code() == -signal.SIGKILL
    async with worker(config) as child:
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
        assert ran_nothing(child)
    assert status.state == "failed"
    assert "lost" in error(status)
    assert len(runs(tmp_path)) == 1
    assert (await counts(coordinator))["AGENT_RESULTS"] == 1


async def test_a_task_released_by_a_worker_that_stops_has_not_used_an_attempt(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = config_for(
        tmp_path, server, bad="exec sleep 1000", good=2, max_attempts=1, retry_on=["exit:3"], drain_timeout_seconds=0
    )
    task_id = await publish(coordinator, "x")
    for number in (1, 2, 3):
        async with worker(config) as child:
            await eventually(lambda number=number: len(runs(tmp_path)) == number, f"run {number}")
            child.terminate()
            assert await child.exit_code() == 0
    found = await entry_of(coordinator, task_id)
    assert (found.entry.state, found.entry.attempt) == ("queued", 0)
    assert {attempt for attempt, _ in runs(tmp_path)} == {1}


# -- a new task for an old one ----------------------------------------------------------------------------------


async def retried(server: NatsServer, task_id: str, *args: str) -> dict[str, Any]:
    ran = await run_cli("task", "retry", task_id, *args, "--nats-url", server.url)
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


@pytest.mark.parametrize("content", ["exit:3", "say:done"])
async def test_a_retry_publishes_a_settled_task_under_a_new_id_that_refers_to_the_old_one(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, content: str
):
    async with worker(worker_toml(tmp_path, server.url)):
        old = await outcome(coordinator, content, sender="boss", reply_to="clerk")
        task = await retried(server, old.task_id)
        new = await settled(coordinator, task["id"])
        await acknowledged(coordinator)
    assert old.result is not None
    assert new.result is not None
    assert task["id"] != old.task_id
    assert task["retry_of"] == old.task_id
    kept = ("from", "to", "reply_to", "type", "task_type", "payload")
    assert {key: task[key] for key in kept} == {key: old.result.task[key] for key in kept}
    assert new.state == old.state
    assert new.result.task == task
    assert (await coordinator.task(old.task_id).status()).record.revision == old.record.revision
    assert len(await coordinator.results(newest=9, agent="clerk")) == 2


async def test_a_task_that_has_no_result_yet_cannot_be_retried(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    queued = await publish(coordinator, "say:x")
    ran = await run_cli("task", "retry", queued, "--nats-url", server.url)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == f"error: the task {queued} is queued; only a task that has its result can be retried\n"
    async with worker(worker_toml(tmp_path, server.url)):
        await settled(coordinator, queued)
        running = await publish(coordinator, f"touch:{tmp_path}/ran sleep:1000")
        await eventually((tmp_path / "ran").exists, "it runs")
        with pytest.raises(AgentBusError, match="is working"):
            await coordinator.task(running).retry()
        await coordinator.task(running).cancel()
        await settled(coordinator, running)


async def test_an_unknown_task_cannot_be_retried(server: NatsServer, coordinator: Coordinator):
    with pytest.raises(TaskNotFoundError):
        await coordinator.task("task-never").retry()
    ran = await run_cli("task", "retry", "task-never", "--nats-url", server.url)
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)


async def test_a_failure_whose_text_mentions_an_expiry_can_be_retried(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(worker_toml(tmp_path, server.url)):
        old = await outcome(coordinator, "stderr:the_token_has_expired exit:1")
        assert "the token has expired" in error(old)
        again = await coordinator.task(old.task_id).retry()
        assert again.message.to_json()["retry_of"] == old.task_id


async def test_a_task_without_a_payload_can_be_retried(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    foreign = {"id": "bare.1", "from": "main", "to": "code", "type": "task.request", "task_type": "x"}
    await coordinator.bus.store("agent.code.tasks", encode(foreign))
    async with worker(worker_toml(tmp_path, server.url)):
        await acknowledged(coordinator)
        again = await coordinator.task("bare.1").retry()
        assert (await settled(coordinator, again.id)).state == "completed"


async def test_a_task_whose_content_its_result_does_not_hold_is_not_retried_with_a_placeholder(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    limit = coordinator.bus.max_message_bytes
    task = new_task(to="code", content="x" * (limit - 6_000), task_type="test", task_id="huge")
    await coordinator.bus.store("agent.code.tasks", encode(task.to_json()), msg_id="huge")  # agentbus would refuse it
    config = worker_toml(tmp_path, server.url, worker={"max_task_bytes": limit})
    async with worker(config):
        await acknowledged(coordinator)
    status = await coordinator.task("huge").status()
    assert status.result is not None
    assert "left out" in str(status.result.task["payload"])
    with pytest.raises(AgentBusError, match="content of the task huge is not known"):
        await coordinator.task("huge").retry()
    assert (await counts(coordinator))["AGENT_TASKS"] == 0

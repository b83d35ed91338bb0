"""Follow-ups where an agent has several workers: of one place, and of an earlier version."""

import os
import signal
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.topology import consumer_config
from agentbus.errors import CannotContinueError
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.conversations.sessions import Sessions
from support.conversing import COMMAND, conversing_worker, done, home, run_of, runs
from support.harness import eventually, worker, worker_toml
from support.jobs import agent_keys, short_lease
from support.old_version import unpack


async def short_leases(coordinator: Coordinator) -> None:
    """Have both consumers of the agent deliver again soon what a worker does not acknowledge."""
    await short_lease(coordinator)
    name = subjects.durable_of_parties("code")
    of_parties = consumer_config("code", name, of_parties=True, ack_wait_s=1.5)
    await coordinator.bus.create_consumer(subjects.TASKS_STREAM, name, of_parties)


def begun(folder: Path) -> list[str]:
    """The tasks that the agent of a place has begun."""
    return [task for task, _, what in runs(folder) if what == "begins"]


def is_free(folder: Path, session: str) -> bool:
    """Whether no worker has a session of a place."""
    [sessions] = folder.glob("state/*/code/conversations")
    lock = Sessions(sessions).take(session)
    if lock is not None:
        lock.release()
    return lock is not None


@pytest.mark.long
async def test_another_worker_of_the_place_takes_a_follow_up_while_one_is_busy(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    config, barrier = conversing_worker(tmp_path, server.url), tmp_path / "go"
    async with worker(config, env=home(tmp_path)):
        first = await coordinator.publish("code", "remember heron")
        place = run_of(await done(first))["place"]
        busy = await coordinator.publish("code", f"wait {barrier}")
        await eventually(lambda: busy.id in begun(tmp_path), "it is busy")
        async with worker(config, env=home(tmp_path)):
            taken = await done(await first.follow_up("recall"))
            assert (taken["result"], run_of(taken)["place"]) == ("heron", place)
            assert not (await busy.status()).settled
            barrier.touch()
            await done(busy)


@pytest.mark.long
async def test_another_worker_of_the_place_takes_what_one_that_hangs_was_given(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    await short_leases(coordinator)
    config = conversing_worker(tmp_path, server.url)
    async with worker(config, env=home(tmp_path)) as one, worker(config, env=home(tmp_path)):
        first = await coordinator.publish("code", "remember heron")
        session = run_of(await done(first))["session"]
        await eventually(lambda: is_free(tmp_path, session), "its worker has let go of it")
        os.kill(one.pid, signal.SIGSTOP)
        try:
            results = [await done(await first.follow_up("recall")) for _ in range(3)]
        finally:
            os.kill(one.pid, signal.SIGCONT)
    assert [answer["result"] for answer in results] == ["heron"] * 3


@pytest.mark.long
async def test_no_two_workers_of_a_place_have_a_session_at_once_also_where_the_one_that_has_it_hangs(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    await short_leases(coordinator)
    config, barrier = conversing_worker(tmp_path, server.url), tmp_path / "go"
    async with worker(config, env=home(tmp_path)) as one:
        first = await coordinator.publish("code", "remember heron")
        await done(first)
        early = await first.follow_up(f"wait {barrier}\nrecall")
        await eventually(lambda: early.id in begun(tmp_path), "it runs")
        async with worker(config, env=home(tmp_path)) as other:
            late = [await first.follow_up("recall") for _ in range(3)]
            new = await done(await coordinator.publish("code", "remember otter"))
            assert new["status"] == "completed", "new tasks go on beside it"
            os.kill(one.pid, signal.SIGSTOP)
            try:
                lease_is_over = await done(await coordinator.publish("code", "sleep 3"))
                assert lease_is_over["status"] == "completed"
                assert begun(tmp_path).count(early.id) == 1, "its lease is over, and its session is not free"
                assert not set(begun(tmp_path)) & {task.id for task in late}
            finally:
                os.kill(one.pid, signal.SIGCONT)
            barrier.touch()
            results = [await done(task) for task in (early, *late)]
            assert not other.said("Traceback")
    assert [answer["result"] for answer in results] == ["heron"] * 4
    of_session = [what for _, session, what in runs(tmp_path) if session == run_of(results[0])["session"]]
    assert of_session == ["begins", "ends"] * 5, "two runs had the session at once"


@pytest.mark.long
async def test_a_worker_of_an_earlier_version_takes_new_tasks_and_never_a_follow_up(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    old, new, barrier = tmp_path / "old", tmp_path / "new", tmp_path / "go"
    (old / "home").mkdir(parents=True)
    earlier = agent_keys(worker_toml(old, server.url, chat_cmd=COMMAND), prompt_via="stdin")
    version = unpack(tmp_path / "packages").env
    async with worker(conversing_worker(new, server.url), env=home(new)):
        first = await coordinator.publish("code", "remember heron")
        await done(first)
        busy = await coordinator.publish("code", f"wait {barrier}")
        await eventually(lambda: busy.id in begun(new), "the newer worker is busy")
        async with worker(earlier, env={**home(old), **version}):
            follow_ups = [await first.follow_up("recall") for _ in range(5)]
            tasks = [await coordinator.publish("code", "remember otter") for _ in range(5)]
            assert [(await done(task))["status"] for task in tasks] == ["completed"] * 5
            assert [(await task.status()).state for task in follow_ups] == ["queued"] * 5
            barrier.touch()
            assert [(await done(task))["result"] for task in follow_ups] == ["heron"] * 5
    assert set(begun(old)) == {task.id for task in tasks}
    left = await first.follow_up("recall")
    async with worker(earlier, env={**home(old), **version}):
        await done(await coordinator.publish("code", "remember otter"))
        assert (await left.status()).state == "queued", "no living worker knows of it"
        with pytest.raises(CannotContinueError, match="they are of an earlier version"):
            await first.follow_up("recall")
    assert left.id not in begun(old)

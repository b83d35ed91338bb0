"""Tasks whose run was ended from outside: where their session is they go on in it, elsewhere they begin anew."""

from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.conversations.sessions import Sessions
from support.conversing import conversing_worker, done, home, records, run_of, runs
from support.harness import alive, eventually, worker
from support.jobs import gone, pid_from, short_lease
from support.supervised import kill_with_supervisors

INTERRUPTED = "You have begun this task before, in this conversation"


@pytest.fixture
async def soon(coordinator: Coordinator) -> Coordinator:
    """A bus whose leases run out after 1.5 seconds."""
    await short_lease(coordinator)
    return coordinator


def sessions_of(folder: Path) -> list[str]:
    """The session of each run that a place has begun."""
    return [session for _, session, what in runs(folder) if what == "begins"]


async def begun(folder: Path, count: int = 1) -> None:
    """Wait until the agent of a place has begun so many runs, and its worker has noted the session of the last one."""
    await eventually(lambda: len(sessions_of(folder)) == count, f"{count} runs have begun")
    await eventually(lambda: any(one["id"] == sessions_of(folder)[-1] for one in records(folder)), "it is noted")


async def test_a_task_whose_worker_was_killed_goes_on_in_its_session_once_its_processes_are_ended(
    soon: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    config, barrier = conversing_worker(tmp_path, server.url, workdir=str(tmp_path / "work")), tmp_path / "go"
    async with worker(config, env=home(tmp_path)) as first:
        task = await soon.publish("code", f"remember heron\nleave {tmp_path / 'left'}\nwait {barrier}\nrecall\nprompt")
        left = await pid_from(tmp_path / "left")
        await begun(tmp_path)
        async with worker(config, env=home(tmp_path)) as second:  # of the same place, and it lives already
            kill_with_supervisors(first)
            assert alive(left)
            await second.until_said("ending 2 processes of an earlier run")
            await second.until_said("goes on in the session of its last run, which was interrupted")
            barrier.touch()
            result = await done(task)
    assert (result["status"], result["attempt"], run_of(result)["resumed"]) == ("completed", 2, True)
    assert INTERRUPTED in result["result"]
    assert "The task, as JSON:" in result["result"], "no one knows whether the agent had kept the prompt"
    assert sessions_of(tmp_path) == [run_of(result)["session"]] * 2
    assert "cost_usd" not in run_of(result), "what the killed run cost is not known"
    await gone(left)
    [record] = records(tmp_path)
    assert Path(record["folder"]) == tmp_path / "work" / task.id
    assert not list(tmp_path.glob("state/*/code/conversations/*.task"))


@pytest.mark.long
async def test_it_begins_anew_elsewhere_and_says_so(soon: Coordinator, server: NatsServer, tmp_path: Path) -> None:
    a, b, barrier = tmp_path / "a", tmp_path / "b", tmp_path / "go"
    async with worker(conversing_worker(a, server.url), env=home(a)) as first:
        task = await soon.publish("code", f"remember heron\nwait {barrier}\nrecall")
        await begun(a)
        kill_with_supervisors(first)
        barrier.touch()
        async with worker(conversing_worker(b, server.url), env=home(b)) as second:
            result = await done(task)
            assert second.said("begins anew: its last run has left no session here")
    assert (result["result"], result["attempt"], run_of(result)["resumed"]) == ("heron", 2, False)
    assert sessions_of(b) == [run_of(result)["session"]]


@pytest.mark.long
async def test_without_lost_in_retry_on_a_session_does_not_go_on_either(
    soon: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    config = conversing_worker(tmp_path, server.url, retry_on=["timeout"])
    async with worker(config, env=home(tmp_path)) as first:
        task = await soon.publish("code", f"wait {tmp_path / 'never'}")
        await begun(tmp_path)
        kill_with_supervisors(first)
    async with worker(config, env=home(tmp_path)):
        result = await done(task)
    assert (result["status"], result["failure"]["code"]) == ("failed", "lost")
    assert len(sessions_of(tmp_path)) == 1


async def test_a_run_that_is_ended_by_its_time_out_goes_on_in_its_session_where_retry_on_repeats_it(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    barrier = tmp_path / "go"
    more: dict[str, Any] = {"retry_on": ["timeout"], "task_timeout_seconds": 1, "retry_backoff_seconds": 0}
    async with worker(conversing_worker(tmp_path, server.url, **more), env=home(tmp_path)):
        task = await coordinator.publish("code", f"remember heron\nwait {barrier}\nremember otter\nrecall")
        await begun(tmp_path, 2)
        barrier.touch()
        result = await done(task)
        follow_up = await done(await task.follow_up("recall"))
    assert (result["status"], result["attempt"], run_of(result)["resumed"]) == ("completed", 2, True)
    assert result["result"].startswith("heron ")
    assert len(set(sessions_of(tmp_path))) == 1
    assert follow_up["result"] == result["result"]
    assert run_of(follow_up)["cost_usd"] == 0.25, "the last run has told the total of the session"


async def test_a_task_that_is_released_goes_on_in_its_session(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    """A worker that is stopped ends its run before the end; that attempt does not count."""
    barrier = tmp_path / "go"
    config = conversing_worker(
        tmp_path, server.url, drain_timeout_seconds=0, workdir=str(tmp_path / "work"), keep_workdir=False
    )
    async with worker(config, env=home(tmp_path)) as first:
        task = await coordinator.publish("code", f"remember heron\nwait {barrier}\nrecall")
        await begun(tmp_path)
        async with worker(config, env=home(tmp_path)):
            first.terminate()
            await begun(tmp_path, 2)
            barrier.touch()
            result = await done(task)
    assert (result["result"], result["attempt"], run_of(result)["resumed"]) == ("heron heron", 1, True)
    assert len(set(sessions_of(tmp_path))) == 1


@pytest.mark.long
async def test_a_session_that_the_agent_has_not_kept_begins_anew(
    soon: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    config, barrier = conversing_worker(tmp_path, server.url), tmp_path / "go"
    async with worker(config, env=home(tmp_path)) as first:
        task = await soon.publish("code", f"remember heron\nwait {barrier}\nrecall")
        await begun(tmp_path)
        kill_with_supervisors(first)
    (tmp_path / "home" / "sessions" / f"{sessions_of(tmp_path)[0]}.json").unlink()
    async with worker(config, env=home(tmp_path)) as second:
        await second.until_said("begins anew: ")
        barrier.touch()
        result = await done(task)
    assert (result["result"], result["attempt"], run_of(result)["resumed"]) == ("heron", 2, False)


@pytest.mark.long
async def test_a_session_that_another_process_still_has_begins_anew(
    soon: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    """A worker that hangs has lost its task, and never lets go of the session."""
    config, barrier = conversing_worker(tmp_path, server.url), tmp_path / "go"
    async with worker(config, env=home(tmp_path)) as first:
        task = await soon.publish("code", f"remember heron\nwait {barrier}\nrecall")
        await begun(tmp_path)
        kill_with_supervisors(first)
    [folder] = tmp_path.glob("state/*/code/conversations")
    barrier.touch()
    lock = Sessions(folder).take(sessions_of(tmp_path)[0])
    assert lock is not None
    with lock:
        async with worker(config, env=home(tmp_path)) as second:
            result = await done(task)
            assert second.said("begins anew: another process has the session of its last run")
    assert run_of(result)["resumed"] is False


@pytest.mark.long
@pytest.mark.parametrize("output", ["codex", "qwen"])
async def test_a_format_that_was_not_seen_to_resume_a_killed_session_begins_anew(
    soon: Coordinator, server: NatsServer, tmp_path: Path, output: str
) -> None:
    config, barrier = conversing_worker(tmp_path, server.url, agent={"output": output}), tmp_path / "go"
    async with worker(config, env=home(tmp_path)) as first:
        task = await soon.publish("code", f"remember heron\nwait {barrier}\nrecall")
        await eventually(lambda: sessions_of(tmp_path), "it runs")
        kill_with_supervisors(first)
    barrier.touch()
    async with worker(config, env=home(tmp_path)):
        await done(task)
    assert len(set(sessions_of(tmp_path))) == 2


async def test_another_failure_that_is_repeated_begins_anew(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"retry_on": ["exit:3"], "retry_backoff_seconds": 0, "max_attempts": 2}
    async with worker(conversing_worker(tmp_path, server.url, **more), env=home(tmp_path)):
        result = await done(await coordinator.publish("code", "remember heron\nexit 3"))
    assert (result["status"], result["attempt"], run_of(result)["resumed"]) == ("failed", 2, False)
    assert len(set(sessions_of(tmp_path))) == 2

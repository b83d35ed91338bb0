"""Tasks that go on with the conversation of an earlier one, with real workers and an agent that keeps sessions."""

import json
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.topology import consumer_config
from agentbus.errors import CannotContinueError
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.follow_ups import NewFollowUp, publish_follow_up
from support.conversing import conversing_worker, done, forget_place, home, records, run_of, runs
from support.harness import alive, eventually, run_cli, worker, worker_toml
from support.jobs import acknowledged, gone, pid_from, short_lease
from support.mcp_harness import data_of, error_of, in_memory
from support.supervised import kill_with_supervisors


async def delivered_again(coordinator: Coordinator) -> bool:
    """Whether a task of the second form was delivered more than once."""
    info = await coordinator.bus.api(f"CONSUMER.INFO.{subjects.TASKS_STREAM}.{subjects.durable_of_parties('code')}")
    return int(info["num_redelivered"]) > 0


async def test_a_follow_up_knows_what_only_the_first_task_said_and_costs_what_it_cost(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    config = conversing_worker(tmp_path, server.url, workdir=str(tmp_path / "work"), keep_workdir=False)
    async with worker(config, env=home(tmp_path)):
        first = await coordinator.publish("code", "remember heron")
        told = await done(first)
        second = await first.follow_up("recall")
        answered = await done(second)
        third = await done(await second.follow_up("remember otter\nrecall"))
    assert answered["status"] == "completed"
    assert answered["result"] == "heron"
    assert third["result"] == "heron otter"
    before, after = run_of(told), run_of(answered)
    assert after["session"] == before["session"]
    assert after["place"] == before["place"]
    assert after["resumed"] is True
    assert "resumed" not in before
    assert [run_of(one)["cost_usd"] for one in (told, answered, third)] == [0.25] * 3
    [record] = records(tmp_path)
    assert (record["owner"], record["task"]) == ("main", third["task"]["id"])
    assert Path(record["folder"]) == tmp_path / "work" / first.id
    assert Path(record["folder"]).is_dir()
    status = await second.status()
    assert status.continues == f"code/{first.id}"
    await acknowledged(coordinator)


async def test_each_follow_up_runs_in_the_place_that_has_its_session(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    places = [tmp_path / name for name in ("a", "b")]
    configs = [conversing_worker(place, server.url) for place in places]
    async with worker(configs[0], env=home(places[0])):
        of_a = await coordinator.publish("code", "remember ash")
        first_a = await done(of_a)
        async with worker(configs[1], env=home(places[1])):
            barrier = tmp_path / "go"
            busy = await coordinator.publish("code", f"wait {barrier}")
            await eventually(lambda: any(runs(place)[-1:][0][0] == busy.id for place in places if runs(place)), "busy")
            of_b = await coordinator.publish("code", "remember birch")
            first_b = await done(of_b)
            barrier.touch()
            await done(busy)
            follow_ups = [await one.follow_up("recall") for one in (of_a, of_b, of_a, of_b)]
            results = [await done(one) for one in follow_ups]
    assert [one["result"] for one in results] == ["ash", "birch", "ash", "birch"]
    assert [run_of(one)["place"] for one in results] == [run_of(one)["place"] for one in (first_a, first_b)] * 2


@pytest.mark.long
async def test_a_place_that_is_gone_is_waited_for_and_then_the_session_is_gone_or_a_new_one_begins(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    async with worker(conversing_worker(a, server.url), env=home(a)):
        first = await coordinator.publish("code", "remember heron\nrecall")
        place = run_of(await done(first))["place"]
    other = conversing_worker(b, server.url, continue_wait_seconds=0)
    async with worker(other, env=home(b)):
        follow_up = await first.follow_up("recall", task_id="alive")
        await eventually(lambda: delivered_again(coordinator), "it was handed back")
        assert (await follow_up.status()).state == "queued", "its place may still be alive"
        await forget_place(coordinator.bus, place)
        failed = await done(follow_up)
        assert failed["failure"]["code"] == "session_gone"
        assert "no worker has been alive" in failed["error"]
        fresh = await done(await first.follow_up("prompt", fresh=True))
        assert run_of(fresh)["resumed"] is False
        assert run_of(fresh)["place"] != place
        assert "remember heron" in fresh["result"]
        assert "What came of it (completed):\nheron" in fresh["result"]
    async with worker(conversing_worker(a, server.url), env=home(a)):
        assert (await done(await first.follow_up("recall")))["result"] == "heron"


async def test_a_session_that_the_agent_no_longer_has_is_gone_at_once(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    async with worker(conversing_worker(tmp_path, server.url), env=home(tmp_path)):
        first, second = [await coordinator.publish("code", "remember heron") for _ in range(2)]
        sessions = [run_of(await done(task))["session"] for task in (first, second)]
        for session in sessions:
            (tmp_path / "home" / "sessions" / f"{session}.json").unlink()
        failed = await done(await first.follow_up("recall"))
        assert failed["failure"]["code"] == "session_gone"
        assert "no longer has the session" in failed["error"]
        again = await done(await first.follow_up("recall"))
        assert again["failure"]["code"] == "session_gone"
        assert "no longer keeps" in again["error"]
        fresh = await done(await second.follow_up("recall", fresh=True))
        assert (fresh["status"], fresh["result"], run_of(fresh)["resumed"]) == ("completed", "nothing", False)
        assert fresh["attempt"] == 1


async def test_follow_ups_to_one_task_run_one_after_the_other_and_wait_for_its_end(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    barrier = tmp_path / "go"
    async with worker(conversing_worker(tmp_path, server.url, concurrency=3), env=home(tmp_path)):
        first = await coordinator.publish("code", f"wait {barrier}\nremember heron")
        await eventually(lambda: runs(tmp_path), "the first task runs")
        early = await first.follow_up("recall\nsleep 0.2")
        late = await first.follow_up("recall\nsleep 0.2")
        barrier.touch()
        results = [await done(one) for one in (early, late)]
    assert [one["result"] for one in results] == ["heron", "heron"]
    noted = [(task, what) for task, _, what in runs(tmp_path)]
    assert [what for _, what in noted] == ["begins", "ends"] * 3, "two runs had the session at once"
    assert noted[0][0] == first.id


async def test_what_a_killed_worker_has_left_is_ended_before_its_session_goes_on(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    await short_lease(coordinator)
    name = subjects.durable_of_parties("code")
    of_parties = consumer_config("code", name, of_parties=True, ack_wait_s=1.5)
    await coordinator.bus.create_consumer(subjects.TASKS_STREAM, name, of_parties)
    config, barrier = conversing_worker(tmp_path, server.url), tmp_path / "go"
    async with worker(config, env=home(tmp_path)) as first_worker:
        first = await coordinator.publish("code", "remember heron")
        await done(first)
        follow_up = await first.follow_up(f"leave {tmp_path / 'left'}\nwait {barrier}\nrecall\nprompt")
        left = await pid_from(tmp_path / "left")
        async with worker(config, env=home(tmp_path)) as second_worker:  # of the same place, and it lives already
            kill_with_supervisors(first_worker)
            assert alive(left)
            await second_worker.until_said("ending 2 processes of an earlier run")
            barrier.touch()
            result = await done(follow_up)
    assert (result["status"], result["attempt"], run_of(result)["resumed"]) == ("completed", 2, True)
    assert "that run was ended before you were done" in result["result"]
    assert "cost_usd" not in run_of(result), "it would hold what the killed run cost"
    await gone(left)


async def test_what_cannot_go_on_is_refused_with_the_reason(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    (tmp_path / "plain").mkdir()
    plain = worker_toml(tmp_path / "plain", server.url)
    async with worker(plain):
        task = await coordinator.publish("code", "hello")
        await done(task)
        with pytest.raises(CannotContinueError, match="has left no session"):
            await task.follow_up("more")
        waiting = await coordinator.publish("doc", "hello")
        status = await waiting.status()
        with pytest.raises(CannotContinueError, match="only that can go on with it, not"):
            await publish_follow_up(coordinator.bus, status, NewFollowUp("x", to="code"), "main")
        unrun = await coordinator.publish("code", "hello")
        with pytest.raises(CannotContinueError, match="no living worker of the agent code can go on"):
            await unrun.follow_up("more")
    alice = Coordinator(coordinator.bus, "alice")
    with pytest.raises(CannotContinueError, match="only its owner and main"):
        await alice.task(waiting.id, owner="main").follow_up("more")


async def test_a_follow_up_of_a_cancelled_task_says_that_there_is_no_session(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    first = await coordinator.publish("code", "remember heron")
    lost, fresh = await first.follow_up("recall"), await first.follow_up("recall", fresh=True)
    cancelled = await first.follow_up("recall")
    await first.cancel("no longer needed")
    await cancelled.cancel()
    async with worker(conversing_worker(tmp_path, server.url), env=home(tmp_path)):
        assert (await done(first))["status"] == "cancelled"
        failed = await done(lost)
        assert failed["failure"]["code"] == "session_gone"
        assert "has left no session" in failed["error"]
        assert run_of(await done(fresh))["resumed"] is False
        assert (await done(cancelled))["status"] == "cancelled"
        await acknowledged(coordinator)


async def test_the_command_line_and_the_mcp_server_publish_follow_ups_and_show_the_conversation(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    at = ("--nats-url", server.url)
    async with worker(conversing_worker(tmp_path, server.url), env=home(tmp_path)):
        await done(await coordinator.publish("code", "remember heron", task_id="first"))
        ran = await run_cli("task", "publish", "--continue", "first", "--task-id", "second", "recall", *at)
        assert ran.code == 0, ran.err
        published = json.loads(ran.out)
        assert (published["to"], published["task_type"], published["needs"]) == ("agent-code", "task", ["continue"])
        assert (await done(coordinator.task("second")))["result"] == "heron"
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared" / "note").write_text("otter", encoding="utf-8")
        async with in_memory(server.url, folders=[tmp_path / "shared"]) as client:
            job = {"to": ["code"], "content": "recall\nbrought note", "task_type": "recall", "watch": True}
            brings = {"continue_task": "code/second", "files": [str(tmp_path / "shared" / "note")]}
            answer = data_of(await client.call_tool("publish_task", {**job, **brings}))
            assert [one["output"] for one in answer["results"]] == ["heron otter"]
            third = answer["results"][0]["task_id"]
            listed = data_of(await client.call_tool("list_tasks", {}))["tasks"]
            assert {one["task_id"]: one.get("continues") for one in listed} == {
                "first": None, "second": "code/first", third: "code/second",
            }  # fmt: skip
            refused = await client.call_tool("publish_task", {**job, "to": ["doc"], "continue_task": "second"})
            assert "only that can go on with it, not doc" in error_of(refused)
    shown = json.loads((await run_cli("task", "get", third, *at)).out)
    assert (shown["continues"], shown["conversation"]) == (
        "code/second",
        ["code/first", "code/second", f"code/{third}"],
    )
    for wrong in (("--fresh", "--to", "code", "--task-type", "x", "y"), ("--continue", "first", "--lines")):
        assert (await run_cli("task", "publish", *wrong, *at)).code == 2
    again = await run_cli("task", "publish", "--continue", "first", "--task-id", "second", "recall", *at)
    assert again.code == 0
    assert "was published before" in again.err

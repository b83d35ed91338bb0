"""Dead letters through the administrator's commands: shown, requeued, or dropped."""

import hashlib
import json
from pathlib import Path
from typing import Any

from agentbus import Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.messages import new_task
from agentbus.provision.nats_server import NatsServer, run_server
from support.harness import Ran, eventually, run_cli, worker, worker_toml
from support.jobs import acknowledged, counts, outcome, publish, result_messages, settled, text


async def dead(url: str, *args: str) -> Ran:
    return await run_cli("dead", *args, "--nats-url", url)


def lines(ran: Ran) -> list[dict[str, Any]]:
    assert ran.code == 0, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


async def dead_letters_stored(bus: Coordinator, count: int = 1) -> None:
    async def there() -> bool:
        return (await counts(bus))[subjects.DEAD_STREAM] == count

    await eventually(there, f"{count} dead letters")


async def test_the_list_has_the_newest_with_reason_time_worker_and_size(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    for number in range(4):
        await coordinator.bus.store("agent.code.tasks", b"not json %d" % number, msg_id=str(number))
    await coordinator.bus.store(subjects.dead("doc"), b"another's", headers={"Bus-Reason": "why not"})
    async with worker(worker_toml(tmp_path, server.url)) as child:
        await dead_letters_stored(coordinator, 5)
        await acknowledged(coordinator)
        told = "was kept as a dead letter: not JSON"
        await eventually(lambda: child.log.read_text(encoding="utf-8").count(told) == 4, "the log tells of all")
    listed = lines(await dead(server.url, "list", "--agent", "code", "--limit", "3"))
    assert [one["origin"] for one in listed] == ["AGENT_TASKS.2", "AGENT_TASKS.3", "AGENT_TASKS.4"]
    newest = listed[-1]
    assert newest["agent"] == "code"
    assert newest["reason"].startswith("not JSON")
    assert newest["worker"]
    assert newest["buried_at"].startswith("20")
    assert (newest["bytes"], newest["kept"]) == (10, 10)
    assert newest["sha256"] == hashlib.sha256(b"not json 3").hexdigest()
    assert "data" not in newest
    assert len(lines(await dead(server.url, "list"))) == 5
    shown = [one["data"] for one in lines(await dead(server.url, "show", "2", "3"))]
    assert shown == ["not json 0", "not json 1"]


async def test_without_dead_letters_the_list_is_empty_and_a_wrong_number_is_an_error(
    server: NatsServer, coordinator: Coordinator
):
    assert lines(await dead(server.url, "list")) == []
    for command in ("show", "requeue", "drop"):
        ran = await dead(server.url, command, "7")
        assert (ran.code, ran.out, ran.err) == (1, "", "error: there is no dead letter 7\n")


async def test_a_foreign_task_that_was_too_large_for_the_worker_runs_once_after_the_limit_is_raised(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    ran = tmp_path / "ran"
    task = new_task(to="code", content=f"touch:{ran} say:done " + "x" * 5000, task_type="test")
    await coordinator.bus.store("agent.code.tasks", encode(task.to_json()))
    async with worker(worker_toml(tmp_path, server.url, worker={"max_task_bytes": 4096})):
        await dead_letters_stored(coordinator)
        await acknowledged(coordinator)
    [letter] = lines(await dead(server.url, "list"))
    assert letter["reason"].startswith("too large")
    [told] = await result_messages(coordinator)
    assert (told["status"], told["task"]["id"]) == ("failed", task.id)
    async with worker(worker_toml(tmp_path, server.url)):
        assert lines(await dead(server.url, "requeue", str(letter["seq"]))) == [
            {"seq": letter["seq"], "requeued_for": "code"}
        ]
        await acknowledged(coordinator)
        assert text(await settled(coordinator, task.id)).startswith("done\n")
    assert ran.read_text(encoding="utf-8") == "ran\n"
    assert lines(await dead(server.url, "list")) == []
    assert (await counts(coordinator))["AGENT_DEAD"] == 0


async def test_a_published_task_that_was_refused_has_its_result_and_is_sent_again_by_a_retry(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    ran = tmp_path / "ran"
    async with worker(worker_toml(tmp_path, server.url, worker={"max_task_bytes": 4096})):
        status = await outcome(coordinator, f"touch:{ran} say:done " + "x" * 5000)
        assert status.state == "failed"
        await acknowledged(coordinator)
    refused = await dead(server.url, "requeue", "1")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        f"error: the dead letter 1 is the task {status.task_id}, which has its result (failed); "
        f"publish it anew with: agentbus task retry code/{status.task_id}\n"
    )
    assert (await counts(coordinator))["AGENT_DEAD"] == 1
    async with worker(worker_toml(tmp_path, server.url)):
        again = await run_cli("task", "retry", status.task_id, "--agent", "code", "--nats-url", server.url)
        assert again.code == 0, again.err
        assert (await settled(coordinator, json.loads(again.out)["id"])).state == "completed"
    assert ran.read_text(encoding="utf-8") == "ran\n"
    assert lines(await dead(server.url, "drop", "1")) == [{"seq": 1, "dropped": True}]
    assert (await counts(coordinator))["AGENT_DEAD"] == 0


async def test_requeueing_says_once_for_each_agent_that_no_worker_of_it_is_alive(
    server: NatsServer, coordinator: Coordinator
):
    for number, agent in enumerate(["code", "doc", "code"]):
        task = new_task(to=agent, content="say:done", task_type="test", task_id=f"job-{number}")
        await coordinator.bus.store(subjects.dead(agent), encode(task.to_json()))
    ran = await dead(server.url, "requeue", "1", "2", "3")
    assert [one["requeued_for"] for one in lines(ran)] == ["code", "doc", "code"]
    assert ran.err.splitlines() == [
        f"no worker of the agent {agent} is alive now; the task waits for one, for up to 7 days"
        for agent in ("code", "doc")
    ]


async def test_requeueing_a_copy_of_a_queued_task_does_not_run_it_twice(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    ran = tmp_path / "ran"
    task_id = await publish(coordinator, f"touch:{ran} say:done")
    message = await coordinator.bus.last_message("AGENT_TASKS", "agent.code.tasks")
    assert message is not None
    await coordinator.bus.store(subjects.dead("code"), message.data, headers={"Bus-Origin": "AGENT_TASKS.1"})
    assert len(lines(await dead(server.url, "requeue", "1"))) == 1
    async with worker(worker_toml(tmp_path, server.url)):
        assert (await settled(coordinator, task_id)).state == "completed"
        await acknowledged(coordinator)
    assert ran.read_text(encoding="utf-8") == "ran\n"
    assert len(await result_messages(coordinator)) == 1


async def test_a_large_dead_letter_is_cut_with_the_size_and_digest_of_the_whole_message(tmp_path: Path):
    """A message as long as the bus takes: with the reason and the rest beside it, it fits no more."""
    conf = tmp_path / "small.conf"
    conf.write_text(
        f'listen: "127.0.0.1:-1"\nmax_payload: 100KB\njetstream {{ store_dir: "{tmp_path / "s"}" }}\n', encoding="utf-8"
    )
    data = b"not json " + b"x" * 99_000
    async with run_server(store=tmp_path / "s", config=conf) as server, connect(server.url) as bus:
        await set_up(bus.bus)
        await bus.bus.store("agent.code.tasks", data)
        async with worker(worker_toml(tmp_path, server.url)):
            await dead_letters_stored(bus)
            await acknowledged(bus)
        [letter] = lines(await dead(server.url, "show", "1"))
        assert letter["bytes"] == len(data)
        assert letter["sha256"] == hashlib.sha256(data).hexdigest()
        assert letter["kept"] == len(letter["data"]) < len(data)
        assert data.decode().startswith(letter["data"])
        refused = await dead(server.url, "requeue", "1")
        assert (refused.code, refused.out) == (1, "")
        kept = f"{letter['kept']} of {len(data)} bytes were stored"
        assert refused.err == f"error: the dead letter 1 cannot be requeued: {kept}\n"
        assert (await counts(bus))["AGENT_DEAD"] == 1

"""Answers to tasks that stopped to ask: what the agent is told, once and only once."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator, Task, TaskStatus
from agentbus.errors import AgentBusError, TaskConflictError, TaskNotFoundError
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.approvals import follow_up
from support.harness import run_cli, worker, worker_toml
from support.jobs import ASKS_UNLESS_ANSWERED, settled, text
from support.mcp_harness import data_of, in_memory, settle

QUESTION = "status=needs_approval\nmay I delete the branch release/1.0?\n"


async def ask(
    bus: Coordinator, task_id: str, content: Any = "clean up", *, output: str = QUESTION, **more: Any
) -> Task:
    """Publish a task that its agent answers with a request."""
    task = await bus.publish("code", content, task_type="clean_up", task_id=task_id, **more)
    await settle(bus, task_id, output, status="needs_approval", task=task.message)
    return task.message


async def told(bus: Coordinator) -> dict[str, Any]:
    """The last task that lies in the backlog."""
    message = await bus.bus.last_message("AGENT_TASKS", "agent.code.tasks")
    assert message is not None
    return json.loads(message.data)


@pytest.mark.parametrize(("approve", "decision"), [(True, "approved"), (False, "denied")])
async def test_the_agent_gets_the_decision_the_question_and_the_task_again(
    coordinator: Coordinator, approve: bool, decision: str
) -> None:
    await ask(coordinator, "a", {"repo": "org/repo"}, payload_format="json", reply_to="ops")
    sent = await coordinator.task("a").answer(approve=approve, comment="only that branch")
    assert (sent.id, sent.known, sent.state_at_publish) == ("a.answer", False, "queued")
    task = await told(coordinator)
    assert (task["id"], task["answers"], task["task_type"]) == ("a.answer", "a", "clean_up")
    assert (task["from"], task["to"], task["reply_to"]) == ("agent-main", "agent-code", "agent-ops")
    content = task["payload"]["content"]
    assert (content["decision"], content["comment"], content["question"]) == (decision, "only that branch", QUESTION)
    assert content["original"] == {"fmt": "json", "content": {"repo": "org/repo"}}
    assert decision in content["instruction"]


async def test_the_same_answer_again_is_harmless_and_another_one_is_refused(coordinator: Coordinator) -> None:
    await ask(coordinator, "a")
    await coordinator.task("a").answer(approve=True, comment="go on")
    again = await coordinator.task("a").answer(approve=True, comment="go on")
    assert (again.known, again.state_at_publish) == (True, "queued")
    for approve, comment in ((False, "go on"), (True, "stop")):
        with pytest.raises(
            TaskConflictError, match=r"the task a was answered before, with another decision .* a\.answer"
        ):
            await coordinator.task("a").answer(approve=approve, comment=comment)
    assert (await told(coordinator))["payload"]["content"]["decision"] == "approved"


async def test_who_answers_is_told_that_no_worker_is_alive_where_the_session_is(
    coordinator: Coordinator, server: NatsServer
) -> None:
    run: Any = {"format": "claude", "session": "s1", "place": "0123456789abcdef-01234567"}
    for task_id in ("a", "b", "c"):
        task = (await coordinator.publish("code", "clean up", task_type="clean_up", task_id=task_id)).message
        await settle(coordinator, task_id, QUESTION, status="needs_approval", task=task, extra={"run": run})
    note = (await coordinator.task("a").answer(approve=True)).note
    assert note is not None
    assert note.startswith("no worker is alive where the session of a is")
    assert note.endswith("then a new session gets the earlier task and its result")
    ran = await run_cli("question", "answer", "code/b", "--deny", "--nats-url", server.url)
    assert (ran.code, ran.err.splitlines()) == (0, [note.replace("session of a", "session of b")])
    async with in_memory(server.url) as client:
        answered = data_of(await client.call_tool("answer_approval", {"task_id": "code/c", "approve": True}))
    assert answered["note"] == note.replace("session of a", "session of c")


async def test_only_a_task_that_asks_can_be_answered(coordinator: Coordinator) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    with pytest.raises(AgentBusError, match="the task a is queued; only a task whose result is needs_approval"):
        await coordinator.task("a").answer(approve=True)
    await settle(coordinator, "a")
    with pytest.raises(AgentBusError, match="the task a is completed; only"):
        await coordinator.task("a").answer(approve=True)
    with pytest.raises(TaskNotFoundError):
        await coordinator.task("b").answer(approve=True)


async def test_a_task_whose_content_is_lost_cannot_be_answered(coordinator: Coordinator) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    await settle(coordinator, "a", QUESTION, status="needs_approval")  # its result embeds another task
    with pytest.raises(AgentBusError, match="the content of the task a is not known any more"):
        await coordinator.task("a").answer(approve=True)


async def test_an_id_without_room_for_the_answer_says_what_to_do(coordinator: Coordinator) -> None:
    task_id = "x" * 122
    await ask(coordinator, task_id)
    with pytest.raises(AgentBusError, match="too long to be answered; publish a new task"):
        await coordinator.task(task_id).answer(approve=True)


async def test_of_a_long_output_the_question_is_where_it_asks(coordinator: Coordinator) -> None:
    await ask(coordinator, "a", output="ä" * 10_000 + "\n" + QUESTION)
    assert (await follow(coordinator, "a"))["question"] == QUESTION
    await ask(coordinator, "b", output=json.dumps({"status": "needs_approval", "what": "ä" * 10_000}))
    question = (await follow(coordinator, "b"))["question"]
    assert question.startswith('{"status": "needs_approval"')
    assert len(question.encode()) <= 8_192


async def follow(bus: Coordinator, task_id: str) -> dict[str, Any]:
    status: TaskStatus = await bus.task(task_id).status()
    task = follow_up(status, sender="main", approve=True, comment="")
    assert task.payload is not None
    return task.payload.content


async def test_a_worker_runs_the_answer_as_a_task_of_its_own(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    config = worker_toml(tmp_path, server.url, chat_cmd=[sys.executable, "-c", ASKS_UNLESS_ANSWERED])
    config.write_text(
        config.read_text(encoding="utf-8").replace("[agent]\n", '[agent]\nprompt_via = "stdin"\n'), encoding="utf-8"
    )
    async with worker(config):
        task = await coordinator.publish("code", "clean up", task_type="test")
        assert (await settled(coordinator, task.id)).state == "needs_approval"
        answer = ["task", "answer", task.id, "--approve", "--comment", "only that one"]
        ran = await run_cli(*answer, "--nats-url", server.url)
        assert (ran.code, ran.err) == (0, "")
        assert json.loads(ran.out)["id"] == f"{task.id}.answer"
        done = await settled(coordinator, f"{task.id}.answer")
    assert (done.state, text(done)) == ("completed", "deleted\n")
    result = done.result
    assert result is not None
    assert result.task["answers"] == task.id


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["a"], 2, "Missing option '--approve' or '--deny'."),
        (["a", "--approve"], 1, "the task a is queued; only a task whose result is needs_approval can be answered"),
        (["nope", "--deny"], 1, "no task nope is known"),
    ],
)
async def test_the_command_says_what_is_wrong(
    server: NatsServer, coordinator: Coordinator, args: list[str], code: int, said: str
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    ran = await run_cli("task", "answer", *args, "--nats-url", server.url)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err

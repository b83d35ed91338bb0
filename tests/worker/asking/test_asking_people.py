"""Questions of agents that wait for a person: a real worker, a real bus, an agent of the tests that asks."""

import asyncio
import json
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.errors import WrongRevisionError
from agentbus.protocol import subjects
from agentbus.protocol.questions.question import digest_of
from agentbus.protocol.questions.question_ids import part_of
from agentbus.protocol.questions.questions_of_entries import questions_of, state_of
from agentbus.protocol.timestamps import parse_time
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from support.acp_driver import AGENT
from support.answering import answer, chosen, record_of, waiting, write_answer
from support.harness import BOUND_S, Process, eventually, processes_with, worker, worker_toml
from support.jobs import acknowledged, agent_keys, error, publish, settled, short_lease
from support.pace import at_this_pace

LEASE_S = 1.5
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def asking(folder: Path, server: NatsServer, *does: str, **keys: Any) -> Path:
    """The configuration of a worker whose agent asks; what that is answered is in `log`."""
    words = [*AGENT, *does, "--log", str(folder / "log")]
    config = worker_toml(folder, server.url, chat_cmd=words, worker={"workdir": folder / "tasks", **keys})
    return agent_keys(config, output="acp", permissions="ask")


async def ends_by_itself(child: Process) -> None:
    async with asyncio.timeout(BOUND_S):
        assert await child.exit_code() == 0, child.log.read_text(encoding="utf-8")


async def test_a_question_is_answered_while_the_run_goes_on(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    async with worker(asking(tmp_path, server, "ask_for=git push", "ask_for=rm -r /", "say=Done.")) as child:
        task_id = await publish(coordinator, "x")
        [first] = await waiting(coordinator, task_id)
        record = await record_of(coordinator, task_id)
        assert record.headers["Bus-Questions"] == "1"
        assert (first.number, first.operation, first.arguments) == (1, "execute", {"command": "git push"})
        assert (first.text, first.folder) == ("git push", str(tmp_path / "tasks" / task_id))
        assert first.arguments_digest == digest_of({"command": "git push"})
        assert parse_time(first.until) - parse_time(first.asked_at) == timedelta(hours=1)
        assert state_of(record.entry, first) == "open"
        await answer(coordinator, task_id, first, allow=True)
        [second] = await waiting(coordinator, task_id)
        assert second.number == 2
        entry = (await record_of(coordinator, task_id)).entry
        assert [one.given for one in questions_of(entry)] == [first.nonce, None], "an answer says who has got it"
        await answer(coordinator, task_id, second, allow=False, comment="not that")
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
    assert status.state == "completed"
    assert chosen(tmp_path / "log") == [("git push", "once"), ("rm -r /", "no")]
    prompts = [line for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines() if "session/prompt" in line]
    assert ["The reason: not that" in line for line in prompts] == [False, True], (
        "the comment is told in a further turn"
    )
    assert status.record.entry.questions is None
    assert "Bus-Questions" not in status.record.headers
    with pytest.raises(WrongRevisionError):  # an answer that was on its way when the task ended
        await Ledger(coordinator.bus).write(record.key, entry, revision=record.revision)
    assert child.said(f"asks a person question={part_of(first)}")
    assert not child.said("git push"), "contents are not logged"


async def test_an_answer_of_which_no_message_tells_is_found_at_the_next_renewal(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await short_lease(coordinator, lease_s=LEASE_S)
    async with worker(asking(tmp_path, server, "ask_twice=apart")):
        task_id = await publish(coordinator, "x")
        one, other = await waiting(coordinator, task_id, 2)
        await write_answer(coordinator, task_id, other, allow=False)
        await write_answer(coordinator, task_id, one, allow=True)
        status = await settled(coordinator, task_id)
    assert status.result is not None
    assert status.result.result == "chosen: once, no", "each question has its own answer"


@pytest.mark.long
async def test_a_question_without_an_answer_is_denied_at_its_time_and_the_entry_says_so(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    wait_s = at_this_pace(1)
    async with worker(asking(tmp_path, server, "ask_for=a", "ask_for=b", question_wait_seconds=wait_s)):
        task_id = await publish(coordinator, "x")

        async def denied() -> Any:
            asked = questions_of((await record_of(coordinator, task_id)).entry)
            return asked[0] if asked and asked[0].answer is not None else None

        first = await eventually(denied, "the first question is denied")
        await settled(coordinator, task_id)
    assert (first.answer.allow, first.answer.by, first.given) == (False, "agent-code", first.nonce)
    assert first.answer.comment == f"nothing was answered within {wait_s:g} s"
    assert chosen(tmp_path / "log") == [("a", "no"), ("b", "no")]


@pytest.mark.long
async def test_more_runs_than_may_wait_are_denied_with_that_reason(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    async with worker(asking(tmp_path, server, "ask_for=a", "say=Done.", concurrency=2)) as child:
        waits = await publish(coordinator, "x")
        [question] = await waiting(coordinator, waits)
        status = await settled(coordinator, await publish(coordinator, "y"))
        assert status.state == "completed"
        assert chosen(tmp_path / "log") == [("a", "no")]
        assert child.said("a question was denied: 1 other tasks wait for a person here, and no more may")
        await answer(coordinator, waits, question, allow=True)
        assert (await settled(coordinator, waits)).state == "completed"
        later = await publish(coordinator, "z")
        [question] = await waiting(coordinator, later)
        await answer(coordinator, later, question, allow=True)
        await settled(coordinator, later)
        await acknowledged(coordinator)


@pytest.mark.long
async def test_a_run_that_waits_for_a_person_meets_no_limit_meanwhile(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    limit_s = at_this_pace(1)
    limits = {"task_timeout_seconds": 2 * limit_s, "stall_timeout_seconds": limit_s, "idle_timeout_seconds": limit_s}
    async with worker(asking(tmp_path, server, "ask_twice", "hang", **limits)):
        task_id = await publish(coordinator, "x")
        one, other = await waiting(coordinator, task_id, 2)
        await answer(coordinator, task_id, one, allow=True)
        until = asyncio.get_running_loop().time() + 2.5 * limit_s
        await eventually(lambda: asyncio.get_running_loop().time() > until, "more time than each limit has passed")
        assert (await record_of(coordinator, task_id)).entry.state == "working"
        await answer(coordinator, task_id, other, allow=True)
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
    assert status.failure is not None
    assert status.failure.code in ("stalled", "idle"), "from then on the time counts again"


async def killed(config: Path, coordinator: Coordinator, task_id: str) -> Any:
    """Kill a worker while a question of the task is open; the question."""
    async with worker(config) as child:
        [question] = await waiting(coordinator, task_id)
        child.popen.kill()
        await child.exit_code()
    if sys.platform == "linux":
        await eventually(lambda: not processes_with(f"AGENTBUS_TASK_ID={task_id}"), "its command is ended")
    return question


async def test_an_answer_that_is_given_while_the_worker_is_dead_is_applied_once_to_the_same_operation(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await short_lease(coordinator, lease_s=LEASE_S)
    config = asking(tmp_path, server, "ask_for=git push", "ask_for=git push", "say=Done.")
    task_id = await publish(coordinator, "x")
    question = await killed(config, coordinator, task_id)
    await answer(coordinator, task_id, question, allow=True)
    async with worker(config):
        [again] = await waiting(coordinator, task_id)
        assert chosen(tmp_path / "log") == [("git push", "once")], "the first time it is the answer that there was"
        assert (again.nonce != question.nonce, again.number) == (True, 2)
        given = [one.given for one in questions_of((await record_of(coordinator, task_id)).entry)]
        assert given == [again.nonce, again.nonce, None], "what was asked before, what took its answer, what is open"
        await answer(coordinator, task_id, again, allow=False)
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
    assert (status.state, status.record.entry.attempt) == ("completed", 2)
    assert chosen(tmp_path / "log") == [("git push", "once"), ("git push", "no")]


async def test_an_answer_to_a_question_of_a_dead_run_is_never_applied_to_another_operation(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await short_lease(coordinator, lease_s=LEASE_S)
    config = asking(tmp_path, server, "ask_for=delete {attempt}", "say=Done.")
    task_id = await publish(coordinator, "x")
    question = await killed(config, coordinator, task_id)
    await answer(coordinator, task_id, question, allow=True)
    async with worker(config):
        [other] = await waiting(coordinator, task_id)
        assert other.arguments == {"command": "delete 2"}
        kept = questions_of((await record_of(coordinator, task_id)).entry)[0]
        assert (part_of(kept), kept.given) == (part_of(question), None)
        await answer(coordinator, task_id, other, allow=False)
        await settled(coordinator, task_id)
        await acknowledged(coordinator)
    assert chosen(tmp_path / "log") == [("delete 2", "no")]


async def test_a_question_that_no_one_has_answered_is_interrupted_until_the_next_run_asks_it(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    config = asking(tmp_path, server, "die_asking=a", "say=Done.", retry_on=["exit"], retry_backoff_seconds=0.1)
    async with worker(config):
        task_id = await publish(coordinator, "x")

        async def asked_again() -> Any:
            entry = (await record_of(coordinator, task_id)).entry
            return entry if entry.attempt == 2 and questions_of(entry) else None

        entry = await eventually(asked_again, "the second run asks")
        [question] = questions_of(entry)
        await eventually(lambda: chosen(tmp_path / "log") == [], "the first run has got no answer")
        if state_of(entry, question) == "interrupted":  # the second run has not asked yet
            assert entry.claim.nonce != question.nonce

        async def asked() -> Any:
            [found] = questions_of((await record_of(coordinator, task_id)).entry)
            return found if state_of((await record_of(coordinator, task_id)).entry, found) == "open" else None

        await answer(coordinator, task_id, await eventually(asked, "it is asked anew"), allow=True)
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
    assert (status.state, status.record.entry.attempt) == ("completed", 2)
    assert chosen(tmp_path / "log") == [("a", "once")]


async def test_a_worker_that_stops_releases_a_task_that_waits_for_a_person_at_once(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    config = asking(tmp_path, server, "ask_for=a", "say=Done.", drain_timeout_seconds=10 * BOUND_S)
    task_id = await publish(coordinator, "x")
    async with worker(config) as child:
        [question] = await waiting(coordinator, task_id)
        child.popen.send_signal(signal.SIGTERM)
        await ends_by_itself(child)
    entry = (await record_of(coordinator, task_id)).entry
    assert (entry.state, entry.attempt, state_of(entry, question)) == ("queued", 0, "interrupted")
    told = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    assert "session/cancel" in [one.get("method") for one in told]
    async with worker(config):

        async def asked_anew() -> Any:
            entry = (await record_of(coordinator, task_id)).entry
            return [one for one in questions_of(entry) if state_of(entry, one) == "open"]

        [again] = await eventually(asked_anew, "it is asked anew")
        assert again.nonce != question.nonce
        assert len(questions_of((await record_of(coordinator, task_id)).entry)) == 1, "and is listed once"
        await answer(coordinator, task_id, again, allow=True)
        assert (await settled(coordinator, task_id)).state == "completed"


async def test_a_task_that_waits_for_a_person_is_cancelled(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    async with worker(asking(tmp_path, server, "ask_for=a", "say=Done.")):
        task_id = await publish(coordinator, "x")
        await waiting(coordinator, task_id)
        await coordinator.task(task_id).cancel("no more")
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
    assert (status.state, error(status)) == ("cancelled", "cancelled by agent-main: no more")
    assert status.record.entry.questions is None


async def test_messages_that_tell_of_answers_which_there_are_not_change_nothing(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    async with worker(asking(tmp_path, server, "ask_for=a", "say=Done.")):
        task_id = await publish(coordinator, "x")
        [question] = await waiting(coordinator, task_id)
        for said in ({"answer": task_id}, {"answer": ["x"], "question": 7}, {"answer": "other"}, {"answer": None}):
            await coordinator.bus.publish(subjects.control("code"), json.dumps(said).encode())
        before = (await record_of(coordinator, task_id)).entry.claim
        await answer(coordinator, task_id, question, allow=True)
        await settled(coordinator, task_id)
        await acknowledged(coordinator)
    assert before is not None
    assert chosen(tmp_path / "log") == [("a", "once")]

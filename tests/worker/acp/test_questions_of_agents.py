"""Questions that a person answers while the agent waits: through a FIFO that the worker gives to the driver."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from agentbus.protocol.outcomes.run_report import Denied
from agentbus.protocol.questions.question import digest_of
from agentbus_worker.formats.events import Activity, Event, Question, QuestionEnd
from agentbus_worker.formats.readers import READERS
from agentbus_worker.formats.reading import Reader
from agentbus_worker.formats.stall import StallWatch
from support.acp_driver import Driver, driver


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "answers"
    os.mkfifo(path, 0o600)
    return path


def answer(fifo: Path, *lines: Any) -> None:
    with fifo.open("wb", buffering=0) as out:
        out.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def asking(fifo: Path, folder: Path, *does: str, **given: Any) -> Any:
    return driver(*does, folder=folder, permissions="ask", answers=str(fifo), **given)


async def asked(run: Driver) -> dict[str, Any]:
    return await run.until("question")


async def test_an_answer_that_allows_lets_the_very_call_go_on(tmp_path: Path, fifo: Path) -> None:
    async with asking(fifo, tmp_path, "ask", "say=Made it.") as run:
        question = await asked(run)
        assert question == {
            "acp": "question", "id": "1", "operation": "execute", "arguments": {"command": "touch made"},
            "folder": str(tmp_path), "title": "touch made", "call": "c1",
            "digest": digest_of({"command": "touch made"}),
        }  # fmt: skip
        assert not (tmp_path / "made").exists()
        answer(fifo, {"id": "7", "allow": True}, {"id": "1", "allow": "yes"}, [1], {"id": ["1"], "allow": True})
        answer(fifo, {"id": "1", "allow": True}, {"id": "1", "allow": False})
        judgement = await run.end()
    assert (judgement.status, judgement.text) == ("completed", "Made it.")
    assert (tmp_path / "made").exists()
    [told] = run.of_kind("permission")
    assert (told["question"], told["allowed"], told["option"], told["why"]) == ("1", True, "once", "answered")


async def test_an_answer_that_denies_is_a_denied_call(tmp_path: Path, fifo: Path) -> None:
    async with asking(fifo, tmp_path, "ask", "say=Well.") as run:
        await asked(run)
        answer(fifo, {"id": "1", "allow": False})
        judgement = await run.end()
    assert judgement.run.denied == (Denied("execute", "touch made"),)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("stop", ["end_turn", "cancelled"])
async def test_the_reason_of_a_denial_is_told_in_a_further_turn_of_the_same_run(
    tmp_path: Path, fifo: Path, stop: str
) -> None:
    async with asking(fifo, tmp_path, "ask", "say=I stop.", "usage", f"stop={stop}", "listens") as run:
        await asked(run)
        answer(fifo, {"id": "1", "allow": False, "comment": "not on Friday\nopen a pull request"})
        judgement = await run.end()
    assert judgement.status == "completed"
    assert judgement.text.startswith("I was told: The person who was asked for a permission says of it:")
    assert "Denied: execute: touch made\nThe reason: not on Friday\nopen a pull request\n" in judgement.text
    assert judgement.run.usage.output_tokens == 2 * 57
    assert judgement.run.denied == (Denied("execute", "touch made"),)
    assert [(line["acp"], line["stop"]) for line in run.lines if "stop" in line] == [
        ("turn", stop),
        ("end", "end_turn"),
    ]


async def test_the_comment_of_an_approval_is_told_as_well_once_the_call_has_run(tmp_path: Path, fifo: Path) -> None:
    async with asking(fifo, tmp_path, "ask", "say=Done.", "usage", "listens") as run:
        await asked(run)
        answer(fifo, {"id": "1", "allow": True, "comment": "once, and no more"})
        judgement = await run.end()
    assert "Allowed: execute: touch made\nThe comment: once, and no more\n" in judgement.text
    assert (tmp_path / "made").exists()
    assert judgement.run.denied == ()


async def test_an_agent_that_says_no_more_after_a_reason_keeps_its_answer(tmp_path: Path, fifo: Path) -> None:
    async with asking(fifo, tmp_path, "ask", "say=I stop.") as run:
        await asked(run)
        answer(fifo, {"id": "1", "allow": False, "comment": "no"})
        judgement = await run.end()
    assert (judgement.status, judgement.text) == ("completed", "I stop.")


@pytest.mark.parametrize(
    ("given", "stop"),
    [({"allow": True}, "end_turn"), ({"allow": False}, "end_turn"),
     ({"allow": False, "comment": 7}, "end_turn"), ({"allow": False, "comment": "no"}, "refusal")],
)  # fmt: skip
async def test_without_a_reason_and_after_a_turn_that_failed_there_is_no_further_turn(
    tmp_path: Path, fifo: Path, given: dict[str, Any], stop: str
) -> None:
    async with asking(fifo, tmp_path, "ask", "say=Well.", f"stop={stop}", "listens") as run:
        await asked(run)
        answer(fifo, {"id": "1", **given})
        judgement = await run.end()
    assert (judgement.text, run.of_kind("turn")) == ("Well.", [])


async def test_a_run_that_is_cancelled_after_a_denial_is_told_no_reason(tmp_path: Path, fifo: Path) -> None:
    async with asking(fifo, tmp_path, "ask", "hang", "ends_after_cancel", "listens") as run:
        await asked(run)
        answer(fifo, {"id": "1", "allow": False, "comment": "no"})
        await run.until("permission")
        run.process.send_signal(signal.SIGTERM)
        await run.end()
    assert run.of_kind("turn") == []


async def test_a_question_that_is_not_answered_in_time_is_denied(tmp_path: Path, fifo: Path) -> None:
    async with asking(fifo, tmp_path, "ask", "say=Well.", question_wait_s=0.2) as run:
        await asked(run)
        judgement = await run.end()
    assert judgement.status == "completed"
    assert run.of_kind("permission")[0]["why"] == "nothing was answered within 0.2 s"
    assert not (tmp_path / "made").exists()


async def test_two_questions_at_once_have_their_own_answers(tmp_path: Path, fifo: Path) -> None:
    async with asking(fifo, tmp_path, "ask_twice") as run:
        assert [(await asked(run))["id"] for _ in range(2)] == ["1", "2"]
        answer(fifo, {"id": "2", "allow": False})
        await run.until("permission")
        answer(fifo, {"id": "1", "allow": True})
        judgement = await run.end()
    assert judgement.text == "chosen: no, once"


async def test_a_request_that_no_answer_could_allow_is_not_asked(tmp_path: Path, fifo: Path) -> None:
    async with asking(fifo, tmp_path, "ask_always_only", "say=Well.") as run:
        judgement = await run.end()
    assert (judgement.status, run.of_kind("question")) == ("completed", [])


async def test_an_agent_that_dies_while_a_question_is_open_has_failed(tmp_path: Path, fifo: Path) -> None:
    async with asking(fifo, tmp_path, "die_while_asking") as run:
        await asked(run)
        judgement = await run.end()
    assert judgement.failure is not None
    assert judgement.failure.code == "exit"
    assert run.of_kind("permission")[0]["allowed"] is False, "the question is closed"


async def test_a_question_that_is_open_when_the_run_is_cancelled_is_denied(tmp_path: Path, fifo: Path) -> None:
    async with asking(fifo, tmp_path, "ask", "hang") as run:
        await asked(run)
        run.process.send_signal(signal.SIGTERM)
        told = await run.until("permission")
        assert (told["allowed"], told["why"]) == (False, "the run is being cancelled")
        await run.end()


def read(reader: Reader, line: dict[str, Any], watch: StallWatch) -> list[Event]:
    events = reader.feed(json.dumps(line).encode())
    for event in events:
        watch.on_event(event)
    return events


def test_the_clock_of_a_stalled_run_stands_while_a_question_is_open() -> None:
    now = 0.0
    reader = READERS["acp"]()
    watch = StallWatch(reader, stall_s=10, max_retry_after_s=120, time=lambda: now)
    read(reader, {"acp": "session", "session": "s1"}, watch)
    [event] = read(reader, {"acp": "question", "id": "1", "operation": "execute", "arguments": {"command": "x"}}, watch)
    assert event == Question("execute", "x")
    assert watch.due is None
    now = 1000.0
    events = read(reader, {"acp": "permission", "tool": "execute", "allowed": False, "question": "1"}, watch)
    assert (events[0], events[-1]) == (Activity(), QuestionEnd("1"))
    assert watch.due == 1010

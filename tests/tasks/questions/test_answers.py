"""Answers to questions of runs: one is taken, the others are told whose it was, and none comes too late unseen."""

import asyncio
import json

import pytest

from agentbus import AnsweredQuestion, Coordinator
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.errors import (
    AgentBusError,
    InvalidIdError,
    MessageError,
    NoApprovalPendingError,
    NoQuestionError,
    QuestionAnsweredError,
    TaskConflictError,
    TaskNotFoundError,
)
from agentbus.protocol import subjects
from agentbus.protocol.audit import names as audit
from agentbus.protocol.audit.lines import read_line
from agentbus.protocol.questions.question import MAX_COMMENT_CHARS
from agentbus.provision.nats_server import NatsServer
from support.asking_worker import Run, asking
from support.harness import eventually
from support.mcp_harness import settle
from support.two_coordinators import coordinator_of


async def question_of(bus: Coordinator) -> str:
    [question] = (await bus.questions()).questions
    return question.id


async def test_an_answer_is_stored_with_who_gave_it_and_told_to_the_worker(coordinator: Coordinator) -> None:
    run = await asking(coordinator, "a", "git push")
    told = list[bytes]()
    await coordinator.bus.subscribe(subjects.control("code"), lambda message: told.append(message.data))
    answered = await coordinator.answer_question(await question_of(coordinator), approve=True, comment="only main")
    await eventually(lambda: told, "the worker is told")
    assert json.loads(told[0]) == {"answer": "a", "question": f"{run.nonce[:8]}-1"}
    given = await run.answer()
    assert (given.allow, given.comment, given.by) == (True, "only main", "agent-main")
    assert (answered.id, answered.approve, answered.known) == (f"code/a#{run.nonce[:8]}-1", True, False)
    assert (answered.task.id, answered.task.agent) == ("a", "code")
    assert answered.status is not None
    assert answered.status.state == "working"


async def test_the_same_answer_again_changes_nothing_and_another_one_is_refused(coordinator: Coordinator) -> None:
    run = await asking(coordinator, "a", "git push")
    asked = await question_of(coordinator)
    await coordinator.answer_question(asked, approve=True, comment="once")
    revision = (await run.record()).revision
    assert (await coordinator.answer_question(asked, approve=True, comment="once")).known
    for approve, comment in ((False, "once"), (True, "twice")):
        with pytest.raises(QuestionAnsweredError, match=rf"agent-main has approved {asked} at 20.*the first answer"):
            await coordinator.answer_question(asked, approve=approve, comment=comment)
    assert (await run.record()).revision == revision


async def test_of_two_people_one_wins_and_the_other_is_told_whose_answer_it_was(
    server: NatsServer, coordinator: Coordinator
) -> None:
    run = await asking(coordinator, "a", "git push")
    asked = await question_of(coordinator)
    async with coordinator_of(server, "bob", "operator") as bob:
        people = {"agent-main": coordinator, "agent-bob": bob}
        of_main = asked.replace("code/", "code/~main/")
        outcomes = await asyncio.gather(
            *(one.answer_question(of_main, approve=one is bob) for one in people.values()),
            return_exceptions=True,
        )
    winner = (await run.answer()).by
    for who, outcome in zip(people, outcomes, strict=True):
        if who == winner:
            assert isinstance(outcome, AnsweredQuestion)
        else:
            assert isinstance(outcome, QuestionAnsweredError)
            assert f"{winner} has {'approved' if winner == 'agent-bob' else 'denied'}" in str(outcome)
    assert [one.answer is not None for one in await run.questions()] == [True]


async def test_renewals_meanwhile_take_no_answer_away(coordinator: Coordinator) -> None:
    run = await asking(coordinator, "a", *(f"git push {number}" for number in range(6)))
    asked = [one.id for one in (await coordinator.questions()).questions]

    async def renew() -> None:
        for _ in range(20):
            await run.renew()

    await asyncio.gather(renew(), *(coordinator.answer_question(one, approve=False) for one in asked))
    assert [one.answer is not None and not one.answer.allow for one in await run.questions()] == [True] * 6


async def test_an_answer_after_the_end_is_refused(coordinator: Coordinator) -> None:
    run = await asking(coordinator, "a", "git push")
    asked = await question_of(coordinator)
    await settle(coordinator, "a")
    before = await run.record()
    with pytest.raises(NoQuestionError, match="the task code/a is completed: it asks nothing any more"):
        await coordinator.answer_question(asked, approve=True)
    assert (await run.record()).revision == before.revision


async def test_an_answer_to_what_is_cancelled_is_refused(coordinator: Coordinator) -> None:
    await asking(coordinator, "working", "git push")
    queued = await asking(coordinator, "queued", "git push")
    await queued.hand_back()
    asked = [one.id for one in (await coordinator.questions()).questions]
    await coordinator.cancel_all(["working", "queued"])
    for one in asked:
        with pytest.raises(NoQuestionError, match=r"is (working, and is being cancelled|cancelled): it asks nothing"):
            await coordinator.answer_question(one, approve=True)


@pytest.mark.parametrize("then", [Run.lose, Run.hand_back])
async def test_an_answer_to_an_interrupted_question_is_stored_for_that_question_alone(
    coordinator: Coordinator, then: object
) -> None:
    run = await asking(coordinator, "a", "git push", "git tag")
    await (run.lose() if then is Run.lose else run.hand_back())
    first, second = (await coordinator.questions()).questions
    assert (first.state, second.state) == ("interrupted", "interrupted")
    await coordinator.answer_question(first.id, approve=True)
    push, tag = await run.questions()
    assert push.answer is not None
    assert (push.arguments, push.answer.allow, push.given, tag.answer) == ({"command": "git push"}, True, None, None)
    assert [one.id for one in (await coordinator.questions()).questions] == [second.id]


async def test_what_is_not_asked_cannot_be_answered(coordinator: Coordinator) -> None:
    run = await asking(coordinator, "a", "git push")
    asked = await question_of(coordinator)
    nonce = run.nonce[:8]
    for wrong, error, said in (
        (f"code/a#{nonce}-2", NoQuestionError, "does not ask code/a#"),
        ("code/a#00000000-1", NoQuestionError, "agentbus question list"),
        (f"code/b#{nonce}-1", TaskNotFoundError, "no task b"),
        ("code/a#", InvalidIdError, "names no question"),
        ("a#x", InvalidIdError, "names no question"),
        ("code/a", NoApprovalPendingError, f"answer a question by its id: {asked}"),
    ):
        with pytest.raises(error, match=said):
            await coordinator.answer_question(wrong, approve=True)
    with pytest.raises(InvalidIdError, match="not a task of the agent doc"):
        await coordinator.answer_question(asked, approve=True, agent="doc")
    with pytest.raises(MessageError, match="the comment has 2001 characters"):
        await coordinator.answer_question(asked, approve=True, comment="x" * (MAX_COMMENT_CHARS + 1))
    assert await question_of(coordinator) == asked


async def test_a_task_that_has_ended_is_answered_by_its_follow_up(server: NatsServer, coordinator: Coordinator) -> None:
    task = (await coordinator.publish("code", "clean up", task_type="test", task_id="a")).message
    await settle(coordinator, "a", "status=needs_approval\nmay I?", status="needs_approval", task=task)
    async with coordinator_of(server, "bob", "operator") as bob:
        answered = await bob.answer_question("code/~main/a", approve=True)
        assert (answered.task.id, answered.task.owner, answered.known, answered.status) == (
            "a.answer",
            "bob",
            False,
            None,
        )
        assert (await bob.answer_question("code/~main/a", approve=True)).known
        with pytest.raises(QuestionAnsweredError, match="bob answers the task a"):
            await coordinator.answer_question("code/a", approve=False)
        with pytest.raises(TaskConflictError, match="with another decision"):
            await bob.answer_question("code/~main/a", approve=False)


async def test_the_audit_has_the_decision_and_which_question_but_no_words(coordinator: Coordinator) -> None:
    run = await asking(coordinator, "a", "git push")
    await coordinator.answer_question(await question_of(coordinator), approve=False, comment="secret words")
    async with OrderedConsumer(coordinator.bus, audit.SAID_STREAM, audit.SAID_BY_PARTY, after=0) as consumer:
        said = [message async for message in consumer.backlog()]
    assert [b"secret" in message.data for message in said] == [False]
    line = read_line(said[0].subject, said[0].stored_at, said[0].headers, said[0].data)
    assert line is not None
    assert (line.what, line.task and line.task.id, line.detail) == ("answer", "a", f"denied {run.nonce[:8]}-1")


async def test_a_caller_that_is_cancelled_leaves_a_whole_answer_or_none(coordinator: Coordinator) -> None:
    for number in range(4):
        run = await asking(coordinator, f"t{number}", "git push")
        asked = [one.id for one in (await coordinator.questions()).questions if one.status.task_id == f"t{number}"]
        answering = asyncio.ensure_future(coordinator.answer_question(asked[0], approve=True))
        for _ in range(number):
            await asyncio.sleep(0)
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering
        try:
            assert (await coordinator.answer_question(asked[0], approve=True)).approve
        except AgentBusError as error:  # pragma: no cover
            raise AssertionError("an answer by halves") from error
        assert (await run.answer()).allow

"""What waits for a person, as coordinators list it: which questions, for how long, and within which bounds."""

import asyncio
from pathlib import Path

import pytest

from agentbus import AskedQuestion, Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.errors import MessageError
from agentbus.protocol import subjects
from agentbus.protocol.headers import QUESTIONS, STATE
from agentbus.protocol.messages import Task
from agentbus.provision.nats_server import NatsServer, run_server
from support.asking_worker import ASKED_AT, UNTIL, asking
from support.mcp_harness import settle
from support.two_coordinators import coordinator_of

ASKS = "some words\nstatus=needs_approval\nmay I delete the branch?\n"


async def ended_asking(bus: Coordinator, task_id: str, output: str = ASKS, owner: str = "main") -> Task:
    """Publish a task that ends with a request."""
    task = (await bus.publish("code", "clean up", task_type="test", task_id=task_id)).message
    await settle(bus, task_id, output, status="needs_approval", task=task, owner=owner)
    return task


async def ids(bus: Coordinator, **options: int | str) -> list[str]:
    return [one.id for one in (await bus.questions(**options)).questions]  # pyright: ignore[reportArgumentType]


async def test_all_that_waits_is_listed_with_what_a_person_decides_by(coordinator: Coordinator) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="queued")
    await coordinator.publish("code", "work", task_type="test", task_id="done")
    await settle(coordinator, "done")
    await ended_asking(coordinator, "ended")
    run = await asking(coordinator, "held", "git push")
    await asking(coordinator, "silent")
    held, ended = (await coordinator.questions()).questions
    nonce = run.nonce[:8]
    assert held.to_json() == {
        "id": f"code/held#{nonce}-1",
        "state": "open",
        "operation": "Bash",
        "arguments": {"command": "git push"},
        "folder": "/srv/shop",
        "text": "May I?",
        "asked_at": ASKED_AT,
        "until": UNTIL,
        "task_id": "held",
        "agent": "code",
        "owner": "main",
        "task_type": "test",
        "kind": "permission",
    }
    assert (ended.id, ended.kind, ended.state, ended.text) == ("code/ended", "approval", "open", ASKS)
    assert ended.to_json()["asked_at"] == ended.asked_at == ended.status.record.changed_at.isoformat()


async def test_a_task_with_questions_says_so_in_its_status_and_in_lists(coordinator: Coordinator) -> None:
    run = await asking(coordinator, "a", "git push", "git tag")
    status = await coordinator.task("a").status()
    assert (status.asks, status.state_in_words) == (True, "working (asks for an answer)")
    assert [one["arguments"] for one in status.to_json()["questions"]] == [
        {"command": "git push"}, {"command": "git tag"},
    ]  # fmt: skip
    [listed] = (await coordinator.list_tasks(with_results=False)).tasks
    assert listed.to_json(with_result=False)["questions"] == status.to_json()["questions"]
    for question in [one.id for one in (await coordinator.questions()).questions]:
        await coordinator.answer_question(question, approve=True)
    status = await coordinator.task("a").status()
    assert (status.asks, status.state_in_words) == (False, "working")
    assert [one["answer"]["by"] for one in status.to_json()["questions"]] == ["agent-main"] * 2
    await settle(coordinator, "a")
    assert "questions" not in (await coordinator.task("a").status()).to_json()
    assert run.nonce


async def test_an_answered_question_leaves_the_list(coordinator: Coordinator) -> None:
    await ended_asking(coordinator, "ended")
    await asking(coordinator, "held", "git push", "git tag")
    first, second, ended = (await coordinator.questions()).questions
    await coordinator.answer_question(first.id, approve=False)
    assert await ids(coordinator) == [second.id, "code/ended"]
    await coordinator.answer_question(ended.id, approve=True)
    assert await ids(coordinator) == [second.id]


async def test_the_answer_to_a_task_that_has_ended_is_found_also_where_a_list_goes_on(
    coordinator: Coordinator,
) -> None:
    """The follow-up is newer than the cursor, so the search does not meet it."""
    for number in range(4):
        await ended_asking(coordinator, f"t{number}")
    page = await coordinator.questions(limit=1)
    assert [one.id for one in page.questions] == ["code/t3"]
    await coordinator.task("t1").answer(approve=True)
    await coordinator.task("t0").answer(approve=True)
    assert await ids(coordinator, cursor=page.cursor or 0) == ["code/t2"]
    assert await ids(coordinator) == ["code/t3", "code/t2"]


async def test_an_id_without_room_for_an_answer_is_listed_all_the_same(coordinator: Coordinator) -> None:
    await ended_asking(coordinator, "x" * 125)
    assert await ids(coordinator) == ["code/" + "x" * 125]


async def test_a_question_outlives_the_claim_of_its_run_as_interrupted(coordinator: Coordinator) -> None:
    lost, back = await asking(coordinator, "lost", "git push"), await asking(coordinator, "back", "git push")
    await lost.lose()
    await back.hand_back()
    found = (await coordinator.questions()).questions
    assert [(one.status.task_id, one.status.state, one.state) for one in found] == [
        ("back", "queued", "interrupted"),
        ("lost", "working", "interrupted"),
    ]


@pytest.mark.parametrize("state", ["working", "queued"])
async def test_what_a_worker_of_an_earlier_version_has_taken_over_or_given_back_is_listed_and_answered(
    coordinator: Coordinator, state: str
) -> None:
    """Such a worker keeps the questions, which it does not know, and says nothing of them in a header."""
    run = await asking(coordinator, "a", "git push")
    await (run.lose() if state == "working" else run.hand_back())
    record = await run.record()
    await coordinator.bus.store(
        subjects.state(run.key),
        record.entry.model_dump_json(exclude_none=True).encode(),
        expected_revision=record.revision,
        headers={STATE: state},
    )
    assert QUESTIONS not in (await run.record()).headers
    [found] = (await coordinator.questions()).questions
    assert (found.id, found.state) == (f"code/a#{run.nonce[:8]}-1", "interrupted")
    assert [one.id for one in (await coordinator.questions(agent="code")).questions] == [found.id]
    await coordinator.answer_question(found.id, approve=True)
    assert await ids(coordinator) == []


async def test_what_is_cancelled_or_over_asks_nothing(coordinator: Coordinator) -> None:
    await asking(coordinator, "cancelled", "git push")
    back = await asking(coordinator, "back", "git push")
    await back.hand_back()
    await asking(coordinator, "done", "git push")
    assert len(await ids(coordinator)) == 3
    await coordinator.cancel_all(["cancelled", "back"])
    await settle(coordinator, "done")
    assert await ids(coordinator) == []


async def test_many_questions_come_in_pages_without_one_left_out(coordinator: Coordinator) -> None:
    """Those of tasks between them, which ask nothing, are as many."""
    for number in range(12):
        if number % 3:
            await ended_asking(coordinator, f"t{number:02}")
        else:
            await asking(coordinator, f"t{number:02}", "git push", "git tag")
        await coordinator.publish("code", "work", task_type="test", task_id=f"other{number}")
    seen: list[AskedQuestion] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        page = await coordinator.questions(limit=5, cursor=cursor)
        seen += page.questions
        cursor, pages = page.cursor, pages + 1
    assert [one.status.task_id for one in seen] == [
        f"t{number:02}" for number in range(11, -1, -1) for _ in range(1 if number % 3 else 2)
    ]
    assert pages == 3
    for limit in (0, 201):
        with pytest.raises(MessageError, match="limit must be from 1 to 200"):
            await coordinator.questions(limit=limit)


async def test_a_search_whose_time_is_over_says_where_it_goes_on(coordinator: Coordinator) -> None:
    await ended_asking(coordinator, "old")
    for number in range(600):
        await coordinator.publish("code", "x", task_type="test", task_id=f"t{number}")
    page = await coordinator.questions(search_s=0)
    found = [one.id for one in page.questions]
    while page.cursor is not None:
        assert page.partial
        page = await coordinator.questions(search_s=0, cursor=page.cursor)
        found += [one.id for one in page.questions]
    assert found == ["code/old"]


async def test_only_the_questions_of_an_agent_or_of_a_member_are_listed(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with coordinator_of(server, "alice") as alice, coordinator_of(server, "bob", "operator") as bob:
        await asking(coordinator, "of-main", "git push")
        await asking(alice, "of-alice", "git push")
        await asking(alice, "for-doc", "git push", agent="doc")
        assert [one.split("#")[0] for one in await ids(alice)] == ["doc/~alice/for-doc", "code/~alice/of-alice"]
        assert [one.split("#")[0] for one in await ids(bob, agent="code")] == [
            "code/~alice/of-alice",
            "code/~main/of-main",
        ]
        assert len(await ids(coordinator)) == 3


async def test_a_restart_of_the_server_loses_no_question(tmp_path: Path) -> None:
    """The worker and the MCP server have nothing to do with it: the ledger has it."""
    async with run_server(store=tmp_path / "store") as first, connect(first.url) as bus:
        await set_up(bus.bus, ["code"])
        await ended_asking(bus, "ended")
        await asking(bus, "held", "git push")
        before = await ids(bus)
        first.kill()
    async with run_server(store=tmp_path / "store") as second, connect(second.url) as bus:
        assert len(before) == 2
        assert await ids(bus) == before
        assert not (await bus.answer_question(before[0], approve=True)).known


async def test_answers_and_lists_at_the_same_time_agree(coordinator: Coordinator) -> None:
    for number in range(8):
        await asking(coordinator, f"t{number}", "git push")
    asked = await ids(coordinator)
    outcomes = await asyncio.gather(
        *(coordinator.answer_question(one, approve=True) for one in asked), *(ids(coordinator) for _ in range(4))
    )
    assert all(set(one) <= set(asked) for one in outcomes if isinstance(one, list))
    assert await ids(coordinator) == []

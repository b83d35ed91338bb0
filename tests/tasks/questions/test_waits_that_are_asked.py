"""Waits for tasks whose runs ask a person meanwhile: who waits is told of each question once, and may stop waiting."""

import asyncio

import pytest

from agentbus import AskedQuestion, Coordinator
from agentbus.tasks.waiting import follow
from support.asking_worker import asking
from support.mcp_harness import settle, until_watched

BOUND_S = 60


@pytest.mark.parametrize("most", [1, 100], ids=["all entries followed", "those of the wait followed"])
@pytest.mark.parametrize("others", [0, 2])
async def test_a_wait_may_end_with_the_first_question_that_opens(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, most: int, others: int
) -> None:
    monkeypatch.setattr(follow, "_MOST_KEYS", most)
    run = await asking(coordinator, "a")
    tasks = ["a", *(f"other-{number}" for number in range(others))]
    for task_id in tasks[1:]:
        await coordinator.publish("code", "work", task_type="test", task_id=task_id)
    told = list[str]()

    def on_question(question: AskedQuestion) -> bool:
        told.append(question.id)
        return True

    waiting = asyncio.create_task(coordinator.wait(tasks, agent="code", timeout_s=BOUND_S, on_question=on_question))
    await until_watched(coordinator.bus, "KV_AGENT_STATE")
    await run.renew()
    asked = await run.ask("Bash", {"command": "git push"})
    async with asyncio.timeout(BOUND_S / 2):
        waited = await waiting
    assert told == [asked]
    assert (list(waited.pending), waited.settled) == (tasks, {})
    assert waited.pending["a"].asks


async def test_a_wait_that_goes_on_is_told_once_of_each_question_also_of_those_that_are_open(
    coordinator: Coordinator,
) -> None:
    run = await asking(coordinator, "a", "git push")
    told = list[tuple[str, object]]()

    def on_question(question: AskedQuestion) -> None:
        told.append((question.id, question.arguments))

    waiting = asyncio.create_task(coordinator.wait(["a"], timeout_s=BOUND_S, on_question=on_question))
    await until_watched(coordinator.bus, "KV_AGENT_STATE")
    part = f"code/a#{run.nonce[:8]}"
    assert told == [(f"{part}-1", {"command": "git push"})]
    await coordinator.answer_question(f"{part}-1", approve=True)
    await run.ask("Bash", {"command": "git tag"})
    await run.renew()
    await settle(coordinator, "a")
    assert list((await waiting).settled) == ["a"]
    assert told[1:] == [(f"{part}-2", {"command": "git tag"})]


async def test_a_task_that_is_being_cancelled_asks_nothing_of_a_wait(coordinator: Coordinator) -> None:
    await asking(coordinator, "a", "git push")
    await coordinator.task("a").cancel()
    waited = await coordinator.wait(["a"], timeout_s=0, on_question=lambda question: pytest.fail(question.id))
    assert list(waited.pending) == ["a"]

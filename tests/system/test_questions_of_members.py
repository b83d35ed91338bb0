"""Who may answer what an agent asks, on a bus with an account for each party: as who may cancel."""

import asyncio

import pytest

from agentbus import AskedQuestion, Coordinator
from agentbus.errors import PermissionDeniedError, QuestionAnsweredError, TaskNotFoundError
from support.asking_worker import Run, claim
from support.installation import OwnBus
from support.mcp_harness import settle

pytestmark = pytest.mark.posix("the bus is made by commands that need POSIX")


async def asked_of(bus: Coordinator) -> list[AskedQuestion]:
    return (await bus.questions()).questions


async def asking(main: Coordinator, of: Coordinator, task_id: str) -> Run:
    """Have a task of a coordinator ask. The operator `main` may write what a worker would."""
    await of.publish("code", "work", task_type="test", task_id=task_id)
    run = await claim(main, task_id, owner=of.agent)
    await run.ask("Bash", {"command": f"git push {of.agent}"})
    return run


async def test_a_member_answers_its_own_tasks_an_operator_those_of_all_and_a_viewer_none(team: OwnBus) -> None:
    async with (
        team.coordinator("alice") as alice,
        team.coordinator("dave") as dave,
        team.coordinator("carol", "operator") as carol,
        team.coordinator("bob", "viewer") as bob,
        team.coordinator("main") as main,
    ):
        of_alice, of_dave = await asking(main, alice, "job"), await asking(main, dave, "job")
        ended = (await main.publish("code", "x", task_type="test", task_id="ended")).message
        await settle(main, "ended", "status=needs_approval", status="needs_approval", task=ended)
        assert [one.status.owner for one in await asked_of(alice)] == ["alice"]
        assert [one.id.partition("#")[0] for one in await asked_of(dave)] == ["code/~dave/job"]
        for one in (carol, bob, main):
            assert [asked.status.owner for asked in await asked_of(one)] == ["main", "dave", "alice"]
        [own], [of_other] = [[one.id for one in await asked_of(bus)] for bus in (alice, dave)]
        assert (await alice.answer_question(own, approve=True)).status is not None
        assert (await of_alice.answer()).by == "agent-alice"
        outcomes = await asyncio.gather(
            *(one.answer_question(of_other, approve=one is carol) for one in (carol, dave)), return_exceptions=True
        )
        winner = (await of_dave.answer()).by
        [refused] = [one for one in outcomes if isinstance(one, BaseException)]
        assert isinstance(refused, QuestionAnsweredError)
        assert str(refused).startswith(f"{winner} has ")
        await carol.answer_question("code/~main/ended", approve=True)
        for one in (alice, dave, carol, bob, main):
            assert await asked_of(one) == []
        assert team.violations() == []

        again = await asking(main, dave, "again")
        asked = (await asked_of(dave))[0].id
        for one in (alice, bob):
            with pytest.raises((PermissionDeniedError, TaskNotFoundError)):
                await one.answer_question(asked, approve=True)
        assert [one.answer for one in await again.questions()] == [None]

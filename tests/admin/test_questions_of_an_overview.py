"""The questions of an overview: in `status`, in `top` and on the page the same, also those that were asked long ago."""

import pytest

from agentbus import Coordinator
from agentbus.admin.overview import OverviewReader
from agentbus.tasks.listing import last_changes
from agentbus.ui.board import Board
from support.asking_worker import asking
from support.mcp_harness import settle


async def ended_asking(bus: Coordinator, task_id: str) -> None:
    task = (await bus.publish("code", "clean up", task_type="test", task_id=task_id)).message
    await settle(bus, task_id, "May I?\nstatus=needs_approval\n", status="needs_approval", task=task)


async def settle_others(bus: Coordinator, count: int) -> None:
    for number in range(count):
        await bus.publish("code", "work", task_type="test", task_id=f"other-{number}")
        await settle(bus, f"other-{number}")


async def asked(reader: OverviewReader) -> list[str]:
    return [one.id for one in (await reader.read()).needs.asked]


async def test_the_page_and_status_show_the_questions_that_a_list_has(coordinator: Coordinator):
    await ended_asking(coordinator, "ended")
    await asking(coordinator, "held", "git push")
    listed = [one.id for one in (await coordinator.questions()).questions]
    overview = await OverviewReader(coordinator).read()
    assert [one.id for one in overview.needs.asked] == listed
    assert [need.kind for need in overview.needs.named if need.status] == ["question", "approval", "lost"]
    sections = await Board().read(coordinator)
    assert [*sections["questions"]] == listed
    assert sections["questions"]["code/ended"]["text"] == "May I?\nstatus=needs_approval\n"


async def test_a_question_that_was_seen_is_shown_until_it_is_answered_however_much_happens_meanwhile(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(last_changes, "_LEAST", 1)
    monkeypatch.setattr(last_changes, "_FIRST", 1)
    monkeypatch.setattr(last_changes, "_MOST", 4)
    await ended_asking(coordinator, "ended")
    reader = OverviewReader(coordinator)
    assert await asked(reader) == ["code/ended"]
    await settle_others(coordinator, 20)
    assert await asked(OverviewReader(coordinator)) == []
    assert await asked(reader) == ["code/ended"]
    await coordinator.answer_question("code/ended", approve=False)
    assert await asked(reader) == []


async def test_an_overview_says_whether_older_tasks_may_ask(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch):
    await settle_others(coordinator, 20)
    assert (await OverviewReader(coordinator).read()).to_the_end
    assert (await Board().read(coordinator))["asking"] == {"asking": {}}
    monkeypatch.setattr(last_changes, "_LEAST", 1)
    monkeypatch.setattr(last_changes, "_FIRST", 1)
    monkeypatch.setattr(last_changes, "_MOST", 4)
    assert not (await OverviewReader(coordinator).read()).to_the_end
    assert (await Board().read(coordinator))["asking"] == {"asking": {"more": True}}

"""What went on with a task: the whole conversation behind it, in order, and within a bounded time."""

import pytest

from agentbus import Coordinator
from agentbus.protocol.json_codec import encode
from agentbus.protocol.messages import decode_task, new_task
from agentbus.tasks.listing import task_list
from agentbus.tasks.listing.continued import Continued, continued
from agentbus.tasks.publish import publish
from support.mcp_harness import settle


async def begin(bus: Coordinator, task_id: str) -> None:
    await bus.publish("code", task_id, task_type="test", task_id=task_id)


async def go_on(bus: Coordinator, task_id: str, earlier: str, owner: str = "main") -> None:
    """Publish a task that goes on with the conversation of an earlier one."""
    task = new_task(to="code", content=task_id, task_type="test", task_id=task_id)
    said = {"needs": ["continue"], "continue": {"task": earlier, "owner": owner}}
    await publish(bus.bus, decode_task(encode({**task.to_json(), **said})), owner)


async def after(bus: Coordinator, task_id: str, search_s: float = 30) -> Continued:
    return await continued(bus.bus, await bus.task(task_id).status(), search_s=search_s)


def ids(found: Continued) -> list[str]:
    return [one.task_id for one in found.tasks]


async def test_the_whole_conversation_behind_a_task_is_found_in_the_order_of_its_publications(
    coordinator: Coordinator,
):
    for name in ("first", "other"):
        await begin(coordinator, name)
    await settle(coordinator, "first")
    await go_on(coordinator, "second", "first")
    await go_on(coordinator, "aside", "other")
    await settle(coordinator, "second")
    await go_on(coordinator, "third", "second")
    await go_on(coordinator, "branch", "first")
    await settle(coordinator, "third")
    await settle(coordinator, "second")  # changes last
    found = await after(coordinator, "first")
    assert (ids(found), found.whole) == (["second", "third", "branch"], True)
    assert ids(await after(coordinator, "second")) == ["third"]
    assert ids(await after(coordinator, "third")) == []


async def test_a_search_that_has_no_time_left_says_that_there_may_be_more(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    await begin(coordinator, "first")
    await settle(coordinator, "first")
    await go_on(coordinator, "second", "first")
    for number in range(40):
        await begin(coordinator, f"other-{number}")
    monkeypatch.setattr(task_list, "_SCAN_FIRST", 4)
    found = await after(coordinator, "first", search_s=0)
    assert (ids(found), found.whole) == ([], False)
    found = await after(coordinator, "first")
    assert (ids(found), found.whole) == (["second"], True)

"""A program that has an agent review a change, and its tests: on a real bus, with an agent that answers as told."""

import asyncio

import agentbus
from agentbus.testing.pytest_plugin import StartFakeAgent

pytest_plugins = ["agentbus.testing.pytest_plugin"]


async def review(change: str) -> str:
    async with agentbus.connect() as bus:
        task = await bus.publish("code", f"Review {change}", task_type="review")
        result = await task.result(timeout_s=600)
    return str(result.result) if result.status == "completed" else f"no review: {result.error}"


def test_the_review_is_returned(agentbus_fake_agent: StartFakeAgent) -> None:
    code = agentbus_fake_agent("code")
    code.answer("looks good", task_type="review")
    assert asyncio.run(review("PR 123")) == "looks good"
    assert [task.payload.content for task in code.received()] == ["Review PR 123"]


def test_a_failure_is_told(agentbus_fake_agent: StartFakeAgent) -> None:
    agentbus_fake_agent("code").fail("no such pull request")
    assert "no such pull request" in asyncio.run(review("PR 999"))

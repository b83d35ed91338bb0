"""The overview of agents counts every task that was published before it."""

from agentbus import Coordinator
from agentbus.bus.topology import consumer_config
from agentbus.protocol import subjects

ROUNDS = 200
"""Without the wait in `agent_overview`, some of these come out one short on an idle machine."""


async def make_consumer(coordinator: Coordinator, agent: str) -> None:
    name = subjects.durable(agent)
    await coordinator.bus.create_consumer(subjects.TASKS_STREAM, name, consumer_config(agent, name))


async def test_an_overview_right_after_a_publication_counts_the_task(coordinator: Coordinator):
    await make_consumer(coordinator, "code")
    seen: list[int | None] = []
    for _ in range(ROUNDS):
        await coordinator.publish("code", "hello")
        [code] = await coordinator.overview("code")
        seen.append(code.waiting)
    assert seen == list(range(1, ROUNDS + 1))


async def test_an_overview_of_all_agents_counts_each(coordinator: Coordinator):
    for agent in ("code", "doc"):
        await make_consumer(coordinator, agent)
    await coordinator.publish_to(["code", "doc", "ops"], "hello")
    await coordinator.publish("code", "hello")
    found = {one.agent: (one.named, one.waiting, one.unacknowledged) for one in await coordinator.overview()}
    assert found == {"code": (True, 2, 0), "doc": (True, 1, 0), "ops": (False, 1, 0)}

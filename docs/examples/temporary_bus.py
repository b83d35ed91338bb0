"""Try two agents on a bus that exists as long as the program: nothing is set up, nothing stays."""

import asyncio

import agentbus
from agentbus.testing.fake_agent import fake_agent
from agentbus.testing.temporary_bus import temporary_bus


async def main() -> None:
    async with temporary_bus() as bus, fake_agent(bus, "code") as code, fake_agent(bus, "doc") as doc:
        code.answer("2 files changed")
        doc.fail("no such page")
        async with agentbus.connect(bus.url) as coordinator:
            for task in await coordinator.publish_to(["code", "doc"], "What is new?"):
                result = await task.result(timeout_s=60)
                print(task.agent, result.status)


asyncio.run(main())

"""Give one task to several agents, wait for all of them, and print what came back."""

import asyncio

import agentbus


async def main() -> None:
    async with agentbus.connect() as bus:
        tasks = await bus.publish_to(["code", "doc"], "What would you improve first?", task_type="question")
        waited = await bus.wait([task.id for task in tasks], timeout_s=600)
        for status in waited.settled.values():
            print(status.agent, status.state, status.result.result if status.result else "")
        for status in waited.pending.values():
            print(status.agent, "has no result yet:", status.state)


asyncio.run(main())

"""Give a task to one agent, and wait for its result: the whole output, or why there is none."""

import asyncio

import agentbus
from agentbus.errors import ResultTimeoutError


async def main() -> None:
    async with agentbus.connect() as bus:
        task = await bus.publish("code", "What does this repository do?", task_type="question")
        try:
            result = await task.result(timeout_s=600)
        except ResultTimeoutError as error:  # the task goes on; its id is enough to ask again later
            print(error)
            return
        if result.status != "completed":
            print(result.status, result.error)
            return
        async for piece in task.output():  # `result.result` holds the first 64 KiB of a long output
            print(piece.decode(errors="replace"), end="")


asyncio.run(main())

"""Publish a task for each file of a folder, and tell which are not published."""

import asyncio
import sys
from pathlib import Path

import agentbus


async def main(folder: Path) -> None:
    tasks = (agentbus.NewTask("code", f"Check {path.name}.", task_type="check") for path in sorted(folder.iterdir()))
    async with agentbus.connect() as bus:
        async for outcome in bus.publish_many(tasks, batch=f"check-{folder.name}"):
            if isinstance(outcome, agentbus.TaskFailure):
                print("not published:", outcome.error)
            else:
                print(outcome.id, "was published before" if outcome.known else "is published")


asyncio.run(main(Path(sys.argv[1])))

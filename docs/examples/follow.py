"""Print every result of an inbox, and after a restart go on where it stopped: the cursor is kept in a file."""

import asyncio
from pathlib import Path

import agentbus

CURSOR = Path("inbox.cursor")


async def main() -> None:
    after = int(CURSOR.read_text()) if CURSOR.exists() else 0
    async with agentbus.connect() as bus, bus.inbox(after=after) as inbox:
        while True:
            message = await inbox.next()
            if message.result is None:
                print("not a result:", message.fault)
            else:
                print(message.result.status, message.result.task_id, message.result.result)
            kept = CURSOR.with_suffix(".new")
            kept.write_text(str(message.seq))
            kept.replace(CURSOR)  # in one step: a program that is killed meanwhile keeps the place before


asyncio.run(main())

"""Reads everything that is on a bus, to compare it with what was there before."""

from typing import Any

from agentbus.bus.jetstream import connect
from support.installation import Installed


async def contents(installed: Installed, *, but: str = "-") -> dict[str, Any]:
    """All messages of a bus by subject, its streams, and how far its consumers are; without what is of `but`."""
    found: dict[str, Any] = {}
    async with connect(installed.settings("admin")) as admin:
        for name in await admin.stream_names():
            for subject in (await admin.stream_info(name, subjects_filter=">")).state.subjects or ():
                if f".{but}." not in subject:
                    message = await admin.last_message(name, subject)
                    found[subject] = message and (message.seq, message.data)
            found[name] = [
                (item.name, item.num_ack_pending, item.num_pending)
                for item in await admin.consumers(name)
                if item.name != f"agent-{but}" and not item.name.startswith("feed-")
            ]
    return found

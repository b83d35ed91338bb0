"""Writes a message of an inbox as one line of JSON."""

from typing import TYPE_CHECKING

from agentbus.errors import MessageError
from agentbus.protocol.json_codec import decode, encode

if TYPE_CHECKING:
    from agentbus.tasks.inbox import InboxMessage


def inbox_line(message: "InboxMessage") -> bytes:
    """Return the stored bytes if they are one line of JSON, or else a JSON object that describes them."""
    try:
        value = decode(message.data)
        if isinstance(value, dict) and "agentbus" in value:
            # This command reserves the key, so the sender's value of it moves one level down.
            stored = value.pop("agentbus")  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            return encode({**value, "agentbus": {"stored": stored}})
        return encode(value) if b"\n" in message.data or b"\r" in message.data else message.data
    except MessageError:  # not JSON, or JSON that cannot be written again, such as 1e999
        text = message.data.decode(errors="replace")
        return encode({"agentbus": {"seq": message.seq, "fault": message.fault, "raw": text}})

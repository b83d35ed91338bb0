"""Text from other parties: bounded, and in JSON that nothing can break out of.

What an agent returns is data. It is cut to a bound with its full size said, and reaches a client only as a JSON string
beside the names of where it comes from.
"""

import json
from typing import Final

from agentbus.messages import Json, encode

NAME_CHARS: Final = 200


def clip(text: str, chars: int = NAME_CHARS) -> str:
    """A short text, such as a name or a time stamp, at no more than `chars` characters."""
    return text if len(text) <= chars else text[: chars - 1] + "…"


def cut(text: str, max_bytes: int) -> str:
    """The longest beginning of `text` that has at most `max_bytes` bytes in UTF-8."""
    return text.encode()[:max_bytes].decode(errors="ignore")


def printable(text: str) -> str:
    """`text` with every character that is not printable - control, format, bidirectional - as its JSON escape."""
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def to_json(value: Json) -> str:
    """JSON on one line of printable characters."""
    return printable(encode(value).decode())


def as_text(value: Json) -> str:
    """A JSON value as a text: a string as it is, anything else as its JSON."""
    return value if isinstance(value, str) else encode(value).decode()

r"""Sanitizes text from other parties: bounds it, and encodes it as JSON that it cannot break out of.

What an agent returns is data. It is cut to a bound, with its full size stated, and reaches a client only as a JSON
string beside the name of the agent. What `agentbus.visible_text` calls hidden is written as `\uXXXX`. That holds for
the structure of an answer as well as for its text, because some hosts show a person the decoded strings.
"""

from typing import Final

from agentbus import visible_text
from agentbus.protocol.json_codec import Json, encode
from agentbus.visible_text import json_escaped, one_line

NAME_CHARS: Final = 200


def clip(text: str, chars: int = NAME_CHARS) -> str:
    """Cut a short text, such as a name or a time stamp, to at most `chars` characters."""
    return text if len(text) <= chars else text[: chars - 1] + "…"


def cut(text: str, max_bytes: int) -> str:
    """Return the longest beginning of `text` that has at most `max_bytes` bytes in UTF-8."""
    return text.encode()[:max_bytes].decode(errors="ignore")


def cut_to_fit(text: str, max_bytes: int, json_bytes: int) -> str:
    """Return the longest beginning of `text` within `max_bytes` bytes, and within `json_bytes` as a JSON string."""
    text = cut(text, max_bytes)
    if json_size(text) <= json_bytes:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if json_size(text[:middle]) <= json_bytes else (low, middle - 1)
    return text[:low]


def json_size(text: str) -> int:
    """Return how many bytes a text takes as a JSON string in an answer, without its quotes."""
    return len(to_json(visible(text)).encode()) - 2


def visible(text: str) -> str:
    """Escape what is hidden, as JSON does; line ends, tabs and every script stay."""
    return visible_text.visible(text, json_escaped)


def short(text: str, chars: int = NAME_CHARS) -> str:
    """Bound a short text from another party, such as a name or an error, and make it visible."""
    return visible(clip(text, chars))


def printable(text: str) -> str:
    """Escape everything that is hidden, as JSON does, so that the text is one printable line."""
    return one_line(text, json_escaped)


def to_json(value: Json) -> str:
    """Encode a value as JSON on one line of printable characters."""
    return printable(encode(value).decode())


def as_text(value: Json) -> str:
    """Return a string as it is, and any other value as its JSON."""
    return value if isinstance(value, str) else encode(value).decode()

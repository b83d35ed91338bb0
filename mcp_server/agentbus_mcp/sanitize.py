r"""Sanitizes text from other parties: bounds it, and encodes it as JSON that it cannot break out of.

What an agent returns is data. It is cut to a bound, with its full size stated, and reaches a client only as a JSON
string beside the name of the agent. Invisible characters, and those that move what others show, are written as
`\uXXXX`: terminal escapes, overrides of the writing direction, tags. That holds for the structure of an answer as well
as for its text, because some hosts show a person the decoded strings.
"""

import json
import re
from typing import Final

from agentbus.protocol.json_codec import Json, encode

NAME_CHARS: Final = 200

# Control characters but tab and line feed (a carriage return may stand before a line feed); format characters but the
# two joiners, which scripts and emoji are written with; line and paragraph separators; surrogates.
_UNSAFE: Final = re.compile(
    r"\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e"
    r"\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    r"\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e0fff]"
)


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
    """Escape invisible and reordering characters; line ends, tabs and every script stay."""
    return _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def short(text: str, chars: int = NAME_CHARS) -> str:
    """Bound a short text from another party, such as a name or an error, and make it visible."""
    return visible(clip(text, chars))


def printable(text: str) -> str:
    """Escape every character that is not printable: control, format and bidirectional ones."""
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def to_json(value: Json) -> str:
    """Encode a value as JSON on one line of printable characters."""
    return printable(encode(value).decode())


def as_text(value: Json) -> str:
    """Return a string as it is, and any other value as its JSON."""
    return value if isinstance(value, str) else encode(value).decode()

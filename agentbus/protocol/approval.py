"""How an agent asks for an approval in its output: the marker, and how it is found again."""

import re
from typing import Final

from agentbus.errors import MessageError
from agentbus.protocol.json_codec import decode, object_in

MARKER: Final = "status=needs_approval"
_LINE: Final = re.compile(rf"^{MARKER}\r?$", re.MULTILINE)


def position_in(text: str) -> int | None:
    """Return where the first line that is exactly the marker begins, or None if there is no such line."""
    found = _LINE.search(text)
    return found.start() if found else None


def is_asked_in(text: str) -> bool:
    """Whether a whole output asks: by a line with the marker, or as a JSON object whose `status` says so."""
    if position_in(text) is not None:
        return True
    stripped = text.strip()
    if not stripped.startswith("{"):
        return False
    try:
        found = object_in(decode(stripped.encode()))
    except MessageError:
        return False
    return found.get("status") == "needs_approval"

"""How an agent asks for an approval in its output: the marker, and how it is found again."""

import re
from typing import Final

from agentbus.errors import MessageError
from agentbus.protocol.json_codec import decode, object_in

MARKER: Final = "status=needs_approval"
_LINE: Final = re.compile(r"[^\r\n]+")  # a terminal shows what follows a carriage return as a line, too
_UNSEEN: Final = re.compile(
    # What a terminal does not show as text: CSI, strings such as OSC and DCS, the other escape sequences,
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\r\n]*(?:\x07|\x9c|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?"
    # controls but for line ends and tabs, and format characters without a width, a byte order mark among them.
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)


def position_in(text: str) -> int | None:
    """Return where the first line that shows the marker and nothing else begins, or None if there is no such line.

    Colours, other escape sequences, a byte order mark and blanks at the end of the line do not count: a request that
    is overlooked would be taken for a completed task.
    """
    if MARKER not in (text if _UNSEEN.search(text) is None else _seen(text)):
        return None
    return next((line.start() for line in _LINE.finditer(text) if _seen(line[0]).rstrip() == MARKER), None)


def is_asked_in(text: str) -> bool:
    """Whether a whole output asks: by a line with the marker, or as a JSON object whose `status` says so."""
    if position_in(text) is not None:
        return True
    stripped = _seen(text).strip()
    if not stripped.startswith("{"):
        return False
    try:
        found = object_in(decode(stripped.encode()))
    except MessageError:
        return False
    return found.get("status") == "needs_approval"


def _seen(text: str) -> str:
    """Return a text as a terminal shows it: without what acts there or has no width."""
    return _UNSEEN.sub("", text)

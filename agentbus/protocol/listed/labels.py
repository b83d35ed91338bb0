"""What a list shows of a task beside its state: the group that it belongs to, and the first words of its content.

Neither is part of the identity of a task: the same task that is published again may name another group, and stays in
the one in which it was published first.
"""

import json
import re
from collections.abc import Mapping
from typing import Final

from agentbus.errors import InvalidIdError
from agentbus.protocol import headers as names
from agentbus.protocol.headers import Headers
from agentbus.protocol.json_codec import Json, object_in

GROUP: Final = "group"
"""The field of a task. A publisher of an earlier version may have anything under this name."""
MAX_GROUP_CHARS: Final = 64
MAX_ABOUT_CHARS: Final = 60
_MAX_ABOUT_BYTES: Final = 240
"""As JSON in ASCII, so that it has its place in the header of a settled entry: 60 letters, or 40 Chinese characters."""
_GROUP_NAME: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?")
_LOOKED_AT: Final = 2_000
"""How much of a content is looked at for its first words; it may be a megabyte of blanks."""


def group_name(text: str) -> str:
    """Return `text` if it is the name of a group.

    Raises:
        InvalidIdError: unless it is 1 to 64 letters, digits, `_`, `-` and single dots, and begins with one of the
            first two.
    """
    if not is_group_name(text):
        shown = text if len(text) <= 80 else text[:77] + "..."
        raise InvalidIdError(
            f"group {shown!a} is not valid: use letters, digits, '_', '-' and single dots inside, 1 to "
            f"{MAX_GROUP_CHARS}, a letter or a digit first"
        )
    return text


def is_group_name(text: object) -> bool:
    """Whether `group_name(text)` would succeed."""
    return isinstance(text, str) and _GROUP_NAME.fullmatch(text) is not None


def group_of(fields: Mapping[str, Json]) -> str | None:
    """Return the group that the fields of a task name; None where the field holds something else."""
    found = fields.get(GROUP)
    return found if isinstance(found, str) and is_group_name(found) else None


def group_in(headers: Headers) -> str | None:
    """Return the group that the headers of an entry name; None where they name none."""
    found = headers.get(names.GROUP)
    return found if is_group_name(found) else None


def first_words(content: Json) -> str:
    """Return the beginning of a content as one line without control characters; bounded in characters and in bytes."""
    text = content if isinstance(content, str) else _as_json(content)
    looked_at = text[:_LOOKED_AT]
    if not looked_at.isprintable():
        looked_at = "".join(char if char.isprintable() else " " for char in looked_at)
    words = " ".join(looked_at.split())
    cut = words[:MAX_ABOUT_CHARS]
    if len(words) > MAX_ABOUT_CHARS or len(text) > _LOOKED_AT:
        cut = words[: MAX_ABOUT_CHARS - 1].rstrip() + "…"
    while not cut.isascii() and len(json.dumps(cut)) - 2 > _MAX_ABOUT_BYTES:
        cut = cut.removesuffix("…")[:-1].rstrip() + "…"
    return cut


def _as_json(content: Json) -> str:
    return "" if content is None else json.dumps(content, ensure_ascii=False, separators=(", ", ": "))


def about_task(payload: Mapping[str, Json]) -> str:
    """Return the first words of the content of a task, of which this is the payload as it stands in a message."""
    return first_words(payload.get("content"))


def about_result(result: Mapping[str, Json]) -> str:
    """Return the same of the task that a result embeds: of one that a party of an earlier version has settled."""
    return about_task(object_in(object_in(result.get("task")).get("payload")))

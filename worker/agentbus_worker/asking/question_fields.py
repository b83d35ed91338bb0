"""Makes what the ledger says of a question from what a driver has printed: bounded, and without known secrets."""

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, cast

from agentbus.errors import MessageError
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.questions.question import (
    MAX_FOLDER_CHARS,
    MAX_OPERATION_CHARS,
    MAX_TEXT_CHARS,
    Question,
    digest_of,
    shortened,
)
from agentbus_worker.formats import events

_DIGEST: Final = re.compile("[0-9a-f]{64}")
_MAX_DEPTH: Final = 20


def question_from(
    asked: events.Question, *, number: int, nonce: str, at: datetime, wait_s: float, redact: Callable[[str], str]
) -> Question:
    """Return a question as it stands in the ledger.

    Args:
        asked: what the agent asks. Its text is the agent's: it may hold anything.
        redact: removes secrets from a text.
    """
    arguments, size = _shown(asked.arguments, redact)
    digest = asked.digest if _DIGEST.fullmatch(asked.digest) else digest_of(arguments)
    return Question(
        number=number,
        nonce=nonce,
        operation=_cut(_plain(asked.tool, redact), MAX_OPERATION_CHARS),
        arguments=arguments,
        arguments_bytes=size,
        arguments_digest=digest,
        folder=_cut(_plain(asked.folder, redact), MAX_FOLDER_CHARS),
        text=_cut(_plain(asked.title, redact), MAX_TEXT_CHARS),
        asked_at=at.isoformat(),
        until=(at + timedelta(seconds=wait_s)).isoformat(),
    )


def _shown(arguments: Json, redact: Callable[[str], str]) -> tuple[Json, int | None]:
    clean = _redacted(arguments, redact)
    try:
        return shortened(clean)
    except MessageError:  # a number or a character that JSON does not have
        return shortened(_plain(json.dumps(clean), redact))


def _redacted(value: Json, redact: Callable[[str], str], depth: int = 0) -> Json:
    """Return a value with the secrets in its texts replaced, and those in its keys."""
    if depth > _MAX_DEPTH:
        return None
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_redacted(one, redact, depth + 1) for one in cast("list[Json]", value)]
    if isinstance(value, dict):
        items = cast("dict[str, Json]", value).items()
        return {redact(key): _redacted(one, redact, depth + 1) for key, one in items}
    return value


def _plain(text: str, redact: Callable[[str], str]) -> str:
    """Return a text that can be written, without secrets."""
    try:
        encode(text)
    except MessageError:
        text = text.encode(errors="replace").decode()
    return redact(text)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

"""Reads Qwen Code: `qwen --output-format stream-json --include-partial-messages`, in the form of Claude Code."""

import re
from typing import ClassVar, Final

from agentbus.protocol.json_codec import Json, object_in
from agentbus_worker.formats.claude import ClaudeReader
from agentbus_worker.formats.events import Event, Notice, Retry
from agentbus_worker.formats.reading import objects_at, one_line, text_at
from agentbus_worker.formats.reasons import reason_of

_ERROR: Final = re.compile(r"\[API Error: ")
_RETRY: Final = re.compile(r"Retrying in (\d{1,9})s \(attempt (\d{1,4})/(\d{1,4})\): (.+)")
"""What it prints on standard error when it tries again; the event of it tells no reason."""


class QwenReader(ClaudeReader):
    """Reads the lines of Qwen Code, which prints an error as the end of a message.

    Its tokens are counted as OpenAI does: the input holds what came from a cache. A session that is resumed begins with
    the tokens of its earlier runs.
    """

    kind: ClassVar[str] = "qwen"
    _program: ClassVar[str] = "qwen_code"
    _input_holds_cached: ClassVar[bool] = True
    _counts_over_session: ClassVar[bool] = True

    def _read_error_line(self, line: str) -> list[Event]:
        found = _RETRY.match(line)
        if found is None:
            return []
        reason = reason_of(found[4])
        attempt, of = int(found[2]), int(found[3])
        return [
            Retry(one_line(found[4]), attempt, of, reason.code, reason.http_status, reason.retry_after_s, int(found[1]))
        ]

    def _read_assistant(self, value: dict[str, Json]) -> list[Event]:
        message = object_in(value.get("message"))
        texts = [text_at(part, "text") for part in objects_at(message, "content")]
        error = next((text[found.start() :] for text in texts if (found := _ERROR.search(text))), None)
        if error is None:
            return super()._read_assistant(value)
        said = [{"type": "text", "text": _ERROR.split(text, maxsplit=1)[0]} for text in texts]
        events = super()._read_assistant({**value, "message": {**message, "content": said}})
        return [*events, Notice(one_line(error))]

"""Reads Qwen Code: `qwen --output-format stream-json --include-partial-messages`, in the form of Claude Code.

It goes on by itself with an answer that was cut at the model's limit: once with a higher limit, then up to three times
from where it was cut. It does not say whether the last part was cut, too; an answer that needed all of them was.
"""

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
_MOST_CONTINUATIONS: Final = 3


class QwenReader(ClaudeReader):
    """Reads the lines of Qwen Code, which prints an error as the end of a message.

    Its tokens are counted as OpenAI does: the input holds what came from a cache. A session that is resumed begins with
    the tokens of its earlier runs.
    """

    kind: ClassVar[str] = "qwen"
    _program: ClassVar[str] = "qwen_code"
    _input_holds_cached: ClassVar[bool] = True
    _counts_over_session: ClassVar[bool] = True

    _continuations: int | None = None
    """How often an answer that was cut has gone on from there; None while none was cut."""

    def _read_error_line(self, line: str) -> list[Event]:
        found = _RETRY.match(line)
        if found is None:
            return []
        reason = reason_of(found[4])
        attempt, of = int(found[2]), int(found[3])
        return [
            Retry(one_line(found[4]), attempt, of, reason.code, reason.http_status, reason.retry_after_s, int(found[1]))
        ]

    def _read_system(self, value: dict[str, Json]) -> list[Event]:
        if value.get("subtype") == "retry":
            self._note_cut(object_in(value.get("data")))
        return super()._read_system(value)

    def _note_cut(self, data: dict[str, Json]) -> None:
        """Note that an answer is made anew, or goes on from where it ended."""
        if "attempt" in data:  # the server refused the request
            self._continuations = None
        elif data.get("preserveText") is not True:
            self._continuations = 0
        elif self._continuations is not None:  # else a connection was cut: an answer is first made with a higher limit
            self._continuations += 1

    def _read_result(self, value: dict[str, Json]) -> list[Event]:
        events = super()._read_result(value)
        if self._stop is None and self._error is None and (self._continuations or 0) >= _MOST_CONTINUATIONS:
            self._stop = "truncated"
        return events

    def _read_assistant(self, value: dict[str, Json]) -> list[Event]:
        message = object_in(value.get("message"))
        if any(part.get("type") == "tool_use" for part in objects_at(message, "content")):
            self._continuations = None  # another answer follows
        texts = [text_at(part, "text") for part in objects_at(message, "content")]
        error = next((text[found.start() :] for text in texts if (found := _ERROR.search(text))), None)
        if error is None:
            return super()._read_assistant(value)
        said = [{"type": "text", "text": _ERROR.split(text, maxsplit=1)[0]} for text in texts]
        events = super()._read_assistant({**value, "message": {**message, "content": said}})
        return [*events, Notice(one_line(error))]

"""Reads Qwen Code: `qwen --output-format stream-json`, which is the form of Claude Code."""

import re
from typing import ClassVar, Final

from agentbus.protocol.json_codec import Json, object_in
from agentbus_worker.formats.claude import ClaudeReader
from agentbus_worker.formats.events import Event, Notice
from agentbus_worker.formats.reading import objects_at, one_line, text_at

_ERROR: Final = re.compile(r"\[API Error: ")


class QwenReader(ClaudeReader):
    """Reads the lines of Qwen Code, which prints an error as the end of a message.

    Its tokens are counted as OpenAI does: the input holds what came from a cache. A session that is resumed begins with
    the tokens of its earlier runs.
    """

    kind: ClassVar[str] = "qwen"
    _program: ClassVar[str] = "qwen_code"
    _input_holds_cached: ClassVar[bool] = True
    _counts_over_session: ClassVar[bool] = True

    def _read_assistant(self, value: dict[str, Json]) -> list[Event]:
        message = object_in(value.get("message"))
        texts = [text_at(part, "text") for part in objects_at(message, "content")]
        error = next((text[found.start() :] for text in texts if (found := _ERROR.search(text))), None)
        if error is None:
            return super()._read_assistant(value)
        said = [{"type": "text", "text": _ERROR.split(text, maxsplit=1)[0]} for text in texts]
        events = super()._read_assistant({**value, "message": {**message, "content": said}})
        return [*events, Notice(one_line(error))]

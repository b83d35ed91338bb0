"""Reads Gemini CLI: `gemini -o stream-json`. That an answer was cut stands only in the file of its telemetry.

That file has an object of JSON for each record, over many lines, and only its first and its last line are not indented.
"""

import re
from collections.abc import Iterator
from typing import ClassVar, Final

from agentbus.protocol.json_codec import Json, object_in
from agentbus.protocol.outcomes.failure_codes import FailureCode
from agentbus_worker.formats.events import Event, Notice, Retry, Start, Text, Tool, ToolEnd, UsageSoFar
from agentbus_worker.formats.judgement import STOPPED, Ended, SideFile
from agentbus_worker.formats.reading import Reader, number_at, object_of_line, one_line, summary_of, text_at
from agentbus_worker.formats.reasons import reason_of

_RETRY: Final = re.compile(r"Attempt (\d{1,4}) failed(?: with status (\d{3}))?\. Retrying with backoff\.{3} ?(.*)")
"""What it prints on standard error when it tries again; there is no event for it."""
_RESPONSE: Final = b'\n    "event.name": "gemini_cli.api_response",\n'
_MOST_RESPONSES: Final = 16
"""How many are looked at: behind the last one to the agent itself come few to its helpers."""
_MAX_HALF_BYTES: Final = 262_144
"""How far a record goes before and behind its name: a few kilobytes, but for an answer in thousands of parts."""
_EXIT_CODES: Final[dict[int, FailureCode]] = {41: "auth", 53: "turn_limit"}


class GeminiReader(Reader):
    """Reads the lines of Gemini CLI."""

    kind: ClassVar[str] = "gemini"
    side_file: ClassVar[SideFile | None] = SideFile(
        "gemini-telemetry.json",
        "GEMINI_TELEMETRY_OUTFILE",
        {
            "GEMINI_TELEMETRY_ENABLED": "true",
            "GEMINI_TELEMETRY_TARGET": "local",
            "GEMINI_TELEMETRY_LOG_PROMPTS": "false",
        },
    )

    _last_call = ""
    _cut = False

    def feed_side_file(self, end: bytes) -> None:
        """Find the last response to the agent itself: others are to its helpers, or to another one that it ran."""
        for record in _last_responses(b"\n" + end):
            found = object_in(object_of_line(record).get("attributes"))
            if found.get("session.id") == self.session and found.get("role") == "main":
                reasons = found.get("finish_reasons")  # one for each part of an answer
                self._cut = isinstance(reasons, list) and "length" in reasons
                return

    def _read(self, value: dict[str, Json]) -> list[Event] | None:
        match value.get("type"):
            case "init":
                self.session = text_at(value, "session_id") or self.session
                self.model = text_at(value, "model") or self.model
                return [Start(self.session, self.model)]
            case "message":
                return self._read_message(value)
            case "tool_use":
                self._say("")  # what was said before a tool is used is not the answer
                name, summary = text_at(value, "tool_name"), summary_of(value.get("parameters"))
                self._use(text_at(value, "tool_id"), name)
                self._last_call = summary
                return [Tool(name, summary, text_at(value, "tool_id"))]
            case "tool_result":
                return [self._tool_end(value)]
            case "error":
                return [self._read_error(value)]
            case "result":
                return self._read_result(value)
            case _:
                return None

    def _read_message(self, value: dict[str, Json]) -> list[Event]:
        text = text_at(value, "content")
        if value.get("role") != "assistant":
            return []
        self._say(text, more=value.get("delta") is True)
        return [Text(text)] if text else []

    def _tool_end(self, value: dict[str, Json]) -> ToolEnd:
        call = text_at(value, "tool_id")
        name = self._tools.pop(call, "")
        error = object_in(value.get("error"))
        if "denied" in text_at(error, "type").lower() or "cancelled" in text_at(error, "type").lower():
            self._deny(name, self._last_call)
        text = text_at(error, "message") or text_at(value, "output")
        return ToolEnd(name, value.get("status") == "success", one_line(text), call)

    def _read_error_line(self, line: str) -> list[Event]:
        return retry_in_line(line)

    def _read_error(self, value: dict[str, Json]) -> Event:
        message = text_at(value, "message")
        if value.get("severity") != "warning":
            self._fail(message)
        return Notice(one_line(message))

    def _read_result(self, value: dict[str, Json]) -> list[Event]:
        self._finished = True
        stats = object_in(value.get("stats"))
        self._count(input_tokens=number_at(stats, "input_tokens"), cached=number_at(stats, "cached"),
                    output=number_at(stats, "output_tokens"))  # fmt: skip
        used = {name: number_at(of, "total_tokens") for name, of in object_in(stats.get("models")).items()}
        if any(used.values()):
            self.model = max(used, key=lambda name: used[name])
        if value.get("status") == "success":
            self._error = None  # it got over it
        else:
            error = text_at(value, "error", "message")
            if error or self._error is None:
                self._fail(error)
        return [UsageSoFar(self._usage)]

    def _failure(self, ended: Ended) -> tuple[FailureCode | None, str]:
        code, reason = super()._failure(ended)
        if self._cut and code in (None, "empty"):
            return "truncated", STOPPED["truncated"]
        if code == "exit" and ended.code is not None:
            # Its exit code is the HTTP status modulo 256, where there was one.
            status = ended.code + 256
            code = _EXIT_CODES.get(ended.code) or reason_of("", status).code or code
        return code, reason


def retry_in_line(line: str) -> list[Event]:
    """Return that it tries again, where a line of standard error says so."""
    found = _RETRY.match(line)
    if found is None:
        return []
    reason = reason_of(found[3], int(found[2]) if found[2] else None)
    return [Retry(one_line(line), int(found[1]), None, reason.code, reason.http_status, reason.retry_after_s)]


def _last_responses(text: bytes) -> Iterator[bytes]:
    """Yield the records of responses, the last one first."""
    at = len(text)
    for _ in range(_MOST_RESPONSES):
        at = text.rfind(_RESPONSE, 0, at)
        if at < 0:
            return
        begin = text.rfind(b"\n{\n", max(0, at - _MAX_HALF_BYTES), at)
        end = text.find(b"\n}\n", at, at + _MAX_HALF_BYTES)
        if begin >= 0 and end >= 0:
            yield text[begin + 1 : end + 2]

"""Reads Codex: `codex exec --json`. Its errors are prose, and it names neither its model nor a cost."""

import re
from typing import ClassVar, Final

from agentbus.protocol.json_codec import Json, object_in
from agentbus_worker.formats.events import Event, Notice, Retry, Start, Text, Tool, ToolEnd, UsageSoFar
from agentbus_worker.formats.reading import Reader, number_at, one_line, summary_of, text_at
from agentbus_worker.formats.reasons import reason_of

_RETRY: Final = re.compile(r"Reconnecting\.\.\.(?: (\d{1,4})/(\d{1,4}))?")
_TOOLS: Final = ("command_execution", "mcp_tool_call", "file_change", "web_search", "collab_tool_call")
_SANDBOX: Final = re.compile(
    r"Read-only file system|Operation not permitted|Permission denied|blocked by (?:the )?sandbox"
)
"""What the tools of a sandbox print when it does not let them."""


class CodexReader(Reader):
    """Reads the lines of Codex, whose usage counts over all runs of a session."""

    kind: ClassVar[str] = "codex"
    _resuming: ClassVar[re.Pattern[str] | None] = re.compile(r"(?:^|\s)exec\s(?:.*\s)?resume(?:\s|$)", re.DOTALL)

    def _read(self, value: dict[str, Json]) -> list[Event] | None:
        kind = text_at(value, "type")
        if kind == "thread.started":
            self.session = text_at(value, "thread_id") or self.session
            return [Start(self.session)]
        if kind.startswith("item."):
            return self._read_item(kind, object_in(value.get("item")))
        if kind == "turn.completed":
            return self._read_usage(object_in(value.get("usage")))
        if kind == "turn.failed":
            self._finished = True
            self._fail(text_at(value, "error", "message"))
            return [Notice(one_line(self._error or ""))]
        if kind == "error":
            return [self._read_error(text_at(value, "message"))]
        return [] if kind.startswith(("turn.", "thread.")) else None

    def _read_item(self, kind: str, item: dict[str, Json]) -> list[Event]:
        name, text = text_at(item, "type"), text_at(item, "text")
        if name == "agent_message" and kind == "item.completed":
            self._say(text)
            return [Text(text)] if text else []
        if name == "error":  # a warning
            return [Notice(one_line(text_at(item, "message")))]
        if name not in _TOOLS:
            return []
        self._say("")  # what was said before a tool is used is not the answer
        return self._read_tool(kind, name, item)

    def _read_tool(self, kind: str, name: str, item: dict[str, Json]) -> list[Event]:
        what, summary = text_at(item, "tool") or name, summary_of(item)
        if kind == "item.started":
            return [Tool(what, summary)]
        if kind != "item.completed":
            return []
        status, output = text_at(item, "status"), text_at(item, "aggregated_output")
        if status == "declined" or (status == "failed" and _SANDBOX.search(output[-4_000:])):
            self._deny(what, item)
        return [ToolEnd(what, status not in ("failed", "declined"), one_line(output) or summary)]

    def _read_usage(self, usage: dict[str, Json]) -> list[Event]:
        self._finished = True
        self._error = None  # it got over it
        self._turns = (self._turns or 0) + 1
        self._count(input_tokens=number_at(usage, "input_tokens"), cached=number_at(usage, "cached_input_tokens"),
                    output=number_at(usage, "output_tokens"), over_session=True)  # fmt: skip
        return [UsageSoFar(self._usage, None, self._turns)]

    def _read_error(self, message: str) -> Event:
        retry = _RETRY.match(message)
        if retry is None:
            self._fail(message)
            return Notice(one_line(message))
        reason = reason_of(message)
        attempt, of = (int(number) if number else None for number in retry.groups())
        return Retry(one_line(message), attempt, of, reason.code, reason.http_status, reason.retry_after_s)

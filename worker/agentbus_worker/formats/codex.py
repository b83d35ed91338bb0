"""Reads Codex: `codex exec --json`. Its errors are prose, and it names neither its model nor a cost.

It prints an answer when it is whole, and not for how long it waits before it tries again. Its log on standard error
tells both, where `environment` asks it to.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Final

from agentbus.protocol.json_codec import Json, object_in
from agentbus_worker.formats.events import Activity, Event, Notice, Retry, Start, Text, Tool, ToolEnd, UsageSoFar
from agentbus_worker.formats.judgement import Ended, Judgement
from agentbus_worker.formats.reading import Reader, number_at, one_line, summary_of, text_at
from agentbus_worker.formats.reasons import reason_of

_RETRY: Final = re.compile(r"Reconnecting\.\.\.(?: (\d{1,4})/(\d{1,4}))?")
_TOOLS: Final = ("command_execution", "mcp_tool_call", "file_change", "web_search", "collab_tool_call")
_LOGGED_RETRY: Final = re.compile(r"codex_core::responses_retry: .*\((\d{1,4})/(\d{1,4}) in ([\d.]{1,20})(ms|s)\)")
_WHY: Final = re.compile(r"sampling_error=(.+)")
_LOGGED_PART: Final = re.compile(r'codex_otel\.log_only: event\.name="codex\.sse_event" event\.kind=response\.')
_LOGGED: Final = re.compile(r" (?:INFO|WARN) codex_(?:otel|core)")
_SANDBOX: Final = re.compile(
    r"Read-only file system|Operation not permitted|Permission denied|blocked by (?:the )?sandbox"
)
"""What the tools of a sandbox print when it does not let them."""


class CodexReader(Reader):
    """Reads the lines of Codex, whose usage counts over all runs of a session."""

    kind: ClassVar[str] = "codex"
    _resuming: ClassVar[re.Pattern[str] | None] = re.compile(r"(?:^|\s)exec\s(?:.*\s)?resume(?:\s|$)", re.DOTALL)
    environment: ClassVar[Mapping[str, str]] = {
        "RUST_LOG": "error,codex_core::responses_retry=warn,codex_otel.log_only=info"
    }

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

    def outcome(self, ended: Ended) -> Judgement:
        """Judge the run; its log is not why it failed."""
        said = [line for line in ended.stderr.splitlines() if not _LOGGED.search(line)]
        return super().outcome(replace(ended, stderr="\n".join(said)))

    def _read_item(self, kind: str, item: dict[str, Json]) -> list[Event]:
        name, text = text_at(item, "type"), text_at(item, "text")
        if name == "agent_message" and kind == "item.completed":
            self._say(text)
            return [Text(text)] if text else []
        if name in ("reasoning", "todo_list"):
            return [Activity()]
        if name == "error":  # a warning
            return [Notice(one_line(text_at(item, "message")))]
        if name not in _TOOLS:
            return []
        self._say("")  # what was said before a tool is used is not the answer
        return self._read_tool(kind, name, item)

    def _read_tool(self, kind: str, name: str, item: dict[str, Json]) -> list[Event]:
        what, summary, call = text_at(item, "tool") or name, summary_of(item), text_at(item, "id")
        if kind == "item.started":
            return [Tool(what, summary, call)]
        if kind != "item.completed":
            return []
        status, output = text_at(item, "status"), text_at(item, "aggregated_output")
        if status == "declined" or (status == "failed" and _SANDBOX.search(output[-4_000:])):
            self._deny(what, item)
        return [ToolEnd(what, status not in ("failed", "declined"), one_line(output) or summary, call)]

    def _read_usage(self, usage: dict[str, Json]) -> list[Event]:
        self._finished = True
        self._error = None  # it got over it
        self._turns = (self._turns or 0) + 1
        self._count(input_tokens=number_at(usage, "input_tokens"), cached=number_at(usage, "cached_input_tokens"),
                    output=number_at(usage, "output_tokens"), over_session=True)  # fmt: skip
        return [UsageSoFar(self._usage, None, self._turns)]

    def _read_error_line(self, line: str) -> list[Event]:
        if _LOGGED_PART.search(line):
            return [Activity()]
        found = _LOGGED_RETRY.search(line)
        if found is None:
            return []
        why = found_why[1] if (found_why := _WHY.search(line)) else ""
        reason = reason_of(why)
        delay_s = float(found[3]) * (0.001 if found[4] == "ms" else 1)
        return [
            Retry(
                one_line(why),
                int(found[1]),
                int(found[2]),
                reason.code,
                reason.http_status,
                reason.retry_after_s,
                delay_s,
            )
        ]

    def _read_error(self, message: str) -> Event:
        retry = _RETRY.match(message)
        if retry is None:
            self._fail(message)
            return Notice(one_line(message))
        reason = reason_of(message)
        attempt, of = (int(number) if number else None for number in retry.groups())
        return Retry(one_line(message), attempt, of, reason.code, reason.http_status, reason.retry_after_s)

"""Reads OpenCode: `opencode run --format json`. Where a tool is not permitted it stops, with exit code 0.

That it tries again is only in its log, which `--print-logs` prints on standard error.
"""

import re
from typing import ClassVar, Final

from agentbus.protocol.json_codec import Json, object_in
from agentbus.protocol.outcomes.run_report import amount_in
from agentbus_worker.formats.events import Activity, Event, Notice, Retry, Start, Text, Tool, ToolEnd, UsageSoFar
from agentbus_worker.formats.reading import Reader, number_at, one_line, summary_of, text_at
from agentbus_worker.formats.reasons import reason_of

_RETRY: Final = re.compile(r'message="stream error".* small=false .*error\.error="(.+)"')


class OpencodeReader(Reader):
    """Reads the lines of OpenCode, which gives tokens and cost for each step, and no model."""

    kind: ClassVar[str] = "opencode"

    _rejected = False
    _in_step = False

    @property
    def may_use_a_tool(self) -> bool:
        """Whether a step has begun and not ended: a tool is printed once it has ended."""
        return self._in_step

    def _read(self, value: dict[str, Json]) -> list[Event] | None:
        part = object_in(value.get("part"))
        session = text_at(value, "sessionID")
        if not session:
            return None
        started: list[Event] = [Start(session)] if session != self.session else []
        self.session = session
        match value.get("type"):
            case "step_start":
                self._say("")
                self._rejected = self._finished = False
                self._in_step = True
                self._stop = None
                return [*started, Activity()]
            case "text":
                text = text_at(part, "text")
                self._say(text, more=True)
                return [*started, Text(text)] if text else started
            case "tool_use":
                return [*started, *self._read_tool(part)]
            case "step_finish":
                return [*started, self._read_finish(part)]
            case "error":
                return [*started, self._read_error(object_in(value.get("error")))]
            case "reasoning":
                return [*started, Activity()]
            case _:
                return None

    def _read_error_line(self, line: str) -> list[Event]:
        return retry_in_line(line)

    def _read_tool(self, part: dict[str, Json]) -> list[Event]:
        state = object_in(part.get("state"))
        name, error = text_at(part, "tool"), text_at(state, "error")
        summary = summary_of(state.get("input"))
        if "rejected permission" in error or "prevents you from using" in error:
            self._rejected = True
            self._deny(name, state.get("input"))
        end = ToolEnd(name, state.get("status") == "completed", one_line(error or text_at(state, "output")))
        return [Tool(name, summary), end]

    def _read_finish(self, part: dict[str, Json]) -> Event:
        self._in_step = False
        self._turns = (self._turns or 0) + 1
        cached = number_at(part, "tokens", "cache", "read")
        read = number_at(part, "tokens", "input") + cached + number_at(part, "tokens", "cache", "write")
        before = self._usage
        self._count(
            input_tokens=(before.input_tokens or 0) + read,
            cached=(before.cached_input_tokens or 0) + cached,
            output=(before.output_tokens or 0) + number_at(part, "tokens", "output"),
        )
        cost = amount_in(part.get("cost"))
        if cost is not None:
            self._cost_usd = round((self._cost_usd or 0) + cost, 6)
        match part.get("reason"):
            case "tool-calls":  # another step follows, but not where a tool was rejected
                self._stop = "denied" if self._rejected else None
                self._finished = self._rejected
            case "length":
                self._stop, self._finished = "truncated", True
            case "content-filter":
                self._stop, self._finished = "refused", True
            case _:
                self._finished = True
        return UsageSoFar(self._usage, self._cost_usd, self._turns)

    def _read_error(self, error: dict[str, Json]) -> Event:
        data = object_in(error.get("data"))
        name, message = text_at(error, "name"), text_at(data, "message")
        headers = object_in(data.get("responseHeaders"))
        after = text_at(headers, "retry-after")
        self._finished, self._in_step = True, False
        self._fail(message or name, number_at(data, "statusCode") or None, float(after) if after.isdecimal() else None)
        return Notice(one_line(message or name))


def retry_in_line(line: str) -> list[Event]:
    """Return that it tries again, where a line of its log says so."""
    found = _RETRY.search(line)
    if found is None:
        return []
    reason = reason_of(found[1])
    return [Retry(one_line(found[1]), None, None, reason.code, reason.http_status, reason.retry_after_s)]

"""Reads Claude Code: `claude -p --output-format stream-json --verbose --include-partial-messages`; Qwen Code as well.

Without the last option an answer is printed when it is whole, and nothing tells a long one from none.
"""

import re
from typing import ClassVar, Final

from agentbus.protocol.json_codec import Json, object_in
from agentbus.protocol.outcomes.failure_codes import FailureCode
from agentbus.protocol.outcomes.run_report import MAX_NAME_CHARS, amount_in
from agentbus.protocol.questions.asked_call import asked_call
from agentbus_worker.formats.events import (
    Activity,
    Event,
    Notice,
    Question,
    Retry,
    Start,
    Text,
    Tool,
    ToolEnd,
    UsageSoFar,
)
from agentbus_worker.formats.reading import (
    Reader,
    first_text_at,
    number_at,
    objects_at,
    one_line,
    summary_of,
    text_at,
)
from agentbus_worker.formats.reasons import reason_of

_STOPS: Final[dict[str, FailureCode]] = {
    "max_turns": "turn_limit",
    "error_max_turns": "turn_limit",
    "budget_exhausted": "budget",
    "error_max_budget_usd": "budget",
    "prompt_too_long": "context",
    "refusal": "refused",
    "max_tokens": "truncated",
    "max_output_tokens": "truncated",
}
"""What `terminal_reason`, `subtype`, `stop_reason` and `api_error` of the last line say."""
_STREAMED: Final = ("message_start", "content_block_start", "content_block_delta", "content_block_stop",
                    "message_delta", "message_stop")  # fmt: skip
"""The events of an answer that is being made: a ping is none."""
_MOST_IN_BACKGROUND: Final = 256
_PRINTED_BY_ITSELF: Final = "<synthetic>"
"""The model of a message that Claude Code wrote itself, such as an error."""


class ClaudeReader(Reader):
    """Reads the lines of Claude Code."""

    kind: ClassVar[str] = "claude"
    _program: ClassVar[str] = "claude_code"
    _input_holds_cached: ClassVar[bool] = False
    """Whether `input_tokens` holds what came from a cache, too."""

    _counts_over_session: ClassVar[bool] = False
    """Whether `usage` counts over all runs of a session, as the cost does."""
    _resuming: ClassVar[re.Pattern[str] | None] = re.compile(
        # The short forms are those of the agent itself: `sh -c` resumes nothing.
        r"(?:^|\s)(?:--continue|--resume)(?:[\s=]|$)|^\S*(?:claude|qwen)\S*\s(?:.*\s)?-[cr](?:\s|$)",
        re.DOTALL,
    )

    _message_id = ""
    _folder = ""
    _before_tool = ""
    _cost_since = 0.0

    _in_background: frozenset[str] = frozenset()
    """What was put into the background and has not ended."""

    @property
    def waits_for_background(self) -> bool:
        """Whether a command, or another agent, that was put into the background has not ended."""
        return bool(self._in_background)

    def _read(self, value: dict[str, Json]) -> list[Event] | None:
        self.session = text_at(value, "session_id") or self.session
        match value.get("type"):
            case "system":
                return self._read_system(value)
            case "assistant":
                return self._read_assistant(value)
            case "user":
                return [self._tool_end(part) for part in objects_at(value, "message", "content")
                        if part.get("type") == "tool_result"]  # fmt: skip
            case "result":
                return self._read_result(value)
            case "stream_event":
                return [Activity()] if text_at(value, "event", "type") in _STREAMED else []
            case "tool_progress":
                return [Activity()]
            case "rate_limit_event" | "control_request" | "keep_alive":
                return []
            case _:
                return None

    def _read_system(self, value: dict[str, Json]) -> list[Event]:
        match value.get("subtype"):
            case "init":
                self.model = text_at(value, "model") or self.model
                self.version = text_at(value, f"{self._program}_version") or self.version
                self._folder = text_at(value, "cwd")
                return [Start(self.session, self.model, self._folder or None)]
            case "api_retry":
                return [_retry(value)]
            case "retry":  # Qwen Code; the reason is on its standard error only
                data = object_in(value.get("data"))
                attempt, of = number_at(data, "attempt"), number_at(data, "maxRetries")
                return [Retry("", attempt or None, of or None, delay_s=_seconds(data.get("delayMs")))]
            case "permission_denied":
                return [Notice(one_line(f"not permitted: {text_at(value, 'tool_name')}: {text_at(value, 'message')}"))]
            case "task_started" | "task_notification":
                return self._read_background(value)
            case _:
                content = text_at(value, "content")
                return [Notice(one_line(content))] if content else []

    def _read_background(self, value: dict[str, Json]) -> list[Event]:
        task = text_at(value, "task_id")[:MAX_NAME_CHARS]
        if value.get("subtype") == "task_notification":
            self._in_background -= {task}
        elif value.get("is_backgrounded") is True and len(self._in_background) < _MOST_IN_BACKGROUND:
            self._in_background |= {task}
        return [Activity()]

    def _read_assistant(self, value: dict[str, Json]) -> list[Event]:
        message = object_in(value.get("message"))
        own = message.get("model") == _PRINTED_BY_ITSELF or value.get("is_api_error_message") is True
        of_helper = bool(text_at(value, "parent_tool_use_id"))  # an agent that this one has started
        events: list[Event] = []
        for part in objects_at(message, "content"):
            text = text_at(part, "text")
            if part.get("type") == "tool_use":
                name = text_at(part, "name")
                self._use(text_at(part, "id"), name)
                if not of_helper:
                    self._before_tool = self._message or self._before_tool
                    self._say("")
                events.append(Tool(name, summary_of(part.get("input")), text_at(part, "id")))
            elif text and own:
                events.append(Notice(one_line(text)))
            elif text:
                if not of_helper:
                    self._say(text, more=text_at(message, "id") == self._message_id)
                    self._message_id = text_at(message, "id")
                events.append(Text(text))
            elif part.get("type") in ("thinking", "redacted_thinking"):
                events.append(Activity())
        return events

    def _tool_end(self, part: dict[str, Json]) -> ToolEnd:
        content = part.get("content")
        text = content if isinstance(content, str) else " ".join(text_at(one, "text") for one in objects_at(content))
        call = text_at(part, "tool_use_id")
        return ToolEnd(self._tools.pop(call, ""), part.get("is_error") is not True, one_line(text), call)

    def _read_result(self, value: dict[str, Json]) -> list[Event]:
        self._finished = True
        usage = object_in(value.get("usage"))
        cached = number_at(usage, "cache_read_input_tokens")
        more = 0 if self._input_holds_cached else cached + number_at(usage, "cache_creation_input_tokens")
        self._count(input_tokens=number_at(usage, "input_tokens") + more, cached=cached,
                    output=number_at(usage, "output_tokens"), over_session=self._counts_over_session)  # fmt: skip
        self._turns = number_at(value, "num_turns") or None
        self._read_cost(value)
        for call in objects_at(value, "permission_denials"):
            self._deny(text_at(call, "tool_name"), call.get("tool_input"))
        said = (text_at(value, name) for name in ("terminal_reason", "api_error", "subtype", "stop_reason"))
        stop: FailureCode | None = next((_STOPS[word] for word in said if word in _STOPS), None)
        failed = value.get("is_error") is True or text_at(value, "subtype").startswith("error")
        if failed or stop is not None:
            self._read_failure(value, stop)
        else:
            self._say(text_at(value, "result"))
        return [UsageSoFar(self._usage, self._cost_usd, self._turns), *self._read_deferred(value)]

    def _read_deferred(self, value: dict[str, Json]) -> list[Event]:
        """Note the call of a tool that the run has ended before; a run that goes on has given it up.

        A resumed run that defers the same call again gives no `terminal_reason`.
        """
        call = object_in(value.get("deferred_tool_use"))
        deferred = "tool_deferred" in (text_at(value, "terminal_reason"), text_at(value, "stop_reason"))
        self.question = None
        if not call or not deferred:
            return []
        arguments = call.get("input")
        self.question = asked_call(
            text_at(call, "name"),
            arguments,
            summary=summary_of(arguments),
            folder=self._folder,
            text=self._before_tool,
            call=text_at(call, "id"),
        )
        return [Question(self.question.tool, self.question.summary)]

    def _read_cost(self, value: dict[str, Json]) -> None:
        """Note the cost: the total counts over all runs of a session, and later versions tell the difference, too."""
        cost = amount_in(value.get("total_cost_usd"))
        if cost is not None:
            self._cost_of_session(cost)
        since = value.get("model_usage_since_last_result")
        if isinstance(since, dict):
            costs = (amount_in(object_in(of).get("costUSD")) for of in object_in(since).values())
            self._cost_since += sum(cost for cost in costs if cost is not None)
            self._cost_usd = round(self._cost_since, 6)

    def _read_failure(self, value: dict[str, Json], stop: FailureCode | None) -> None:
        """Note why the run failed. `subtype` may say success: the flag beats it."""
        text = text_at(value, "error", "message") or text_at(value, "result") or first_text_at(value, "errors")
        self._fail(text, number_at(value, "api_error_status") or None)
        self._stop = stop
        if value.get("is_error") is not True and text_at(value, "result"):  # cut, but there is an answer
            self._say(text_at(value, "result"))
            self._error = None


def _retry(value: dict[str, Json]) -> Retry:
    status, words = number_at(value, "error_status") or None, text_at(value, "error")
    attempt, of = number_at(value, "attempt"), number_at(value, "max_retries")
    code = reason_of(words.replace("_", " "), status).code
    message = f"{words or 'error'}{f' ({status})' if status else ''}, try {attempt} of {of}"
    return Retry(message, attempt, of, code, status, delay_s=_seconds(value.get("retry_delay_ms")))


def _seconds(milliseconds: Json) -> float | None:
    known = amount_in(milliseconds)
    return known / 1000 if known is not None else None

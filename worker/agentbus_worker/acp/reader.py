"""Reads the driver of agents that speak the Agent Client Protocol: `output = "acp"`.

Agents name errors in several ways, and tell of no try to reach their model again, but for what some log.
"""

import re
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from agentbus.protocol.json_codec import Json, object_in
from agentbus.protocol.outcomes.failure_codes import FailureCode
from agentbus.protocol.outcomes.run_report import Run, Usage, amount_in
from agentbus_worker.acp.tool_calls import ToolCalls, arguments_of, call_id, title_of, tool_of
from agentbus_worker.formats.events import (
    Activity,
    Event,
    Notice,
    Question,
    QuestionEnd,
    Start,
    Text,
    Tool,
    ToolEnd,
    UsageSoFar,
)
from agentbus_worker.formats.gemini import retry_in_line as retry_of_gemini
from agentbus_worker.formats.judgement import Ended
from agentbus_worker.formats.opencode import retry_in_line as retry_of_opencode
from agentbus_worker.formats.reading import (
    Reader,
    Totals,
    number_at,
    object_of_line,
    objects_at,
    one_line,
    summary_of,
    text_at,
)
from agentbus_worker.formats.reasons import Reason, reason_of
from agentbus_worker.formats.text import is_failure_of_hermes

if TYPE_CHECKING:
    from collections.abc import Callable

_STOPS: Final[dict[str, FailureCode]] = {
    "max_tokens": "truncated",
    "max_turn_requests": "turn_limit",
    "refusal": "refused",
}
_BEFORE_THE_PROMPT: Final = ("start", "initialize", "session", "mode")
"""What fails there has no task to do with it: the command does not run here as it should."""
_NEEDS_LOGIN: Final = -32000
"""The code of the protocol for an agent that is not logged in."""
_NOTHING: Final = Totals()
_INTERNAL: Final = "Internal error"
"""What a library says of any exception of its agent: it would read as an error of the model's server."""


class AcpReader(Reader):
    """Reads the lines of the driver."""

    kind: ClassVar[str] = "acp"
    _resuming = re.compile("")
    """Any command: the cost counts over the session, and the driver tells whether the run goes on with one."""

    _before: Totals | None

    def __init__(self, before: Totals | None = None) -> None:
        super().__init__(before or _NOTHING)
        self._agent: str | None = None
        self._calls = ToolCalls()
        self._message_id = ""
        self._earlier_turns = Usage()
        self._earlier_answer = ""
        self._held: str | None = None
        """The first part of an answer. Where an error follows, it was none: agents say errors and warnings so, too."""
        self._died = ""
        self._unmet: FailureCode | None = None
        """The code of a failure for which the agent gave no reason that is known."""

    def _read(self, value: dict[str, Json]) -> list[Event] | None:
        kind = text_at(value, "acp")
        readers: dict[str, Callable[[dict[str, Json]], list[Event]]] = {
            "agent": self._read_agent,
            "session": self._read_session,
            "update": lambda line: self._read_update(object_in(line.get("update"))),
            "permission": self._read_permission,
            "question": self._read_question,
            "notice": lambda line: [Notice(one_line(text_at(line, "text")))],
            "turn": self._read_turn,
            "end": self._read_end,
            "error": self._read_error,
            "exit": self._read_exit,
        }
        return readers[kind](value) if kind in readers else None

    def _read_agent(self, value: dict[str, Json]) -> list[Event]:
        self._agent, self.version = text_at(value, "name") or None, text_at(value, "version") or None
        return []

    def _read_session(self, value: dict[str, Json]) -> list[Event]:
        self.session, self.model = text_at(value, "session") or None, text_at(value, "model") or None
        if value.get("resumed") is True and self._before == _NOTHING:
            self._before = None  # what it has cost before this run is not known
        return [Start(self.session, self.model, text_at(value, "folder") or None)]

    def report(self) -> Run:
        """Return what is known of the run so far; `kind` is what the agent calls itself."""
        return replace(super().report(), kind=self._agent or self.kind)

    # -- updates -----------------------------------------------------------------------------------------------------

    def _read_update(self, update: dict[str, Json]) -> list[Event]:
        match update.get("sessionUpdate"):
            case "agent_message_chunk":
                return self._read_part(update)
            case "agent_thought_chunk" | "plan" | "plan_update":
                return [Activity()]
            case "tool_call" | "tool_call_update":
                return self._read_tool(update)
            case "usage_update":
                cost = object_in(update.get("cost"))
                amount = amount_in(cost.get("amount"))
                if amount is not None and cost.get("currency") == "USD":
                    self._cost_of_session(amount)
                return [UsageSoFar(self._usage, self._cost_usd)]
            case _:
                return []

    def _read_part(self, update: dict[str, Json]) -> list[Event]:
        text, message = text_at(update, "content", "text"), text_at(update, "messageId")
        if used := object_in(object_in(update.get("_meta")).get("usage")):  # Qwen Code: of one answer of the model
            self._add(used)
        if not text:
            return [Activity()]
        self._say(text, more=message == self._message_id)
        self._message_id = message
        if self._held is None:
            self._held = text
            return [Activity()]
        return [*self._let_go(), Text(text)]

    def _let_go(self) -> list[Event]:
        """Return the part that was held back, once it is clear that it is one of an answer."""
        held, self._held = self._held, ""
        return [Text(held)] if held else []

    def _read_tool(self, update: dict[str, Json]) -> list[Event]:
        known, call = self._calls.note(update), call_id(update)
        name, begun = tool_of(known), call in self._tools
        summary, events = summary_of(arguments_of(known)), self._let_go()
        if summary.startswith("{"):  # there is no argument that tells what it does, or not yet
            if update.get("status") == "pending" and not begun:
                return [*events, Activity()]
            summary = title_of(known) or summary
        if not begun:
            self._use(call, name)
            self._say("")  # what was said before a tool is used is not the answer
            events.append(Tool(name, summary, call))
        if update.get("status") in ("completed", "failed"):
            self._calls.forget(update)
            self._tools.pop(call, None)
            events.append(ToolEnd(name, update.get("status") == "completed", _output_of(update), call))
        return events or [Activity()]

    def _read_question(self, value: dict[str, Json]) -> list[Event]:
        summary, title = summary_of(value.get("arguments")), text_at(value, "title")
        if summary.startswith("{"):
            summary = one_line(title) or summary
        return [
            Question(
                text_at(value, "operation"), summary, text_at(value, "id"), value.get("arguments"),
                text_at(value, "digest"), text_at(value, "folder"), title,
            )
        ]  # fmt: skip

    def _read_permission(self, value: dict[str, Json]) -> list[Event]:
        events = self._read_decision(value)
        question = text_at(value, "question")
        return [*events, QuestionEnd(question, value.get("withdrawn") is True)] if question else events

    def _read_decision(self, value: dict[str, Json]) -> list[Event]:
        tool, call, summary = text_at(value, "tool"), text_at(value, "call"), summary_of(value.get("arguments"))
        if summary.startswith("{"):  # Gemini CLI tells no arguments
            summary = text_at(value, "title") or summary
        if value.get("allowed") is not True:
            self._deny(tool, summary)
            return [Activity(), Notice(one_line(f"not permitted: {tool}: {summary}"))]
        if call in self._tools:
            return [Activity()]
        self._use(call, tool)
        self._say("")
        return [*self._let_go(), Tool(tool, summary, call)]

    # -- ends --------------------------------------------------------------------------------------------------------

    def _read_turn(self, value: dict[str, Json]) -> list[Event]:
        """Read the end of a turn after which the driver has told the agent why something was denied."""
        said = self._let_go()
        self._read_usage(value)
        self._earlier_answer, self._message_id = self._message, ""
        self._say("")
        return [*said, Activity(), UsageSoFar(self._usage, self._cost_usd)]

    def _read_end(self, value: dict[str, Json]) -> list[Event]:
        self._read_usage(value)
        if (words := self._failure_of_hermes()) is not None:
            self._held, self._finished = "", True
            self._say("")
            self._fail(words)
            return [Notice(one_line(words)), UsageSoFar(self._usage, self._cost_usd)]
        said = self._let_go()
        if not self._message.strip():
            self._say(self._earlier_answer)
        stop = text_at(value, "stop")
        # A turn that the driver was told to cancel has not succeeded, whatever the agent says of its end.
        self._finished = value.get("cancelled") is not True
        self._stop = _STOPS.get(stop) if self._finished else None
        if self._finished:
            self._note_stop(stop)
        return [*said, UsageSoFar(self._usage, self._cost_usd)]

    def _failure_of_hermes(self) -> str | None:
        """Return the words with which Hermes has ended its turn where its model has failed; None otherwise."""
        answer = self._message.strip()
        return answer if "hermes" in (self._agent or "").lower() and is_failure_of_hermes(answer) else None

    def _read_usage(self, value: dict[str, Json]) -> None:
        """Read what a turn has used, and add it to what those before have."""
        if usage := object_in(value.get("usage")):
            self._usage = self._earlier_turns
            self._add(usage)
        else:
            self._read_quota(object_in(object_in(value.get("meta")).get("quota")))
        self._earlier_turns = self._usage

    def _note_stop(self, stop: str) -> None:
        if stop == "cancelled":
            if self._denied:
                self._stop = "denied"
            else:
                self._fail("the agent cancelled its turn")
        elif self._stop is None and self._denied and not self._message.strip():
            self._stop = "denied"

    def _add(self, usage: dict[str, Json]) -> None:
        """Add tokens as the protocol has them: those of a cache are not in `inputTokens`."""
        before, cached = self._usage, number_at(usage, "cachedReadTokens")
        read = number_at(usage, "inputTokens") + cached + number_at(usage, "cachedWriteTokens")
        self._count(
            input_tokens=(before.input_tokens or 0) + read,
            cached=(before.cached_input_tokens or 0) + cached,
            output=(before.output_tokens or 0) + number_at(usage, "outputTokens"),
        )

    def _read_quota(self, quota: dict[str, Json]) -> None:
        """Read what Gemini CLI says of its tokens, and its models."""
        tokens = object_in(quota.get("token_count"))
        if tokens:
            before = self._earlier_turns
            read, written = number_at(tokens, "input_tokens"), number_at(tokens, "output_tokens")
            self._count(input_tokens=(before.input_tokens or 0) + read, cached=before.cached_input_tokens or 0,
                        output=(before.output_tokens or 0) + written)  # fmt: skip
        models = list(objects_at(quota, "model_usage"))
        if models:
            most = max(models, key=lambda one: number_at(one, "token_count", "output_tokens"))
            self.model = text_at(most, "model") or self.model

    def _read_error(self, value: dict[str, Json]) -> list[Event]:
        during, words = text_at(value, "during"), _words_of(value)
        self._fail(words or text_at(value, "message"), _status_in(value))
        self._reason = self._reason._replace(code=self._code_of(value, during)) if words else Reason(None)
        self._unmet = "not_started" if during in _BEFORE_THE_PROMPT else None
        said = [Notice(one_line(event.text)) for event in self._let_go() if isinstance(event, Text)]
        if self._message.strip() in words:  # Claude Code says an error first, as an answer
            self._say("")
        return [*said, Notice(one_line(self._error or ""))]

    def _code_of(self, value: dict[str, Json], during: str) -> FailureCode | None:
        """Return the code of an error, which its words have been searched for."""
        if value.get("code") == _NEEDS_LOGIN:
            return "auth"
        return self._reason.code or ("session_gone" if during == "resume" else None)

    def _read_exit(self, value: dict[str, Json]) -> list[Event]:
        code = value.get("code")
        how = f"the agent ended with exit code {code}" if isinstance(code, int) else "the agent closed its output"
        during = text_at(value, "during")
        self._died = f"{how} before it had answered {'the prompt' if during == 'prompt' else during}"
        self._unmet = "not_started" if during in _BEFORE_THE_PROMPT else "exit"
        if isinstance(code, int) and code < 0 and self._unmet == "exit":
            self._unmet = "signal"
        return [Notice(self._died)]

    @property
    def _closed(self) -> bool:
        return super()._closed or bool(self._died)

    def _failure(self, ended: Ended) -> tuple[FailureCode | None, str]:
        if self._died and ended.reason == "exited":
            words = self._last_words(ended)
            return reason_of(words).code or self._unmet, ": ".join(part for part in (self._died, words) if part)
        code, message = super()._failure(ended)
        return (self._unmet if code == "exit" and self._unmet else code), message

    def _read_error_line(self, line: str) -> list[Event]:
        return retry_of_gemini(line) or retry_of_opencode(line)


def _output_of(update: dict[str, Json]) -> str:
    texts = [text_at(part, "content", "text") for part in objects_at(update, "content")]
    raw = update.get("rawOutput")
    if isinstance(raw, str):
        texts.append(raw)
    else:
        texts.append(text_at(raw, "output") or text_at(raw, "error"))
    return one_line(next((text for text in texts if text), ""))


def _words_of(error: dict[str, Json]) -> str:
    """Return what an error says; empty where that is only that there was one."""
    message = text_at(error, "message").strip()
    message = text_at(object_of_line(message.encode()), "error", "message") or message  # Gemini CLI: an answer of HTTP
    if message.startswith(_INTERNAL):
        message = message.removeprefix(_INTERNAL).lstrip(": ")
    further = [text for text in _texts_of(error.get("data")) if text not in message]
    return ": ".join(part for part in (message, *further) if part)


def _texts_of(data: Json) -> list[str]:
    """Return what the data of an error says in words."""
    if isinstance(data, str):
        return [data]
    found = [
        text_at(data, name) for name in ("details", "message", "errorName", "errorKind", "service", "codex_error_info")
    ]
    found.append(text_at(data, "error", "message"))
    return [text.replace("_", " ") for text in found if text and text != "other"]


def _status_in(error: dict[str, Json]) -> int | None:
    """Return the HTTP status that an error names: as its code, or somewhere in its data."""
    data = error.get("data")
    places = ((error, "code"), (data, "statusCode"), (data, "status"), (data, "http_status"), (data, "httpStatusCode"))
    numbers = [number_at(value, name) for value, name in places]
    return next((number for number in numbers if 400 <= number < 600), None)

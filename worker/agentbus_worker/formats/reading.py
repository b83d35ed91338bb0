"""What all readers share: lines of JSON are read without ever failing, and the end of a run is judged by one rule.

A reader is a pure object. It keeps a bounded part of what it has read: the last message, the last error, the numbers.
"""

import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final, cast

from agentbus.errors import MessageError
from agentbus.protocol import approval
from agentbus.protocol.json_codec import Json, decode, object_in
from agentbus.protocol.messages import Failure
from agentbus.protocol.outcomes.failure_codes import FailureCode
from agentbus.protocol.outcomes.run_report import FALLBACK, MAX_DENIED, MAX_NAME_CHARS, Denied, Run, Usage
from agentbus_worker.formats.events import MAX_SUMMARY_CHARS, Activity, Event, Retry
from agentbus_worker.formats.judgement import STOPPED, Ended, Judgement, SideFile
from agentbus_worker.formats.reasons import Reason, limit_of, reason_of
from agentbus_worker.formats.text import last_lines, telling_line, text_outcome

if TYPE_CHECKING:
    from agentbus.protocol.questions.asked_call import AskedCall

_MAX_MESSAGE_CHARS: Final = 1_048_576
"""How much of the last message is kept: no message of the bus holds more."""
_MAX_ERROR_CHARS: Final = 4_000
_MOST_TOOLS: Final = 256
"""Tools that are in use at a time; of more than that, the name of the one that ends is not known."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Numbers of a session up to some time, from agents that count over all of its runs."""

    cost_usd: float = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0


class Reader(ABC):
    """Reads the events that an agent prints as lines of JSON; each agent has its own.

    Args:
        before: the totals of the session before this run; None if the run goes on with a session of which they are not
            known. Then numbers that count over the session are left out.
    """

    kind: ClassVar[str]
    _resuming: ClassVar[re.Pattern[str] | None] = None
    """What stands in a command that goes on with an earlier session, where numbers count over the session."""
    environment: ClassVar[Mapping[str, str]] = {}
    """What the agent needs in its environment to tell all that is read here, unless it is set there already."""
    side_file: ClassVar[SideFile | None] = None
    """A file in which it says what it does not print."""

    def __init__(self, before: Totals | None = Totals()) -> None:
        self._before = before
        self.totals = Totals()
        self.session: str | None = None
        self.model: str | None = None
        self.version: str | None = None
        self._understood = 0
        self._foreign_since = False
        self._finished = False
        self._said = io.StringIO()  # an answer may come in very many parts
        self._turns: int | None = None
        self._usage = Usage()
        self._cost_usd: float | None = None
        self._denied: list[Denied] = []
        self._error: str | None = None
        self._reason = Reason(None)
        self._stop: FailureCode | None = None
        self.question: AskedCall | None = None
        self._retry: Retry | None = None
        self._tools: dict[str, str] = {}

    @classmethod
    def counts_earlier_runs(cls, command: Sequence[str]) -> bool:
        """Whether a command goes on with a session whose earlier runs its numbers count, as far as its words tell."""
        return cls._resuming is not None and cls._resuming.search(" ".join(command)) is not None

    @property
    def understood(self) -> bool:
        """Whether there was an event of this format at all."""
        return self._understood > 0

    @property
    def is_text(self) -> bool:
        """Whether something was printed, and none of it is an event of this format."""
        return self._foreign_since and not self.understood

    @property
    def waits_for_background(self) -> bool:
        """Whether something that the agent has put into the background is at work, and nothing of that is printed."""
        return False

    @property
    def may_use_a_tool(self) -> bool:
        """Whether a tool may be in use of which the agent tells only once it has ended."""
        return False

    def feed(self, line: bytes) -> list[Event]:
        """Read a line, and return the events in it: none for a line that is not understood. Never raises."""
        value = object_of_line(line)
        events = self._read(value) if value else None
        if events is None:
            self._foreign_since = self._foreign_since or bool(line.strip())
            return [Activity()] if value else []  # a later version of the agent may say in it that it works
        self._understood += 1
        self._foreign_since = False
        return self._noted(events)

    def feed_error(self, line: bytes) -> list[Event]:
        """Read a line of standard error, and return the events in it; as `feed`."""
        return self._noted(self._read_error_line(line.decode(errors="replace").rstrip()))

    def feed_side_file(self, end: bytes) -> None:
        """Take the last part of the side file, which need not begin or end at a line. Never raises."""
        del end

    def _noted(self, events: list[Event]) -> list[Event]:
        for event in events:
            if isinstance(event, Retry):
                self._retry = event
        return events

    def pass_over(self) -> None:
        """Note that a line was too long to be read."""
        self._foreign_since = True

    @abstractmethod
    def _read(self, value: dict[str, Json]) -> list[Event] | None:
        """Take an object of a line; None if it is no event of this format."""

    def _read_error_line(self, line: str) -> list[Event]:  # noqa: ARG002  # for the readers that find something there
        """Take a line of standard error."""
        return []

    def outcome(self, ended: Ended) -> Judgement:
        """Judge the run: exit code 0 is not enough for `completed`."""
        if ended.reason == "stalled" and self._succeeded:  # the agent had ended, and its process had not
            ended = replace(ended, reason="exited", code=0, given_up=None)
        if self._unreadable(ended):
            return text_outcome(ended, Run(FALLBACK, kind=self.kind))
        code, message = self._failure(ended)
        run = self.report()
        if code is not None:
            known = ended.given_up or (self._reason if self._error else self._hint(ended))
            code = limit_of(code, known.retry_after_s, longest_wait_s=ended.longest_wait_s)
            return Judgement(
                "failed", self._message, run, Failure(code, message, known.http_status, known.retry_after_s)
            )
        if (asked := self.question) is not None:
            said = [asked.text, f"The agent asks whether it may use {asked.shown}"]
            return Judgement("needs_approval", "\n\n".join(part for part in said if part), run, question=asked)
        asks = approval.is_asked_in(self._message)
        return Judgement("needs_approval" if asks else "completed", self._message, run)

    def report(self) -> Run:
        """Return what is known of the run so far."""
        return Run(
            self.kind,
            kind=self.kind,
            version=self.version,
            session=self.session,
            model=self.model,
            turns=self._turns,
            usage=self._usage,
            cost_usd=self._cost_usd,
            denied=tuple(self._denied),
        )

    def _unreadable(self, ended: Ended) -> bool:
        """Whether the run has to be read as text: nothing was understood, or its end was not."""
        if not self.understood:
            return self.is_text
        succeeded = ended.reason == "exited" and ended.code == 0
        return succeeded and not self._closed and (self._foreign_since or not self._message.strip())

    @property
    def _message(self) -> str:
        """The last message, as far as it has come."""
        return self._said.getvalue()

    @property
    def _closed(self) -> bool:
        """Whether the agent has said how the run ended."""
        return self._finished or self._error is not None or self._stop is not None or self.question is not None

    @property
    def _succeeded(self) -> bool:
        """Whether the agent has said that the run ended without an error."""
        return self._finished and self._error is None and self._stop is None and bool(self._message.strip())

    def _failure(self, ended: Ended) -> tuple[FailureCode | None, str]:
        """Return the code of the failure and its message, which the agent's own words are where there are some."""
        if ended.reason in ("timeout", "idle"):
            return ended.reason, self._with_last_words(ended)
        if ended.given_up is not None:
            return ended.given_up.code, self._with_last_words(ended)
        if self._stop is not None:
            return self._stop, self._error or STOPPED[self._stop]
        if self._error is not None:
            return self._reason.code or _exit_code(ended), self._error
        if ended.code != 0 or ended.reason != "exited":
            return reason_of(self._last_words(ended)).code or _exit_code(ended), self._with_last_words(ended)
        if self.question is None and not self._message.strip():
            return "empty", STOPPED["empty"]
        return None, ""

    def _with_last_words(self, ended: Ended) -> str:
        words = self._last_words(ended)
        return ": ".join(part for part in (ended.how, words) if part)

    def _hint(self, ended: Ended) -> Reason:
        """Return what the last words say of the server, where the agent printed no error."""
        if self._retry is not None and self._retry.http_status:
            return Reason(self._retry.code, self._retry.http_status, self._retry.retry_after_s)
        return reason_of(self._last_words(ended)) if ended.stderr else Reason(None)

    def _last_words(self, ended: Ended) -> str:
        """Return why the agent waited, or what it printed last on standard error."""
        if self._error is not None:
            return self._error
        if self._retry is not None and self._retry.message:
            return self._retry.message
        found = telling_line(ended.stderr)
        # Agents print warnings there, which are not the reason of an end that the worker brought about.
        return found or (last_lines(ended.stderr) if ended.reason == "exited" else "")

    # -- what the readers of the formats note ----------------------------------------------------------------------

    def _say(self, text: str, *, more: bool = False) -> None:
        """Take a message of the model, or with `more` the next part of the one before."""
        if not more:
            self._said = io.StringIO()
        room = _MAX_MESSAGE_CHARS - self._said.tell()
        if room > 0:
            self._said.write(text[:room])

    def _fail(self, text: str, http_status: int | None = None, retry_after_s: float | None = None) -> None:
        """Note an error that ends the run."""
        self._error = text[:_MAX_ERROR_CHARS] or "the agent gave no reason"
        self._reason = reason_of(self._error, http_status, retry_after_s)

    def _deny(self, tool: str, arguments: Json) -> None:
        """Note a call of a tool that was not permitted."""
        if len(self._denied) < MAX_DENIED:
            self._denied.append(Denied(tool[:MAX_NAME_CHARS], summary_of(arguments)))

    def _use(self, call: str, tool: str) -> None:
        """Note that a tool is in use."""
        if len(self._tools) >= _MOST_TOOLS:
            self._tools.clear()
        self._tools[call] = tool[:MAX_NAME_CHARS]

    def _count(self, *, input_tokens: int, cached: int, output: int, over_session: bool = False) -> None:
        """Note the tokens of the run, or with `over_session` those of its session up to now."""
        if not over_session:
            self._usage = Usage(input_tokens, cached, output)
            return
        before = self._before
        self.totals = Totals(self.totals.cost_usd, input_tokens, cached, output)
        if before is not None:
            since = (input_tokens - before.input_tokens, cached - before.cached_input_tokens,
                     output - before.output_tokens)  # fmt: skip
            # A session that counts less than before was compacted or is another one: then its numbers are this run's.
            self._usage = Usage(*since) if min(since) >= 0 else Usage(input_tokens, cached, output)

    def _cost_of_session(self, cost_usd: float) -> None:
        """Note what the session has cost up to now."""
        self.totals = replace(self.totals, cost_usd=cost_usd)
        if self._before is not None:
            since = cost_usd - self._before.cost_usd
            self._cost_usd = round(since if since >= 0 else cost_usd, 6)


def _exit_code(ended: Ended) -> FailureCode:
    """Return the code of an end for which there is no better one."""
    return "signal" if ended.code is not None and ended.code < 0 else "exit"


# -- values of others -------------------------------------------------------------------------------------------------


def object_of_line(line: bytes) -> dict[str, Json]:
    """Return the JSON object that a line is; an empty one if it is anything else."""
    line = line.strip()
    if not line.startswith(b"{") or not line.endswith(b"}"):
        return {}
    try:
        return object_in(decode(line))
    except MessageError:
        pass
    try:  # with a half of a surrogate pair: agents cut texts in the middle of a character
        value = json.loads(line.decode(errors="replace"), parse_constant=lambda _: None)
        return object_in(json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace")))
    except (ValueError, RecursionError):
        return {}


def text_at(value: Json, *path: str) -> str:
    """Return the text at a path of keys; an empty one if there is none."""
    for name in path:
        value = object_in(value).get(name)
    return value if isinstance(value, str) else ""


def first_text_at(value: Json, *path: str) -> str:
    """Return the first text in the list at a path of keys; an empty one if there is none."""
    for name in path:
        value = object_in(value).get(name)
    found = cast("list[Json]", value) if isinstance(value, list) else []
    return next((item for item in found if isinstance(item, str)), "")


def objects_at(value: Json, *path: str) -> Iterator[dict[str, Json]]:
    """Yield the objects of the list at a path of keys."""
    for name in path:
        value = object_in(value).get(name)
    if isinstance(value, list):
        yield from (object_in(item) for item in cast("list[Json]", value))


def number_at(value: Json, *path: str) -> int:
    """Return the whole number at a path of keys; 0 if there is none."""
    for name in path:
        value = object_in(value).get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else 0


def summary_of(arguments: Json) -> str:
    """Return a line about the arguments of a tool: what is run, read or written, if they name it."""
    named = object_in(arguments)
    if isinstance(arguments, str):
        text = arguments
    else:
        found = (named.get(name) for name in _TELLING)
        text = next((value for value in found if isinstance(value, str) and value), "")
    if not text and named:
        text = json.dumps(named, ensure_ascii=False)
    return one_line(text)


_TELLING: Final = (
    "command", "cmd", "file_path", "filePath", "path", "url", "pattern", "query", "description", "prompt",
)  # fmt: skip


def one_line(text: str) -> str:
    """Return a text on one line, of bounded length."""
    text = " ".join(text[: 4 * MAX_SUMMARY_CHARS].split())
    return text if len(text) <= MAX_SUMMARY_CHARS else text[: MAX_SUMMARY_CHARS - 1] + "…"

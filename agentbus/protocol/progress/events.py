"""What a run tells while it goes on: events in one form for all agents, several to a message, and their bounds.

A worker writes them from the output of an agent, so a reader checks and bounds each field. Their text is the agent's:
data, never instructions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal, TypeAlias, cast, get_args

from agentbus.errors import MessageError
from agentbus.protocol.json_codec import Json, decode, object_in
from agentbus.protocol.outcomes.run_report import Usage, amount_in, count_in
from agentbus.protocol.stored_message import StoredMessage

MAX_MESSAGE_BYTES: Final = 4_096
"""Of one message with events."""
MAX_STORED_BYTES: Final = 8_192
"""Of one that the bus takes: what a later version adds must fit."""
MAX_TEXT_CHARS: Final = 2_000
"""Of the text of one event, as readers take it: a message holds no more than that of most scripts."""
MAX_NAME_CHARS: Final = 100
MAX_LINE_CHARS: Final = 200
"""Of an event where one line tells how far a run is."""
_MOST_EVENTS: Final = 128
"""Of one message, as readers take them: none of ours has more than half as many."""

EventKind: TypeAlias = Literal["start", "text", "tool", "tool_end", "retry", "question", "usage", "notice", "dropped"]
"""`dropped` is written by readers alone, in place of what was not kept, or cannot be read now."""
_KINDS: Final = frozenset(get_args(EventKind)) - {"dropped"}


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has used up to now. What is not known is None."""

    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    turns: int | None = None

    @property
    def known(self) -> bool:
        """Whether anything of it is known."""
        return self != Spent()

    def to_json(self) -> dict[str, Json]:
        """The fields that are known."""
        values = {**self.usage.to_json(), "cost_usd": self.cost_usd, "turns": self.turns}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def in_words(self) -> str:
        """The numbers for a person: `12,345 tokens in, 678 out, $0.12`; empty where none is known."""
        tokens, cost = self.usage, self.cost_usd
        parts = [
            f"{tokens.input_tokens:,} tokens in" if tokens.input_tokens is not None else "",
            f"{tokens.output_tokens:,} out" if tokens.output_tokens is not None else "",
            f"${cost:.2f}" if cost is not None else "",
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One event of a run.

    Attributes:
        elapsed_s: the seconds since the command was started.
        text: what the model said or the command printed, what a tool is used for or what came of it, or why the agent
            waits; the agent's own words.
        name: of a tool, or of the model that is started.
        ok: of a tool that has ended, whether it did what it was used for.
        on_stderr: the command printed the text on standard error.
        spent: of `usage`.
        at: when the bus stored it; None before that.
        attempt: of the task, from 1 on.
    """

    kind: EventKind
    elapsed_s: float = 0.0
    text: str = ""
    name: str = ""
    ok: bool | None = None
    on_stderr: bool = False
    spent: Spent = field(default_factory=Spent)
    at: datetime | None = None
    attempt: int = 0

    def to_json(self) -> dict[str, Json]:
        """The event in a message, without what it has not."""
        optional: dict[str, Json] = {
            "text": self.text or None,
            "name": self.name or None,
            "ok": self.ok,
            "stderr": self.on_stderr or None,
            **self.spent.to_json(),
        }
        known = {name: value for name, value in optional.items() if value is not None}
        return {"kind": self.kind, "t": round(self.elapsed_s, 1), **known}

    @property
    def in_words(self) -> str:
        """The event in a line or more for a person, with the agent's words as they are."""
        tool = self.name or ("the tool" if self.kind == "tool_end" else "a tool")
        match self.kind:
            case "start":
                return " ".join(part for part in ("started", self.name, self.text) if part)
            case "tool":
                return _joined(f"uses {tool}", self.text)
            case "tool_end":
                return _joined(f"{tool} {'failed' if self.ok is False else 'ended'}", self.text)
            case "retry":
                return _joined("waits for its model", self.text)
            case "question":
                return _joined(f"asks whether it may use {tool}", self.text)
            case "usage":
                return self.spent.in_words
            case _:
                return self.text


def _joined(what: str, words: str) -> str:
    return f"{what}: {words}" if words else what


@dataclass(frozen=True, slots=True)
class ProgressMessage:
    """What a run tells at one time.

    Attributes:
        run: tells the runs of one task apart: each attempt of a worker has its own.
        before: how many events the run had before these, told or not.
        left_out: how many more it had beside these, which were too many to tell.
        bytes_left_out: how much output of a command that prints text was not told, up to now.
        spent: what the run has used up to now.
        ended: nothing more comes of this run.
        at: when the bus stored it.
    """

    run: str
    attempt: int
    elapsed_s: float
    events: tuple[RunEvent, ...] = ()
    before: int = 0
    left_out: int = 0
    bytes_left_out: int = 0
    spent: Spent = field(default_factory=Spent)
    ended: bool = False
    at: datetime | None = None

    def to_json(self) -> dict[str, Json]:
        """The message as it is published."""
        spent = self.spent.to_json()
        optional: dict[str, Json] = {
            "before": self.before or None,
            "left_out": self.left_out or None,
            "bytes_left_out": self.bytes_left_out or None,
            "spent": spent or None,
            "ended": self.ended or None,
        }
        return {
            "run": self.run,
            "attempt": self.attempt,
            "elapsed_s": round(self.elapsed_s, 1),
            "events": [event.to_json() for event in self.events],
            **{name: value for name, value in optional.items() if value is not None},
        }

    def summary(self) -> dict[str, Json]:
        """Where the run stands, for programs: the last event with its time, the time of the run, what it has used."""
        last = self.telling
        told: dict[str, Json] = {
            "last": _last_line(last.in_words) if last else None,
            "kind": last.kind if last else None,
            "at": self.at.isoformat() if self.at else None,
            "elapsed_s": round(self.elapsed_s, 1),
            "attempt": self.attempt,
            **self.spent.to_json(),
        }
        return {name: value for name, value in told.items() if value is not None}

    @property
    def in_words(self) -> str:
        """The same in a line for a person."""
        last = self.telling
        words = _last_line(last.in_words) if last else "its run has ended" if self.ended else ""
        spent = self.spent.in_words
        return f"{words or 'runs'} (after {self.elapsed_s:.0f} s{f', {spent}' if spent else ''})"

    @property
    def telling(self) -> RunEvent | None:
        """The last event that says what the run does; None if it has numbers only."""
        return next((event for event in reversed(self.events) if event.kind != "usage"), None)


def _last_line(words: str) -> str:
    """Return the last line of a text that says something, of bounded length: of what is printed, the newest."""
    line = next((line for line in reversed(words.splitlines()) if line.strip()), "").strip()
    return line if len(line) <= MAX_LINE_CHARS else line[: MAX_LINE_CHARS - 1] + "…"


def read_progress(message: StoredMessage) -> ProgressMessage | None:
    """Read a stored message; None if it is none of ours: it is passed over. Whatever it holds, this raises nothing."""
    if message.relayed or not 0 < len(message.data) <= MAX_STORED_BYTES:
        return None
    try:
        found = object_in(decode(message.data))
    except MessageError:
        return None
    run, attempt, listed = found.get("run"), count_in(found.get("attempt")), found.get("events")
    if not isinstance(run, str) or not run or attempt is None or not isinstance(listed, list):
        return None
    events = [_event(object_in(one)) for one in cast("list[Json]", listed)[:_MOST_EVENTS]]
    return ProgressMessage(
        run[:MAX_NAME_CHARS],
        attempt,
        _amount(found, "elapsed_s"),
        tuple(replace(one, at=message.time, attempt=attempt) for one in events if one is not None),
        before=_count(found, "before"),
        left_out=_count(found, "left_out"),
        bytes_left_out=_count(found, "bytes_left_out"),
        spent=_spent(object_in(found.get("spent"))),
        ended=found.get("ended") is True,
        at=message.time,
    )


def _count(found: Mapping[str, Json], name: str) -> int:
    return count_in(found.get(name)) or 0


def _amount(found: Mapping[str, Json], name: str) -> float:
    return amount_in(found.get(name)) or 0.0


def _event(found: Mapping[str, Json]) -> RunEvent | None:
    """Read an event; None if its kind is not known: a later version may have more."""
    kind = found.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        return None
    ok = found.get("ok")
    return RunEvent(
        cast("EventKind", kind),
        _amount(found, "t"),
        _text(found.get("text"), MAX_TEXT_CHARS),
        _text(found.get("name"), MAX_NAME_CHARS),
        ok if isinstance(ok, bool) else None,
        found.get("stderr") is True,
        _spent(found),
    )


def _spent(found: Mapping[str, Json]) -> Spent:
    usage = Usage(*(count_in(found.get(name)) for name in Usage.__slots__))
    return Spent(usage, amount_in(found.get("cost_usd")), count_in(found.get("turns")))


def _text(value: Json, most: int) -> str:
    return value[:most] if isinstance(value, str) else ""

"""Keeps the events of a run until they are told, in bounded memory: what an agent does before what it says."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeAlias

from agentbus.protocol.json_codec import encode
from agentbus.protocol.progress.events import MAX_NAME_CHARS, MAX_TEXT_CHARS, EventKind, RunEvent, Spent
from agentbus_worker.formats.events import (
    Activity,
    Event,
    Notice,
    Question,
    QuestionEnd,
    Retry,
    Start,
    Text,
    Tool,
    ToolEnd,
    UsageSoFar,
)

_Shown: TypeAlias = Start | Text | Tool | ToolEnd | Retry | Question | UsageSoFar | Notice
_MOST_DEEDS: Final = 40
_MOST_WORDS: Final = 20
_WORDS: Final = frozenset[EventKind](("text", "notice"))
_LEAST_CUT_CHARS: Final = 20
"""The beginning of a text that is shorter than this tells nothing."""


class Collected:
    """The events of a run that were not told yet. Where there are too many, the older ones go, texts first.

    Attributes:
        seen: how many events the run had up to now. The parts of one message of a model count as one.
        spent: what the run has used up to now.
    """

    def __init__(self, *, with_words: bool) -> None:
        """`with_words`: also keep what the model says and the command prints."""
        self._with_words = with_words
        self._deeds = deque[tuple[int, RunEvent]](maxlen=_MOST_DEEDS)
        self._words = deque[tuple[int, RunEvent]](maxlen=_MOST_WORDS)
        self._said = False  # whether the last event was a text, which the next one continues
        self._told = 0
        self.seen = 0
        self.spent = Spent()

    @property
    def waiting(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._deeds or self._words)

    def add(self, event: Event, elapsed_s: float) -> None:
        """Take an event of a reader."""
        if (made := run_event(event, elapsed_s)) is None:
            return
        if made.kind == "usage":
            self.spent = made.spent
        self.add_event(made)

    def add_event(self, event: RunEvent) -> None:
        """Take an event in the form in which it is told."""
        words = event.kind in _WORDS
        if words and not self._with_words:
            return
        goes_on, self._said = self._said and event.kind == "text", event.kind == "text"
        if goes_on and self._words and not event.on_stderr:
            number, before = self._words[-1]
            if not before.on_stderr and len(before.text) + len(event.text) <= MAX_TEXT_CHARS:
                self._words[-1] = number, replace(before, text=before.text + event.text)
                return
        (self._words if words else self._deeds).append((self.seen, event))
        self.seen += 1

    def take(self, max_bytes: int, redact: Callable[[str], str]) -> tuple[list[RunEvent], int, int]:
        """Return what fits, the newest first to fit, in the order of the run; the rest is dropped.

        Returns the events, how many there were before these since the start, and how many of these were dropped.
        """
        before, self._told, self._said = self._told, self.seen, False
        taken: list[tuple[int, RunEvent]] = []
        for number, event in (*reversed(self._deeds), *reversed(self._words)):
            told = replace(event, text=redact(event.text), name=redact(event.name))
            size = _size(told)
            if size > max_bytes:
                told = _cut(told, max_bytes)
                if told is None:
                    continue
                size = _size(told)
            max_bytes -= size
            taken.append((number, told))
        self._deeds.clear()
        self._words.clear()
        taken.sort(key=lambda one: one[0])
        return [event for _, event in taken], before, self.seen - before - len(taken)


def _size(event: RunEvent) -> int:
    return len(encode(event.to_json())) + 1


def _cut(event: RunEvent, max_bytes: int) -> RunEvent | None:
    """Shorten the text of an event so that it fits; None if hardly anything would be left of it."""
    room = max_bytes - _size(replace(event, text=""))
    while room >= _LEAST_CUT_CHARS:
        shorter = replace(event, text=event.text[:room] + "…")
        if (over := _size(shorter) - max_bytes) <= 0:
            return shorter
        room -= max(over // 6, 8)  # a character takes up to six bytes
    return None


def run_event(event: Event, elapsed_s: float) -> RunEvent | None:
    """Return an event in the form in which it is told, bounded, and without what JSON cannot carry.

    None: there is nothing to show of it.
    """
    if isinstance(event, Activity | QuestionEnd):
        return None
    kind, name, text, ok, spent = _parts(event)
    return RunEvent(kind, elapsed_s, _clean(text, MAX_TEXT_CHARS), _clean(name, MAX_NAME_CHARS), ok, spent=spent)


def _parts(event: _Shown) -> tuple[EventKind, str, str, bool | None, Spent]:
    match event:
        case Start():
            return "start", event.model or "", f"in {event.folder}" if event.folder else "", None, Spent()
        case Text():
            return "text", "", event.text, None, Spent()
        case Tool():
            return "tool", event.name, event.summary, None, Spent()
        case ToolEnd():
            return "tool_end", event.name, event.summary, event.ok, Spent()
        case Retry():
            return "retry", "", event.message or _try(event), None, Spent()
        case Question():
            return "question", event.tool, event.summary, None, Spent()
        case UsageSoFar():
            return "usage", "", "", None, Spent(event.usage, event.cost_usd, event.turns)
        case Notice():
            return "notice", "", event.text, None, Spent()


def _try(event: Retry) -> str:
    return f"try {event.attempt} of {event.of}" if event.attempt and event.of else event.code or ""


def _clean(text: str, most: int) -> str:
    """Return the beginning of a text, without halves of characters."""
    text = text if len(text) <= most else text[: most - 1] + "…"
    return text.encode(errors="replace").decode()

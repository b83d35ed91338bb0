"""What a result says of the run of an agent: session, model, turns, tokens, cost, and what it was not permitted to do.

A worker writes it, and it comes from the output of an agent, so each reader bounds what it takes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, cast

from agentbus.protocol.json_codec import Json, object_in

FALLBACK: Final = "text (fallback)"
"""The format of a run whose output could not be read in the format of the configuration."""
MAX_NAME_CHARS: Final = 200
"""Of a session, a model, a tool: the longest that is known has 60 characters."""
MAX_DENIED: Final = 16
"""How many denied calls of tools are listed: as many as a person reads."""
MAX_SUMMARY_CHARS: Final = 300
_MOST: Final = 2**53
"""The largest number that every reader of JSON keeps."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of a run. `input_tokens` is all that the model read, `cached_input_tokens` the part from a cache."""

    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None

    def to_json(self) -> dict[str, Json]:
        """The value of the field `usage`, without what is not known."""
        return _known(
            input_tokens=self.input_tokens,
            cached_input_tokens=self.cached_input_tokens,
            output_tokens=self.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class Denied:
    """A call of a tool that was not permitted."""

    tool: str
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of an agent. What is not known is None.

    Attributes:
        format: how the output was read: a format of the configuration, or `text (fallback)` where it could not be read
            so.
        kind: the agent, as far as the format says it.
        version: of the agent.
        turns: how often the model answered.
        cost_usd: of this run alone, as the agent reckons it.
        place: where the session is kept, for a task that goes on with it.
        resumed: of a task that goes on with an earlier one, whether it did so in its session.
    """

    format: str
    kind: str | None = None
    version: str | None = None
    session: str | None = None
    model: str | None = None
    turns: int | None = None
    usage: Usage = Usage()
    cost_usd: float | None = None
    denied: tuple[Denied, ...] = ()
    place: str | None = None
    resumed: bool | None = None

    @property
    def figures(self) -> "Run":
        """The model, the tokens and the cost alone: what a list shows of a run."""
        return Run(self.format, model=self.model, usage=self.usage, cost_usd=self.cost_usd)

    def to_json(self) -> dict[str, Json]:
        """The value of the field `run`, bounded, without what is not known."""
        usage = self.usage.to_json()
        denied = [
            _known(tool=one.tool[:MAX_NAME_CHARS], summary=one.summary[:MAX_SUMMARY_CHARS] or None)
            for one in self.denied[:MAX_DENIED]
        ]
        return _known(
            kind=_short(self.kind),
            format=self.format,
            version=_short(self.version),
            session=_short(self.session),
            place=_short(self.place),
            resumed=self.resumed,
            model=_short(self.model),
            turns=self.turns,
            usage=usage or None,
            cost_usd=self.cost_usd,
            denied=denied or None,
        )


def run_in(result: Mapping[str, Json]) -> Run | None:
    """Read the field `run` of a result message. None if it has none; a value of another type is taken as not known."""
    found = object_in(result.get("run"))
    format_ = _text(found.get("format"))
    if format_ is None:
        return None
    usage = object_in(found.get("usage"))
    listed = found.get("denied")
    denied = [object_in(one) for one in cast("list[Json]", listed)[:MAX_DENIED]] if isinstance(listed, list) else []
    run = Run(
        format_,
        kind=_text(found.get("kind")),
        version=_text(found.get("version")),
        session=_text(found.get("session")),
        model=_text(found.get("model")),
        turns=count_in(found.get("turns")),
        usage=Usage(*(count_in(usage.get(name)) for name in Usage.__slots__)),
        cost_usd=amount_in(found.get("cost_usd")),
        place=_text(found.get("place")),
        resumed=resumed if isinstance(resumed := found.get("resumed"), bool) else None,
    )
    calls = ((_text(one.get("tool")), _text(one.get("summary"), MAX_SUMMARY_CHARS)) for one in denied)
    return replace(run, denied=tuple(Denied(tool, summary or "") for tool, summary in calls if tool))


def count_in(value: Json) -> int | None:
    """Return a value that is a whole number from 0 on; None for any other."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else None


def amount_in(value: Json) -> float | None:
    """Return a value that is a finite number from 0 on; None for any other."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= _MOST and math.isfinite(value) else None


def _text(value: Json, most: int = MAX_NAME_CHARS) -> str | None:
    return value[:most] if isinstance(value, str) and value else None


def _short(text: str | None) -> str | None:
    return text[:MAX_NAME_CHARS] if text else None


def _known(**fields: Json) -> dict[str, Json]:
    return {name: value for name, value in fields.items() if value is not None}

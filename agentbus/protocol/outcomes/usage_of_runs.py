"""What several runs of a task used and cost together: also those that were repeated, given back or lost.

A worker writes it into the ledger entry and the result, so each reader bounds what it takes.
"""

from collections.abc import Mapping
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from agentbus.protocol.json_codec import Json
from agentbus.protocol.outcomes.run_report import MAX_NAME_CHARS, Run, Usage

_MOST_RUNS: Final = 2**31
_MOST: Final = 2**53
"""The largest number that every reader of JSON keeps."""

_Runs = Annotated[int, Field(ge=0, le=_MOST_RUNS)]
_Tokens = Annotated[int, Field(ge=0, le=_MOST)]


class UsageOfRuns(BaseModel):
    """The sums over the runs that told of what they used.

    Attributes:
        runs: how many those are.
        with_tokens: how many of them told their tokens.
        with_cost: how many of them told their cost.
        model: that of the last of them that named one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    runs: _Runs = 0
    with_tokens: _Runs = 0
    with_cost: _Runs = 0
    input_tokens: _Tokens = 0
    cached_input_tokens: _Tokens = 0
    output_tokens: _Tokens = 0
    cost_usd: Annotated[float, Field(ge=0, le=_MOST, allow_inf_nan=False)] = 0.0
    model: Annotated[str, StringConstraints(max_length=MAX_NAME_CHARS)] | None = None

    def and_run(self, run: Run) -> Self:
        """Return the sums with those of another run."""
        usage, cost = run.usage, run.cost_usd
        more = {
            "runs": (1, _MOST_RUNS),
            "with_tokens": (tells_tokens(usage), _MOST_RUNS),
            "with_cost": (cost is not None, _MOST_RUNS),
            "input_tokens": (usage.input_tokens or 0, _MOST),
            "cached_input_tokens": (usage.cached_input_tokens or 0, _MOST),
            "output_tokens": (usage.output_tokens or 0, _MOST),
        }
        sums = {name: min(getattr(self, name) + number, most) for name, (number, most) in more.items()}
        cost_usd = min(round(self.cost_usd + (cost or 0), 6), _MOST)
        model = run.model[:MAX_NAME_CHARS] if run.model else self.model
        return self.model_copy(update={**sums, "cost_usd": cost_usd, "model": model})

    def to_json(self) -> dict[str, Json]:
        """The value of the field, without what no run told."""
        return {name: value for name, value in self.model_dump().items() if value}


def tells_tokens(usage: Usage) -> bool:
    """Whether a run tells its tokens at all."""
    return usage.input_tokens is not None or usage.output_tokens is not None


def earlier_in(result: Mapping[str, Json]) -> UsageOfRuns | None:
    """Read the field `earlier_runs` of a result message. None if it has none, or one of another form."""
    try:
        return UsageOfRuns.model_validate(result["earlier_runs"]) if "earlier_runs" in result else None
    except ValidationError:
        return None


def with_run(earlier: UsageOfRuns | None, run: Run | None) -> UsageOfRuns | None:
    """Return the sums with those of another run, if that tells anything of what it used."""
    if run is None or not (tells_tokens(run.usage) or run.cost_usd is not None):
        return earlier
    return (earlier or UsageOfRuns()).and_run(run)

"""Counts what agents say of the tokens and the cost of their runs, by model. The names of models come from agents."""

import re
from typing import TYPE_CHECKING, Final

from agentbus.observability.metrics import MetricFactory
from agentbus.protocol.outcomes.run_report import Run

if TYPE_CHECKING:
    from agentbus.observability.metrics import Registry

_MOST_MODELS: Final = 20
"""How many models have series of their own: an agent that names a new one with each run must not fill the memory."""
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,99}")
UNKNOWN: Final = "unknown"
"""The label of a run whose agent does not name its model."""
OTHER: Final = "other"
"""The label of a model that has no series of its own: there are too many, or it is no name."""


class UsageCounters:
    """The counters `agentbus_tokens_total` and `agentbus_cost_usd_total`.

    They count each run once, also one that is repeated, cancelled, or whose result another worker makes.
    """

    def __init__(self, registry: "Registry", agent: str) -> None:
        make = MetricFactory(registry, "agentbus")
        self._agent = agent
        self._tokens = make.counter(
            "tokens",
            "Tokens of runs, as the agent counts them; cached_input is part of input.",
            "agent",
            "model",
            "type",
        )
        self._cost = make.counter("cost_usd", "What runs have cost, as the agent reckons it.", "agent", "model")
        self._models: set[str] = set()

    def count(self, run: Run) -> None:
        """Count the numbers that a report of a run has."""
        usage, model = run.usage, self._model(run.model)
        counts = {"input": usage.input_tokens, "cached_input": usage.cached_input_tokens, "output": usage.output_tokens}
        for kind, tokens in counts.items():
            if tokens is not None:
                self._tokens.labels(self._agent, model, kind).inc(tokens)
        if run.cost_usd is not None:
            self._cost.labels(self._agent, model).inc(run.cost_usd)

    def _model(self, name: str | None) -> str:
        if name is None:
            return UNKNOWN
        if name in self._models:
            return name
        if len(self._models) >= _MOST_MODELS or not _MODEL.fullmatch(name):
            return OTHER
        self._models.add(name)
        return name

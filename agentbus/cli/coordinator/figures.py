"""Writes tokens and costs for people: `$0.0123`, `1.5k`. What is not known is empty."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentbus.protocol.outcomes.run_report import Run, Usage
    from agentbus.protocol.outcomes.usage_of_runs import UsageOfRuns

_STEPS = (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3))
_WHOLE = 10_000
"""From here on, tokens are written with a unit."""


def dollars(amount: float | None) -> str:
    """Write an amount of US dollars; small ones have four decimals, because runs cost cents."""
    if amount is None:
        return ""
    return f"${amount:,.2f}" if amount >= 100 or not amount else f"${amount:,.4f}"


def tokens(count: int | None) -> str:
    """Write a number of tokens in at most six characters or so: `842`, `15.0k`, `1.25M`."""
    if count is None:
        return ""
    if count < _WHOLE:
        return str(count)
    unit, step = next((unit, step) for unit, step in _STEPS if count >= step)
    value = count / step
    return f"{value:.2f}{unit}" if value < 10 else f"{value:.1f}{unit}" if value < 1000 else f"{value:,.0f}{unit}"


def of_run(run: "Run") -> dict[str, str]:
    """Write what a run used, in the rows of a table; what is not known has none."""
    rows = {
        "model": run.model,
        "turns": None if run.turns is None else str(run.turns),
        "tokens": _tokens(run.usage),
        "cost": dollars(run.cost_usd),
        "session": run.session,
    }
    return {name: text for name, text in rows.items() if text}


def of_runs(used: "UsageOfRuns") -> str:
    """Write what several runs used together, on one line."""
    told = _tokens(used) if used.with_tokens else ""
    return ", ".join(part for part in (told, dollars(used.cost_usd) if used.with_cost else "") if part)


def _tokens(used: "Usage | UsageOfRuns") -> str:
    cached = f", {used.cached_input_tokens:,} of them cached" if used.cached_input_tokens else ""
    read = "" if used.input_tokens is None else f"{used.input_tokens:,} in{cached}"
    written = "" if used.output_tokens is None else f"{used.output_tokens:,} out"
    return ", ".join(part for part in (read, written) if part)

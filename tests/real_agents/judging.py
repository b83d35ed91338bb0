"""Compares what became of real agents with `expected.toml`."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agentbus.protocol.json_codec import Json, object_in

_WHOLE: Final = ("ok", "tool", "long_tool", "slow")
"""Cases in which a run comes to its end, and tells all that it can."""


def expected() -> dict[str, dict[str, Json]]:
    """Return the rows of the table, by case."""
    text = Path(__file__).with_name("expected.toml").read_text(encoding="utf-8")
    return {case: object_in(row) for case, row in tomllib.loads(text).items()}


@dataclass(frozen=True)
class Cell:
    """What became of one agent in one case.

    Attributes:
        became: the code of the failure, or the status of a run that has not failed.
        wrong: what is not as expected, if anything.
    """

    agent: str
    case: str
    became: str
    seconds: float
    text: str
    wrong: str = ""


def judged(agent: str, case: str, result: dict[str, Json], ok_s: float, row: dict[str, Json]) -> Cell:
    """Compare the result of a run with its row of the table of what is expected.

    Args:
        ok_s: how long the agent took in the case `ok`: it has to start, on a machine that may be busy.
    """
    failure = object_in(result.get("failure"))
    became, seconds = str(failure.get("code") or result["status"]), seconds_of(result)
    text = str(failure.get("message") or result.get("result") or "")
    wanted, says, within_s = (of_agent(agent, row.get(name)) for name in ("became", "says", "within_s"))
    wrong: list[str] = []
    if became not in str(wanted).split(" or "):
        wrong.append(f"expected {wanted}")
    elif says is not None and str(says).lower() not in text.lower():
        wrong.append(f"does not say {says!r}")
    if isinstance(within_s, int) and seconds > within_s + 2 * ok_s:
        wrong.append(f"took longer than {within_s} s and twice as long as a run takes")
    denied = bool(object_in(result.get("run")).get("denied"))
    if agent.endswith("-acp") and denied != (case in ("denied", "person_denies")):
        wrong.append(f"{'names' if denied else 'does not name'} a denied call")
    if found := result.get("wrong"):
        wrong.append(str(found))
    if case in _WHOLE:
        wrong += _lacking(object_in(result.get("run")), object_in(result.get("transcript")))
    return Cell(agent, case, became, seconds, text, "; ".join(wrong))


def of_agent(agent: str, column: Json) -> Json:
    """Return the value of an agent in a row: one for all, or one by name with `all` for the rest."""
    named = object_in(column)
    return named.get(agent, named.get("all")) if named else column


def seconds_of(result: dict[str, Json]) -> float:
    """Return how long the run of a result took."""
    found = result.get("duration_seconds")
    return float(found) if isinstance(found, (int, float)) else 0.0


def _lacking(run: dict[str, Json], transcript: dict[str, Json]) -> list[str]:
    """Return what the report of a run that came to its end lacks."""
    if not run:  # a command that prints text
        return []
    lacking = [name for name in ("session", "usage") if not run.get(name)]
    if run.get("format") not in (run.get("kind"), "acp"):
        lacking.append("a format that was understood")
    if not transcript.get("name"):
        lacking.append("the transcript")
    return [f"lacks {name}" for name in lacking]

"""The outcome of one check: ok, a warning or a failure, with what fixes it."""

from dataclasses import asdict, dataclass
from typing import Final, Literal

RAISE_LIMIT: Final = "raise it: docs/how-to/growing.md#limits"
Verdict = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check. `fix` says what to do; it is empty where nothing is wrong."""

    check: str
    verdict: Verdict
    text: str
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the finding as a plain object, without empty fields."""
        return {key: value for key, value in asdict(self).items() if value}


def ok(check: str, text: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(check, "ok", text)


def warning(check: str, text: str, fix: str) -> Finding:
    """Return a finding of something that works but should be changed."""
    return Finding(check, "warning", text, fix)


def failed(check: str, text: str, fix: str = "") -> Finding:
    """Return a finding of something that does not work."""
    return Finding(check, "failed", text, fix)

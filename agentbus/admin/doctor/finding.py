"""What a check has come to: well, a warning or a failure, with what mends it."""

from dataclasses import asdict, dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has come to. `fix` says what to do; it is empty where all is well."""

    check: str
    verdict: Verdict
    text: str
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        """As a plain object."""
        return {key: value for key, value in asdict(self).items() if value}


def ok(check: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(check, "ok", text)


def warning(check: str, text: str, fix: str) -> Finding:
    """It works, and should not stay as it is."""
    return Finding(check, "warning", text, fix)


def failed(check: str, text: str, fix: str = "") -> Finding:
    """It does not work."""
    return Finding(check, "failed", text, fix)

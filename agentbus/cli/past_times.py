"""Times in the past and durations, as a person types them: `2h`, or a date."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_AGO: Final = re.compile(r"(\d{1,6})([smhd])")
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhd]?)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def past_time(text: str) -> datetime:
    """Return the time that lies so long ago, or the time of ISO 8601; without a zone it is that of this machine.

    Raises:
        ValueError: the text is neither.
    """
    if ago := _AGO.fullmatch(text):
        return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!a} is no time: use 90s, 15m, 2h, 7d, or a date such as 2026-11-29T08:00") from None


def duration_s(text: str) -> float:
    """Return the seconds of `90`, `30s`, `1.5m`, `2h` or `7d`.

    Raises:
        ValueError: it is none of these.
    """
    if found := _DURATION.fullmatch(text):
        return float(found[1]) * _SECONDS[found[2] or "s"]
    raise ValueError(f"{text!a} is no duration: use 90 (seconds), 30s, 10m, 2h or 7d")

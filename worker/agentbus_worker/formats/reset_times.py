"""Reads when a model's server answers again, from the words of an error: after a time, at a time of day, at a date."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

_BEGIN: Final = r"(?:try(?:ing)? again|retry(?:ing)?|resets?|available again|renewed|refreshes)(?: \w+){0,2}? "
_NUMBER: Final = r"\d{1,9}(?:\.\d{1,6})?"
_AFTER: Final = re.compile(
    rf"(?i){_BEGIN}(?:in|after) ~?((?:{_NUMBER} ?[a-z]{{1,12}}[ ,]{{0,2}}(?:and )?){{1,4}}|{_NUMBER})"
)
_PART: Final = re.compile(r"(?i)(\d{1,9}(?:\.\d{1,6})?) ?([a-z]{1,12})?")
_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_EPOCH: Final = re.compile(r"(?i)limit reached\|(\d{10})\b")
_DATE: Final = re.compile(
    rf"(?i){_BEGIN}(\d{{4}}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:\.\d{{1,6}})?(?:Z|[+-]\d\d:\d\d)?)"
)
_OF_DAY: Final = re.compile(
    r"(?i)(?:try again at|resets?(?: at)?) (\d{1,2})(?::(\d\d))? ?(am|pm)\b"
    r"(?: \(([A-Za-z_]{1,32}(?:/[A-Za-z_]{1,32})?)\))?"
)
_LONGEST_S: Final = 31 * 86_400.0
"""No vendor renews a quota less often than each month; a longer time is read as none."""


def named_wait_s(text: str, now: datetime) -> float | None:
    """Return in how many seconds a model's server answers again, if the text names that; never less than 0.

    Args:
        now: with a time zone: that of a time of day for which the text names none.
    """
    found = next(_found_s(text, now), None)
    return found if found is not None and 0 <= found <= _LONGEST_S else None


def _found_s(text: str, now: datetime) -> Iterator[float]:
    if (epoch := _EPOCH.search(text)) is not None:
        yield max(0.0, float(epoch[1]) - now.timestamp())
    if (date := _DATE.search(text)) is not None and (at := _date(date[1])) is not None:
        yield max(0.0, (at - now).total_seconds())
    if (after := _AFTER.search(text)) is not None and (after_s := _sum_s(after[1])) is not None:
        yield after_s
    if (of_day := _OF_DAY.search(text)) is not None and (until_s := _until_s(of_day, now)) is not None:
        yield until_s


def _date(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text.upper())
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _sum_s(text: str) -> float | None:
    """Return the length of a time such as `12h34m56s` or `2 days 3 hours`; without a unit it is in seconds."""
    whole_s, known = 0.0, False
    for number, word in _PART.findall(text):
        unit = word.lower() or "s"
        unit = "ms" if unit in ("ms", "millis", "milliseconds") else unit[0]
        if unit not in _UNITS_S:
            break
        whole_s, known = whole_s + float(number) * _UNITS_S[unit], True
    return whole_s if known else None


def _until_s(found: re.Match[str], now: datetime) -> float | None:
    """Return the time until the next such time of day, in the zone that the text names, or that of `now`."""
    hour, minute = int(found[1]), int(found[2] or 0)
    if not 1 <= hour <= 12 or minute > 59:
        return None
    zone = now.tzinfo
    if found[4]:
        try:
            zone = ZoneInfo(found[4])
        except (KeyError, ValueError, OSError):
            return None
    here = now.astimezone(zone)
    at = here.replace(hour=hour % 12 + (12 if found[3].lower() == "pm" else 0), minute=minute, second=0, microsecond=0)
    at += timedelta(days=0 if at > here else 1)
    return (at.astimezone(UTC) - now.astimezone(UTC)).total_seconds()

"""Times on the bus: RFC 3339 in UTC, as messages and JetStream carry them."""

from datetime import UTC, datetime
from functools import lru_cache


def now() -> str:
    """The time of this machine in UTC, as messages carry it (RFC 3339, microseconds)."""
    return datetime.now(UTC).isoformat()


def time_text(microseconds: int) -> str:
    """Write a time that is given in microseconds since the epoch, as `datetime.isoformat` does.

    A list of a thousand times has few different seconds, so this takes a third of the time.
    """
    second, rest = divmod(microseconds, 1_000_000)
    return f"{_second_text(second)}.{rest:06}+00:00" if rest else f"{_second_text(second)}+00:00"


@lru_cache(maxsize=128)
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


def parse_time(text: str) -> datetime:
    """Read a server's time stamp (RFC 3339, nanoseconds, which are cut to microseconds)."""
    return datetime.fromisoformat(text)

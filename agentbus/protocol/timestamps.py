"""Times on the bus: RFC 3339 in UTC, as messages and JetStream carry them."""

from datetime import UTC, datetime


def now() -> str:
    """The time of this machine in UTC, as messages carry it (RFC 3339, microseconds)."""
    return datetime.now(UTC).isoformat()


def parse_time(text: str) -> datetime:
    """Read a server's time stamp (RFC 3339, nanoseconds, which are cut to microseconds)."""
    stamp = text.replace("Z", "+00:00")
    whole, dot, rest = stamp.partition(".")
    if not dot:
        return datetime.fromisoformat(stamp)
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return datetime.fromisoformat(f"{whole}.{rest[:digits][:6].ljust(6, '0')}{rest[digits:]}")

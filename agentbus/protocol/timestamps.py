"""Times on the bus: RFC 3339 in UTC, as messages and JetStream carry them."""

from datetime import UTC, datetime


def now() -> str:
    """The time of this machine in UTC, as messages carry it (RFC 3339, microseconds)."""
    return datetime.now(UTC).isoformat()


def parse_time(text: str) -> datetime:
    """Read a server's time stamp (RFC 3339, nanoseconds, which are cut to microseconds)."""
    return datetime.fromisoformat(text)

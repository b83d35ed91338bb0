"""Amounts of storage as nats-server writes them: `512MiB`, `10GiB`."""

import re
from typing import Final

from agentbus.errors import ConfigError

_SIZE: Final = re.compile(r"[1-9][0-9]{0,9}(KiB|MiB|GiB|TiB)")
_UNITS: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
# nats-server counts in signed 64-bit numbers; this leaves room for the product with the number of replicas.
_MAX_BYTES: Final = 1 << 60


def storage_size(text: str) -> str:
    """Return an amount of storage that nats-server understands.

    Raises:
        ConfigError: it is not a whole number of KiB, MiB, GiB or TiB, or more than a server can count.
    """
    if not _SIZE.fullmatch(text) or in_bytes(text) >= _MAX_BYTES:
        raise ConfigError(f"{text!r} is no amount of storage; write it as 512MiB or 10GiB")
    return text


def in_bytes(amount: str) -> int:
    """Return the bytes of an amount that `storage_size` has accepted."""
    return int(amount[:-3]) * _UNITS[amount[-3:]]


def times(amount: str, factor: int) -> str:
    """Return a multiple of an amount, in the same unit: `10GiB` three times is `30GiB`."""
    return f"{int(amount[:-3]) * factor}{amount[-3:]}"


def split(amount: str, percent: int) -> tuple[str, str]:
    """Return a part of an amount, and the rest of it, in bytes: 20 % of `1GiB` is `214748364`."""
    part = in_bytes(amount) * percent // 100
    return str(part), str(in_bytes(amount) - part)

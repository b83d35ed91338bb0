"""Ids and tokens that this program makes: readable, and random where they must not be guessed."""

import secrets
from datetime import UTC, datetime
from typing import Final

# Lower-case letters and digits without those that are misread (0, o, 1, l, i, u): 30 of them, 4.9 bits each.
_ALPHABET: Final = b"23456789abcdefghjkmnpqrstvwxyz"
_SYMBOLS: Final = bytes(_ALPHABET[value % len(_ALPHABET)] for value in range(256))
_UNEVEN: Final = bytes(range(256 - 256 % len(_ALPHABET), 256))


def random_token(chars: int = 20) -> str:
    """An unguessable, readable token; 20 characters carry 98 random bits."""
    symbols = b""
    while len(symbols) < chars:  # what is left of a byte's values beyond the last whole alphabet would favour its start
        symbols += secrets.token_bytes(2 * chars).translate(_SYMBOLS, _UNEVEN)
    return symbols[:chars].decode()


def new_task_id() -> str:
    """A task id that sorts by day, can be read aloud and cannot be guessed: `task-20260518-…`."""
    return f"task-{datetime.now(UTC):%Y%m%d}-{random_token()}"


def make_result_id(agent: str, task_id: str, nonce: str) -> str:
    """The id of the one result of a task: made from the random nonce of the claim that commits it.

    Unguessable, so that no other user can publish under it first and have the result dropped as a duplicate. The same
    however often the committed result is published again.
    """
    return f"result-{agent}-{task_id}-{nonce}"

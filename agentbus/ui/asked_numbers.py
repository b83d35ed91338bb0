"""Reads numbers in the queries of URLs: anyone who is signed in can write them."""

from typing import Final

_MOST_DIGITS: Final = 18
"""Of no number that the page asks with; Python itself refuses to read those of several thousand."""


def number_in(text: str) -> int | None:
    """Return the number that is not negative which a text is; None if it is none, or too large to be asked for."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None

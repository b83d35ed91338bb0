"""Tells the characters in bytes that need not be UTF-8, so that parts of an output, joined, are the text of it all.

`bytes.decode(errors="replace")` makes one U+FFFD of each byte that is no UTF-8, or of the beginning of a character
whose rest is missing (the "maximal subpart" of the Unicode standard). One match of `CHARACTER` is one character of it.
"""

import re
from typing import Final

CHARACTER: Final = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]?"
    rb"|\xe0(?:[\xa0-\xbf][\x80-\xbf]?)?"
    rb"|\xed(?:[\x80-\x9f][\x80-\xbf]?)?"
    rb"|[\xe1-\xef](?:[\x80-\xbf][\x80-\xbf]?)?"
    rb"|\xf0(?:[\x90-\xbf](?:[\x80-\xbf][\x80-\xbf]?)?)?"
    rb"|[\xf1-\xf3](?:[\x80-\xbf](?:[\x80-\xbf][\x80-\xbf]?)?)?"
    rb"|\xf4(?:[\x80-\x8f](?:[\x80-\xbf][\x80-\xbf]?)?)?"
    rb"|[\x00-\xff]",
    re.DOTALL,
)
LOOK_BACK: Final = 3
"""How many bytes before a place tell whether a character begins there: one less than the longest has."""


def text_of(data: bytes) -> str:
    """Return the text of bytes, with U+FFFD for what is no UTF-8."""
    return data.decode(errors="replace")


def first_start(data: bytes, place: int) -> int:
    """Return where the first character at or behind a place begins.

    The `LOOK_BACK` bytes before the place decide; `data` has them unless the output begins later.
    """
    for start in range(place - 1, max(0, place - LOOK_BACK) - 1, -1):
        if not 0x80 <= data[start] < 0xC0:  # a character begins with any byte but these
            return _first_end(data, start, place)
    return place if place >= LOOK_BACK else _first_end(data, 0, place)


def last_start(data: bytes) -> int:
    """Return where the last character begins: it may go on behind the end of `data`."""
    start = first_start(data, max(0, len(data) - 2 * LOOK_BACK))
    while (end := start + _length(data, start)) < len(data):
        start = end
    return start


def size_of(data: bytes, count: int) -> int:
    """Return how many bytes the first `count` characters of the text are made of."""
    start = 0
    if data.isascii():
        return min(count, len(data))
    for found in CHARACTER.finditer(data):
        if not count:
            break
        count -= 1
        start = found.end()
    return start


def _first_end(data: bytes, start: int, place: int) -> int:
    while start < place:
        start += _length(data, start)
    return start


def _length(data: bytes, start: int) -> int:
    found = CHARACTER.match(data, start)
    return found.end() - start if found else 1

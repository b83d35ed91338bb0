"""Corrects the text of a JSON message as far as hosts write it sloppily: a byte order mark, half a surrogate pair."""

import codecs
import re
from typing import Final

_ESCAPE: Final = re.compile(
    rb"\\u[dD][89aAbB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair
    rb"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\.",
    re.DOTALL,
)
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def mended(data: bytes) -> bytes:
    r"""Return a message in UTF-8, without a byte order mark; what stands for no character in it becomes U+FFFD.

    `JSON.stringify` writes the half of an emoji that a cut has left as `\ud83d`, which no strict reader takes. The
    length of a message in UTF-8 without a mark stays the same.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        data.decode()
    except UnicodeDecodeError:
        data = data.decode(errors="replace").encode()
    return _ESCAPE.sub(_replaced, data) if _SURROGATE.search(data) else data


def _replaced(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape["lone"] else escape[0]

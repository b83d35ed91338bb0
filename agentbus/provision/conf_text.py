r"""Writes strings into the configuration of nats-server.

The server's quoting differs from that of JSON and TOML. It accepts the escapes \xXX, \t, \n, \r, \" and \\ and refuses
all others, such as \u00f6. Inside double quotes nothing else is special: `$` (a variable) and `#` (a comment) have a
meaning outside of them only.
"""

import os
from collections.abc import Iterable

from agentbus.visible_text import is_hidden


def quoted(value: str | os.PathLike[str]) -> str:
    """Return a string or a path as a double-quoted value.

    Characters that an operator can see are kept. All others are written byte by byte, and so
    are those of a file name that is not UTF-8.
    """
    return f'"{"".join(map(_escaped, os.fspath(value)))}"'


def quoted_list(values: Iterable[str | os.PathLike[str]]) -> str:
    """Return strings or paths as a list of double-quoted values."""
    return f"[{', '.join(map(quoted, values))}]"


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if not is_hidden(character):
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))

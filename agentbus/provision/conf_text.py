r"""Writes strings into the configuration of nats-server.

Its quoting is neither that of JSON nor that of TOML. It knows the escapes \xXX, \t, \n, \r, \" and \\ and refuses all
others, such as \u00f6. Nothing else is special inside double quotes: `$` begins a variable, and `#` a comment, outside
of them only.
"""

import os
from collections.abc import Iterable


def quoted(value: str | os.PathLike[str]) -> str:
    """Return a string or a path as a double-quoted value.

    Printable characters stay as they are, so that an operator can read the file. All others are written byte by byte,
    as is a file name that is not UTF-8.
    """
    return f'"{"".join(map(_escaped, os.fspath(value)))}"'


def quoted_list(values: Iterable[str | os.PathLike[str]]) -> str:
    """Return strings or paths as a list of double-quoted values."""
    return f"[{', '.join(map(quoted, values))}]"


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))

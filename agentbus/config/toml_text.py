"""Writes TOML: the text of every file that agentbus makes itself."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tomlkit.items import Table


def toml_text(sections: Mapping[str, Mapping[str, Any]], *, remarks: Mapping[str, str] | None = None) -> str:
    """Sections of plain values as TOML; a value that is None is left out, and a mapping is a section of its own.

    Args:
        remarks: comments, each to be written above the key that it is named by.
    """
    import tomlkit  # noqa: PLC0415  # most commands write no file

    document = tomlkit.document()
    for name, keys in sections.items():
        document.add(name, _table(keys, remarks or {}))
    return tomlkit.dumps(document)  # pyright: ignore[reportUnknownMemberType]


def _table(keys: Mapping[str, Any], remarks: Mapping[str, str]) -> "Table":
    import tomlkit  # noqa: PLC0415  # as above

    # A section that holds only sections has no line of its own.
    table = tomlkit.table(is_super_table=bool(keys) and all(isinstance(value, Mapping) for value in keys.values()))
    for key, value in keys.items():
        if value is None:
            continue
        if key in remarks:
            table.add(tomlkit.comment(remarks[key]))
        if isinstance(value, Mapping):
            table.add(key, _table(value, remarks))  # pyright: ignore[reportUnknownArgumentType]
        else:
            table.add(key, _plain(value))
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return str(value) if isinstance(value, PurePath) else value

"""Writes the plugin folder, or brings an earlier one up to date; a file of others in it is left alone, and named."""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, cast

from agentbus.config.atomic_files import replace_file, why_not_written
from agentbus.errors import PluginError
from agentbus.provision.plugin.plugin_files import MARK, NAME, Commands, bundle_files, contents

BUNDLE: Final = f"{NAME}.mcpb"
_LIST: Final = ".agentbus-plugin.json"
"""Which files an earlier build has written: those alone are replaced or removed."""
_MODE: Final = 0o644
_ALWAYS: Final = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the bundle: the same version makes the same bytes."""

Outcome = Literal["made", "updated", "up to date"]


def build(folder: Path, commands: Commands) -> Outcome:
    """Write the plugin into a folder of its own; returns what that meant.

    Raises:
        PluginError: the folder holds something else, or cannot be written.
    """
    files = {**contents(commands), **({BUNDLE: bundle(commands)} if commands.portable else {})}
    try:
        mine = _earlier(folder)
        changed = _changed(folder, files)
        gone = [name for name in mine if name not in files and (folder / name).is_file()]
        _refuse_foreign(folder, changed.keys() - set(mine))
        if mine and not (changed or gone):
            return "up to date"
        _write(folder, changed, gone)
        replace_file(folder / _LIST, (json.dumps(sorted(files), indent=2) + "\n").encode(), mode=_MODE)
    except OSError as error:
        raise PluginError(f"the plugin cannot be written to {folder}: {why_not_written(error)}") from None
    return "updated" if mine else "made"


def _changed(folder: Path, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if _read(folder / name) != data}


def _write(folder: Path, changed: Mapping[str, bytes], gone: Iterable[str]) -> None:
    for name in (*changed, *gone):
        _refuse_links(folder, name)
    for name, data in changed.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        replace_file(folder / name, data, mode=_MODE)
    for name in gone:
        (folder / name).unlink()


def _refuse_foreign(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if _is_there(folder / name):
            raise PluginError(f"{folder / name} is not of this plugin; choose another folder, or move it away")


def bundle(commands: Commands) -> bytes:
    """Return the `.mcpb` bundle: a ZIP, with the same bytes for the same version."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as packed:
        for name, data in bundle_files(commands).items():
            entry = zipfile.ZipInfo(name, _ALWAYS)
            entry.external_attr = _MODE << 16
            entry.create_system = 3  # POSIX, on whichever system this runs
            packed.writestr(entry, data)
    return held.getvalue()


def _earlier(folder: Path) -> list[str]:
    """Return the files that an earlier build has written here.

    Raises:
        PluginError: the folder is that of something else.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise PluginError(f"{folder} is a file or a link; name a folder that is new, or one that was built before")
    listed = _read(folder / _LIST)
    if listed is not None:
        return _listed(folder / _LIST, listed)
    if folder.is_dir() and any(folder.iterdir()):
        raise PluginError(f"{folder} holds something else; name a folder that is new, or one that was built before")
    return []


def _listed(file: Path, data: bytes) -> list[str]:
    try:
        found: Any = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    names = cast("list[Any]", found) if isinstance(found, list) else []
    if MARK not in names:
        raise PluginError(f"{file} is not what a build has written; choose another folder")
    return [name for name in names if isinstance(name, str) and _is_inside(name)]


def _is_inside(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts and bool(path.parts)


def _refuse_links(folder: Path, name: str) -> None:
    """Refuse to write through a link, which would be to another place."""
    path = folder
    for part in Path(name).parts:
        path /= part
        if path.is_symlink():
            raise PluginError(f"{path} is a link; remove it, or choose another folder")


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None

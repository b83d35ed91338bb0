"""Holds the tools to the folders of this machine that the configuration of the coordinator lets them use.

A path comes from a model, which may have it from an agent: it counts only where it leads below such a folder, by its
name and through no link.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agentbus.config.home import in_home
from agentbus.errors import ArgumentError
from agentbus.protocol.work.file_names import name_fault

_NONE: Final = (
    "this MCP server may use no files of its machine. Tell the user: the key that allows folders is `folders` in the "
    "section [mcp] of the coordinator's configuration"
)


def files_to_send(folders: Sequence[Path], paths: Sequence[str]) -> tuple[Path, ...]:
    """Return paths of files and folders to send with a task. What lies below one of them is for the sending to check.

    Raises:
        ArgumentError: no folder is allowed, or a path does not lead below one that is.
    """
    return tuple(_root_and_path("files", folders, path)[1] for path in paths)


def folder_to_save_in(folders: Sequence[Path], path: str) -> Path:
    """Return the folder below which files are to be saved; it need not exist.

    Raises:
        ArgumentError: no folder is allowed, or this one does not lead below one that is, or into a repository's inside.
    """
    root, folder = _root_and_path("save_to", folders, path)
    if folder != root and (fault := name_fault(folder.relative_to(root).as_posix())) is not None:
        raise ArgumentError(f"save_to: {path} is no folder to save in: {fault}")
    return folder


def _root_and_path(argument: str, folders: Sequence[Path], text: str) -> tuple[Path, Path]:
    """Return the allowed folder that a path leads below, and the path."""
    if not folders:
        raise ArgumentError(f"{argument}: {_NONE}")
    allowed = ", ".join(str(folder) for folder in folders)
    path = Path() if "\0" in text else in_home(text)
    if not path.is_absolute() or ".." in path.parts:
        raise ArgumentError(f"{argument}: {text} is no absolute path without `..`; it must lead below {allowed}")
    for folder in folders:
        real = Path(os.path.realpath(folder))
        for root in (folder, real):
            if path.is_relative_to(root):
                if Path(os.path.realpath(path)) != real / path.relative_to(root):
                    raise ArgumentError(f"{argument}: {text} leads through a link; name what it points to")
                return root, path
    raise ArgumentError(f"{argument}: {text} is not below a folder that this MCP server may use: {allowed}")

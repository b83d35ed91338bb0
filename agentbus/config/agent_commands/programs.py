"""Finds the program of an agent command, for the worker that runs it, the doctor and the services."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from agentbus.errors import ConfigError


def find_program(program: str) -> Path:
    """Return the whole path of a program, looked for as a shell does from this folder.

    Raises:
        ConfigError: there is none; says what is in its place.
    """
    found = shutil.which(program)
    if found is None:
        raise ConfigError(_why_not_found(program))
    return Path(found).absolute()


def program_from_anywhere(program: str) -> str:
    """Return a program so that every folder finds the same one: a command runs in the folder of its task.

    A name on a PATH without relative entries stays a name, so that an update may move the program meanwhile.

    Raises:
        ConfigError: see `find_program`.
    """
    found = find_program(program)
    return str(found) if os.path.dirname(program) or _path_is_relative() else program  # noqa: PTH120  # Path drops "./"


def _path_is_relative() -> bool:
    return not all(map(os.path.isabs, os.environ.get("PATH", os.defpath).split(os.pathsep)))


def _why_not_found(program: str) -> str:
    if program.startswith("~"):
        return f"chat_cmd: no '~' is replaced in {program!r}; write the whole path"
    for place in _places(program):
        if place.is_dir() and os.path.dirname(program):  # noqa: PTH120
            return f"chat_cmd: {str(place)!r} is a folder; name the program in it"
        if place.is_file():
            return f"chat_cmd: {str(place)!r} is not executable for this user; chmod +x it, or name its interpreter"
    return f"chat_cmd: the command {program!r} was not found; install it or give its full path"


def _places(program: str) -> Iterator[Path]:
    """Yield where a shell looks for a program."""
    if os.path.dirname(program):  # noqa: PTH120
        yield Path(program)
        return
    for folder in os.get_exec_path():
        yield Path(folder) / program

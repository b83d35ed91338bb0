"""Finds the telemetry that a person has set up for Gemini CLI: a worker must not turn it elsewhere."""

import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

_VARIABLES: Final = ("GEMINI_TELEMETRY_", "OTEL_")
_OPTION: Final = re.compile(r"(?<!\S)--telemetry")
_IN_ENV_FILE: Final = re.compile(r"(?m)^\s*(?:export\s+)?(?:GEMINI_TELEMETRY_|OTEL_)")
_MAX_FILE_BYTES: Final = 1_048_576
"""Settings have a few kilobytes. What is in a larger file is not known, and counts as telemetry."""


def own_telemetry(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> str:
    """Return where telemetry is set up, on or off: an option, a variable or a file; an empty text if nowhere.

    Blocks on the disk. A file that is there and cannot be read counts, and so does one that is named by mistake.

    Args:
        words: the command.
        environment: that of the command.
        folder: in which the command runs.
    """
    if _OPTION.search(" ".join(words)):
        return "its option --telemetry"
    if (name := next((name for name in environment if name.startswith(_VARIABLES)), None)) is not None:
        return f"the variable {name}"
    homes = [Path(environment[name]) for name in ("GEMINI_CLI_HOME", "HOME") if environment.get(name)]
    files = (*_settings_files(environment, homes, folder), *_environment_files(homes, folder))
    return next((str(file) for file in files if _sets_telemetry(file)), "")


def _sets_telemetry(file: Path) -> bool:
    text = text_of_settings(file)
    if text is None or file.name == ".env":
        return text is None or _IN_ENV_FILE.search(text) is not None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # it may have comments
        return '"telemetry"' in text
    return isinstance(value, dict) and "telemetry" in cast("dict[str, object]", value)


def _settings_files(environment: Mapping[str, str], homes: list[Path], folder: Path) -> Iterator[Path]:
    default = "/Library/Application Support/GeminiCli" if sys.platform == "darwin" else "/etc/gemini-cli"
    system = Path(environment.get("GEMINI_CLI_SYSTEM_SETTINGS_PATH") or f"{default}/settings.json")
    yield system
    yield Path(environment.get("GEMINI_CLI_SYSTEM_DEFAULTS_PATH") or system.with_name("system-defaults.json"))
    for place in (*homes, folder):
        yield place / ".gemini" / "settings.json"


def _environment_files(homes: list[Path], folder: Path) -> Iterator[Path]:
    """Yield the files that may hold variables for it: it takes the first of them, and this looks at all."""
    for place in (folder, *folder.parents, *homes):
        yield place / ".gemini" / ".env"
        yield place / ".env"


def text_of_settings(file: Path) -> str | None:
    """Return what a file of settings holds: an empty text if there is none, None if it is not known."""
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                return None
            data = opened.read(_MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError):
        return None
    return data.decode(errors="replace") if len(data) <= _MAX_FILE_BYTES else None

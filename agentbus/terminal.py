"""Writes to standard output and standard error: harmless on a terminal, and unchanged everywhere else.

Every command writes through this module, so that no text of another party reaches a terminal another way. Each of the
two streams is judged by itself: a pipe behind one of them gets the text as it is.
"""

import codecs
import os
import sys
from types import TracebackType
from typing import Final, NamedTuple

import click

from agentbus.visible_text import json_escaped, visible

_LONGEST_HELD: Final = 65_536
"""Of a line without an end: what is longer is shown in parts."""


class Styled(NamedTuple):
    """A part of a line in a colour."""

    text: str
    colour: str | None = None
    bold: bool = False


def on_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def line(*parts: str | Styled) -> None:
    """Print a line on standard output; styled parts have a colour on a terminal, unless NO_COLOR is set."""
    click.echo("".join(map(_shown, parts)) if on_terminal() else "".join(map(_text, parts)), color=True)


def error_line(text: str) -> None:
    """Print a line on standard error."""
    click.echo(visible(text) if sys.stderr.isatty() else text, err=True, color=True)


def json_line(data: bytes) -> None:
    """Print a line of JSON, and flush. On a terminal, what is hidden in it is written with the escapes of JSON."""
    if on_terminal():
        click.echo(visible(data.decode(), json_escaped), color=True)
    else:
        sys.stdout.buffer.write(data + b"\n")
        sys.stdout.buffer.flush()


class RawOutput:
    """Standard output for bytes of another party. They need not be UTF-8, nor text."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace") if on_terminal() else None
        self._rest = ""

    def write(self, piece: bytes) -> None:
        """Print a piece."""
        if self._decoder is None:
            sys.stdout.buffer.write(piece)
            return
        # What a character means depends on its neighbours, so whole lines are shown.
        lines, end, self._rest = (self._rest + self._decoder.decode(piece)).rpartition("\n")
        sys.stdout.write(visible(lines + end))
        if len(self._rest) > _LONGEST_HELD:
            sys.stdout.write(visible(self._rest[:-1]))
            self._rest = self._rest[-1]

    def close(self) -> None:
        """Print what was held back, and flush."""
        if self._decoder is not None:
            sys.stdout.write(visible(self._rest + self._decoder.decode(b"", final=True)))
        sys.stdout.flush()


def guard_tracebacks() -> None:
    """Make the tracebacks of this process harmless: the text of an exception may quote another party."""
    sys.excepthook = _print_traceback


def guard_log_of_libraries() -> None:
    """Make harmless what libraries log where no handler is configured, such as asyncio's errors of callbacks."""
    import logging  # noqa: PLC0415  # help and usage errors need none of it

    class Harmless(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            text = super().format(record)
            return visible(text) if sys.stderr.isatty() else text

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Harmless())


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    import traceback  # noqa: PLC0415

    error_line("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


def _text(part: str | Styled) -> str:
    return part.text if isinstance(part, Styled) else part


def _shown(part: str | Styled) -> str:
    text = visible(_text(part))
    if not isinstance(part, Styled) or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=part.colour, bold=part.bold or None)

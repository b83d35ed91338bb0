"""Reads and writes the standard streams: harmless on a terminal, unchanged elsewhere, and one error where they fail.

Every command writes through this module, so that no text of another party reaches a terminal another way. Each of the
two output streams is judged by itself: a pipe behind one of them gets the text as it is.
"""

import codecs
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, NamedTuple, TextIO

import click

from agentbus.errors import AgentBusError, StandardStreamError
from agentbus.visible_text import (
    json_escaped,
    one_line,
    visible,
    with_last_states,
    without_colours,
    without_earlier_states,
)

_LONGEST_HELD: Final = 65_536
"""Of a line without an end: what is longer is shown in parts."""
_passing_is_shown = False
_LINE_ENDS: Final = ("\u0085", "\u2028", "\u2029")
"""What ends a line for some readers, such as `str.splitlines()`, and may stand in JSON."""


class Styled(NamedTuple):
    """A part of a line in a colour."""

    text: str
    colour: str | None = None
    bold: bool = False


# -- streams that are closed or fail -------------------------------------------------------------------------------


def open_standard_streams() -> None:
    """Open each standard stream that is closed, so that using it is refused, and no other file gets its number.

    Otherwise the next file or socket would get it, and whatever is written to the stream would go there.
    """
    for number, (name, refusing) in enumerate(
        (("stdin", os.O_WRONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY))
    ):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, refusing)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def standard_input(most: int) -> bytes:
    """Read standard input to its end, up to `most` bytes.

    Raises:
        StandardStreamError: it is closed, or cannot be read.
    """
    try:
        return sys.stdin.buffer.read(most)
    except OSError as error:
        raise StandardStreamError(f"cannot read standard input: {error.strerror or error}") from None


def read_standard_input(most: int) -> bytes:
    """Wait for the next bytes of standard input, up to `most`; none are its end.

    Not through the buffer of the stream, whose lock a thread that waits here would hold when the interpreter ends.

    Raises:
        StandardStreamError: it is closed, or cannot be read.
    """
    try:
        return os.read(sys.stdin.fileno(), most)
    except OSError as error:
        raise StandardStreamError(f"cannot read standard input: {error.strerror or error}") from None


@contextmanager
def writing() -> Generator[None]:
    """Make the failure of a write to standard output an error of ours. That a reader has closed a pipe is none.

    Raises:
        StandardStreamError: it is closed, or the disk behind it is full.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon(sys.stdout)
        raise StandardStreamError(f"cannot write to standard output: {error.strerror or error}") from None


def flush_output() -> None:
    """Write what is left for standard output; see `writing` for what it raises."""
    with writing():
        sys.stdout.flush()


def abandon(stream: TextIO) -> None:
    """Drop what a stream holds, and whatever follows: the interpreter would fail to write it when it exits."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def program() -> Generator[None]:
    """Run a program for the length of the block: what it cannot do is one line on standard error, and exit code 1."""
    open_standard_streams()
    guard_tracebacks()
    failed: BaseException | None = None
    try:
        yield
        flush_output()
    # In groups, too, as tasks raise them. An OSError is a full disk behind the help, which click prints by itself.
    except* (AgentBusError, OSError) as group:
        failed = group
    while isinstance(failed, BaseExceptionGroup):
        failed = failed.exceptions[0]
    if failed is not None:
        abandon(sys.stdout)
        error_line(f"error: {failed}")
        sys.exit(1)


# -- lines ---------------------------------------------------------------------------------------------------------


def on_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def line(*parts: str | Styled) -> None:
    """Print a line on standard output; styled parts have a colour on a terminal, unless NO_COLOR is set."""
    with writing():
        click.echo("".join(map(_shown, parts)) if on_terminal() else "".join(map(_text, parts)), color=True)


def for_terminal(*parts: str | Styled) -> str:
    """Return a line as `line` prints it on a terminal, for a writer of its own such as that of a log."""
    return "".join(map(_shown, parts))


def error_line(text: str) -> None:
    """Print a line on standard error. If it cannot be written there, there is no one to tell."""
    passing_line("")
    try:
        click.echo(visible(text) if sys.stderr.isatty() else text, err=True, color=True)
    except OSError:
        abandon(sys.stderr)


def passing_lines_are_seen() -> bool:
    """Return whether standard error is a terminal on which a line can be drawn over."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def passing_line(text: str) -> None:
    """Show one line on the terminal of standard error, in place of the one before; an empty text takes it away.

    The next line on standard error takes its place. It has to be taken away before a write to standard output.
    """
    global _passing_is_shown  # noqa: PLW0603  # there is one standard error
    if not (text or _passing_is_shown) or not passing_lines_are_seen():
        return
    _passing_is_shown = bool(text)
    with suppress(OSError):
        click.echo(f"\r\x1b[K{_cut(one_line(text)) if text else ''}", nl=False, err=True, color=True)


def _cut(text: str) -> str:
    """Cut a text to what fits into a line of the terminal of standard error."""
    width = os.get_terminal_size(sys.stderr.fileno()).columns or 80  # some terminals do not know theirs
    return cut_to(text, width - 1)


def columns_of(text: str) -> int:
    """Return how many columns a line takes on a terminal: a character may be two wide, or none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415  # most lines need none of it

    return cell_len(text)


def cut_to(text: str, columns: int) -> str:
    """Cut a line to so many columns; one that is cut ends with `…`."""
    if columns_of(text) <= columns:
        return text
    from rich.cells import set_cell_size  # noqa: PLC0415

    return set_cell_size(text, max(0, columns - 1)).rstrip() + "…"


def json_line(data: bytes) -> None:
    """Print a line of JSON, and flush.

    On a terminal, what is hidden in it is written with the escapes of JSON; elsewhere only what some readers take for
    the end of a line.
    """
    with writing():
        if on_terminal():
            click.echo(visible(data.decode(), json_escaped), color=True)
            return
        if not data.isascii():
            for end in _LINE_ENDS:
                data = data.replace(end.encode(), json_escaped(end).encode())
        sys.stdout.buffer.write(data + b"\n")
        sys.stdout.buffer.flush()


def said_line(text: str) -> None:
    """Print what an agent or its command printed, as `line` does; on a terminal without its colours, and folded."""
    line(with_last_states(without_colours(text)) if on_terminal() else text)


class RawOutput:
    """Standard output for bytes of another party. They need not be UTF-8, nor text.

    A terminal gets no colours of it, and of a progress bar the last state.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace") if on_terminal() else None
        self._rest = ""
        self._states = 0
        """How many states of the line in `_rest` were left out."""

    def write(self, piece: bytes) -> None:
        """Print a piece."""
        with writing():
            if self._decoder is None:
                sys.stdout.buffer.write(piece)
                return
            # What a character means depends on its neighbours, so whole lines are shown.
            lines, end, self._rest = (self._rest + self._decoder.decode(piece)).rpartition("\n")
            if end:
                sys.stdout.write(self._shown(lines + end))
            if len(self._rest) > _LONGEST_HELD:
                self._states, self._rest = without_earlier_states(self._rest, self._states)
            if len(self._rest) > _LONGEST_HELD:
                sys.stdout.write(visible(self._rest[:-1]))
                self._rest = self._rest[-1]

    def _shown(self, text: str) -> str:
        states, self._states = self._states, 0
        return visible(with_last_states(without_colours(text), before=states))

    def close(self) -> None:
        """Print what was held back, and flush."""
        with writing():
            if self._decoder is not None:
                sys.stdout.write(self._shown(self._rest + self._decoder.decode(b"", final=True)))
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
    if not isinstance(part, Styled) or not (part.colour or part.bold) or not text or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=part.colour, bold=part.bold or None)

"""Writes log lines on a thread of its own: a terminal, a pipe or a disk that stands still stops no other work."""

import logging
import os
import select
import threading
import time
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TextIO

MAX_LINES: Final = 4_096
"""How many lines may wait: five seconds of a worker that is as busy as it can be, and about one megabyte."""
_FLUSH_S: Final = 0.5
"""How long the end of a process waits for a line to be written: a service manager kills it soon after."""

_GATHER_S: Final = 0.02
"""How long lines are gathered after one was written: a thread that wakes for each line of a busy worker takes Python's
lock from its event loop each time. The first line after a while is written at once."""


class QueuedHandler(logging.Handler):
    """Formats records where they are logged, and writes the lines on a thread: logging never waits.

    While `MAX_LINES` wait, further lines are dropped until half of the queue is written. Their number is said once,
    before the next line; `beside` says when it begins. A line that cannot be written, as on a full disk, is dropped
    and counted, too.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        name: str,
        *,
        beside: logging.Handler | None = None,
        max_lines: int = MAX_LINES,
        flush_s: float = _FLUSH_S,
    ) -> None:
        """Start the thread.

        Args:
            write: writes one line, with its line end; may block. It is called on the thread only.
            name: what the lines go to, as a person names it: "standard error".
            beside: another handler, which is told once each time that lines begin to be dropped here.
            max_lines: how many lines may wait.
            flush_s: how long `flush` and `close` wait at most while lines are being written.
        """
        super().__init__()
        self.beside = beside
        self._write, self._name, self._max_lines, self._flush_s = write, name, max_lines, flush_s
        self._lines: SimpleQueue[str | threading.Event | None] = SimpleQueue()
        self._counting = threading.Lock()
        self._untold = 0
        self._dropped = 0
        self._full = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name=f"log to {name}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many lines have been dropped since the start."""
        return self._dropped

    def handle(self, record: logging.LogRecord) -> bool:
        """Queue a record that passes the filters. Needs no lock, so two of these handlers may tell each other."""
        kept: Any = self.filter(record)  # from Python 3.12 on, a filter may give another record
        if kept:
            self.emit(kept if isinstance(kept, logging.LogRecord) else record)
        return bool(kept)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the line of a record, or drop it."""
        if self._stands_still():
            self._count()
            return
        self._tell_dropped()
        self._put(record)

    def flush(self) -> None:
        """Wait until all lines that were logged are written; if none is for half a second, no longer."""
        self._flushed()

    def close(self) -> None:
        """Write what is left, as far as it is taken in time, and end the thread."""
        if self._thread.is_alive():
            if not self._stands_still():
                self._tell_dropped()
            flushed = self._flushed()
            self._lines.put(None)
            if flushed:
                self._thread.join(_FLUSH_S)
        super().close()

    def _flushed(self) -> bool:
        if self._stands_still() or not self._thread.is_alive():
            return False
        written, waiting = threading.Event(), self._lines.qsize() + 1
        self._lines.put(written)
        deadline = time.monotonic() + self._flush_s
        while not written.wait(min(_FLUSH_S, self._flush_s)):
            waiting, before = self._lines.qsize(), waiting
            if waiting >= before or time.monotonic() > deadline:
                return False
        return True

    def _stands_still(self) -> bool:
        """Return whether lines are dropped now; tells `beside` when that begins."""
        waiting = self._lines.qsize()
        if self._full:
            self._full = waiting > self._max_lines // 2
        elif waiting >= self._max_lines:
            self._full = True
            if self.beside is not None:
                self.beside.handle(_note(f"{self._name} takes no log lines; they are dropped until it does"))
        return self._full

    def _tell_dropped(self) -> None:
        """Queue the number of lines that were dropped, if there are any and lines can be written again."""
        if not self._untold or self._failing:
            return
        with self._counting:
            untold, self._untold = self._untold, 0
        self._put(_note(f"{untold} log lines were dropped: {self._name} did not take them"))

    def _put(self, record: logging.LogRecord) -> None:
        try:
            self._lines.put(self.format(record) + "\n")
        except Exception:  # noqa: BLE001  # as in all handlers: a failure to log must not end the program
            self._lines.put(f"--- a log line could not be made ---\n{traceback.format_exc()}")

    def _count(self) -> None:
        with self._counting:
            self._untold += 1
            self._dropped += 1

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            if isinstance(line, threading.Event):
                line.set()
                continue
            try:
                self._write(line)
                self._failing = False
            except (OSError, ValueError):  # a full disk; a stream that is closed
                self._failing = True
                self._count()
            if self._lines.empty():
                time.sleep(_GATHER_S)


def _note(text: str) -> logging.LogRecord:
    return logging.LogRecord("agentbus.log", logging.WARNING, "", 0, text, None, None)


def write_to(stream: TextIO | None) -> Callable[[str], object]:
    """Return a function that writes lines to a standard stream, past its buffer; of no stream, one that does nothing.

    A buffer would be locked while a write stands still, and Python waits for that lock when it ends.
    """
    if stream is None:
        return len
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a stream that is no file
        return stream.write
    encoding = stream.encoding

    def write(line: str) -> None:
        data = line.encode(encoding, "backslashreplace")
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # another program has made the terminal or the pipe non-blocking
                select.select([], [descriptor], [])

    return write

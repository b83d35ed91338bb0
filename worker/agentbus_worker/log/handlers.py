"""Writes the worker's log to a rotated file and to stderr, without prompts, task contents or secrets.

Each of the two has a thread and a queue: whichever stands still holds up neither the work nor the other one.
"""

import logging
import logging.handlers
import os
import stat
import sys
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, cast

from agentbus.config.worker_schema import LogSection
from agentbus.errors import ConfigError
from agentbus.observability.queued_log import QueuedHandler, write_to
from agentbus_worker.disk.file_lock import locked
from agentbus_worker.log.lines import FORMATTERS
from agentbus_worker.log.log_file import LOG_FILE, own_log_file

_UNUSED_ATTRIBUTES: Final = ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks")
"""Switches for attributes of records that no line shows and that `logging` would look up for each record."""
_OWNER_FILE: Final = 0o600
_FLUSH_S: Final = 5.0
"""How long a worker that ends goes on writing lines, if the disk is slow; units leave it much longer for its end."""


class _SharedRotatingHandler(logging.handlers.RotatingFileHandler):
    """A rotated file that several workers share. When another worker has rotated it, this one opens the new file."""

    _inode = (0, 0)
    _ended = False

    def __init__(self, path: Path, **keys: Any) -> None:
        self._writing = threading.Lock()
        super().__init__(path, **keys)

    def _open(self) -> TextIOWrapper:
        opened = open(self.baseFilename, self.mode, encoding=self.encoding, opener=_open_for_owner)  # noqa: SIM115
        stream = cast("TextIOWrapper", opened)
        status = os.fstat(stream.fileno())
        self._inode = (status.st_dev, status.st_ino)
        return stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a record."""
        try:
            self.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001  # as in all handlers: a failure to log must not end the worker
            self.handleError(record)

    def write(self, line: str) -> None:
        """Append a line in one unbuffered write: it survives a crash of this process, and lines do not interleave.

        Raises:
            OSError: the disk refuses it.
            ValueError: the file is closed.
        """
        data = line.encode()
        with self._writing:
            if self._ended:
                raise ValueError("the log file is closed")
            self._rotate_if_full(len(data))
            assert self.stream is not None, "the handler opens it when it is made"
            os.write(self.stream.fileno(), data)

    def close_unless_writing(self) -> None:
        """Close the file, unless a write to it stands still: closing would wait for that. The process ends soon."""
        if self._writing.acquire(blocking=False):
            self._ended = True
            self._writing.release()
            self.close()

    def _rotate_if_full(self, line_bytes: int) -> None:
        current = self._stat()
        if current is None or self._is_rotated(current):
            self._reopen()
            current = self._stat()
        size = current.st_size if current else 0  # includes what other workers have written
        if size > 0 and size + line_bytes >= self.maxBytes:
            self.doRollover()

    def doRollover(self) -> None:  # noqa: N802
        with locked(Path(self.baseFilename + ".lock")):
            current = self._stat()
            if current is None or self._is_rotated(current):
                self._reopen()
            else:
                super().doRollover()

    def _stat(self) -> os.stat_result | None:
        """Return the status of the file that has the name now, or None."""
        try:
            return os.stat(self.baseFilename)  # noqa: PTH116  # called for every line: making a Path takes as long as the call
        except FileNotFoundError:
            return None

    def _is_rotated(self, current: os.stat_result) -> bool:
        """Return whether another worker has rotated the file that is open here."""
        return (current.st_dev, current.st_ino) != self._inode

    def _reopen(self) -> None:
        self.close()
        self.stream = self._open()


def _open_for_owner(path: str, flags: int) -> int:
    """Open a file that no other user of the machine can read: a log tells who works for whom, on what, and when."""
    descriptor = os.open(path, flags, _OWNER_FILE)
    if stat.S_IMODE(os.fstat(descriptor).st_mode) & ~_OWNER_FILE:
        with suppress(OSError):  # of a file that belongs to another user
            os.fchmod(descriptor, _OWNER_FILE)
    return descriptor


@contextmanager
def log_to(
    section: LogSection,
    *,
    verbose: bool = False,
    worker: str | None = None,
    agent: str | None = None,
    state_dir: Path | None = None,
) -> Generator[logging.Logger]:
    """Log to stderr and to the configured file for the length of the block.

    Args:
        section: the folder, the format and the limits.
        verbose: log details as well.
        worker: the instance, a field of every line, as `agent` is.
        agent: with its `state_dir`, whose log this is: each has a file of its own. Else it is `agentbus-worker.log`.
        state_dir: see `agent`.

    Raises:
        ConfigError: the log folder cannot be written to.
    """
    with ExitStack() as stack:
        try:
            section.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = section.dir / LOG_FILE
            if agent is not None and state_dir is not None:
                path = stack.enter_context(own_log_file(section.dir, agent, state_dir))
            file = _SharedRotatingHandler(
                path, maxBytes=section.max_bytes, backupCount=section.backup_count, encoding="utf-8"
            )
        except OSError as error:
            raise ConfigError(f"cannot write the log in {section.dir}: {error.strerror}; set dir in [log]") from None
        stack.callback(file.close_unless_writing)
        to_file = QueuedHandler(file.write, f"the log file {path}", flush_s=_FLUSH_S)
        to_stderr = QueuedHandler(write_to(sys.stderr), "standard error", beside=to_file, flush_s=_FLUSH_S)
        to_file.beside = to_stderr
        libraries = QueuedHandler(write_to(sys.stderr), "standard error")
        libraries.setLevel(logging.WARNING)
        formatter = FORMATTERS[section.format](agent=agent, worker=worker)
        for handler in (to_stderr, to_file):
            handler.setFormatter(formatter)
        if section.format == "text" and (for_a_person := _for_a_terminal()) is not None:
            to_stderr.setFormatter(for_a_person)
        for handler in (to_file, to_stderr, libraries):
            stack.callback(handler.close)
        with _logging_with([to_stderr, to_file], libraries, logging.DEBUG if verbose else logging.INFO):
            yield logging.getLogger("agentbus.worker")


def _for_a_terminal() -> logging.Formatter | None:
    """Return the formatter of standard error where that is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():  # pyright: ignore[reportUnnecessaryComparison]  # None without one
        return None
    from agentbus_worker.log.terminal_lines import terminal_formatter  # noqa: PLC0415  # services need none of it

    return terminal_formatter(sys.stderr)


@contextmanager
def _logging_with(handlers: list[QueuedHandler], libraries: logging.Handler, level: int) -> Generator[None]:
    """Have the package log with `handlers`, and libraries with `libraries`, for the length of the block."""
    logger = logging.getLogger("agentbus")
    before = logger.level, logger.propagate, [getattr(logging, name, None) for name in _UNUSED_ATTRIBUTES]
    last_resort = logging.lastResort
    logger.setLevel(level)
    logger.propagate = False
    logging.lastResort = libraries
    for name in _UNUSED_ATTRIBUTES:
        setattr(logging, name, False)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        logging.lastResort = last_resort
        for name, value in zip(_UNUSED_ATTRIBUTES, before[2], strict=True):
            setattr(logging, name, value)
        for handler in handlers:
            logger.removeHandler(handler)

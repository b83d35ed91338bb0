"""Writes the worker's log to a rotated file and to stderr, without prompts, task contents or secrets."""

import logging
import logging.handlers
import os
import stat
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Final, cast

from agentbus.config.worker_schema import LogSection
from agentbus.errors import ConfigError
from agentbus_worker.file_lock import locked
from agentbus_worker.log.lines import FORMATTERS

_UNUSED_ATTRIBUTES: Final = ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks")
"""Switches for attributes of records that no line shows and that `logging` would look up for each record."""
LOG_FILE: Final = "agentbus-worker.log"
_OWNER_FILE: Final = 0o600


class _SharedRotatingHandler(logging.handlers.RotatingFileHandler):
    """A rotated file that several workers share. When another worker has rotated it, this one opens the new file."""

    _inode = (0, 0)

    def _open(self) -> TextIOWrapper:
        opened = open(self.baseFilename, self.mode, encoding=self.encoding, opener=_open_for_owner)  # noqa: SIM115
        stream = cast("TextIOWrapper", opened)
        status = os.fstat(stream.fileno())
        self._inode = (status.st_dev, status.st_ino)
        return stream

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line in one unbuffered write: it survives a crash of this process, and lines do not interleave."""
        try:
            line = (self.format(record) + "\n").encode()
            self._rotate_if_full(len(line))
            assert self.stream is not None, "the handler opens it when it is made"
            os.write(self.stream.fileno(), line)
        except Exception:  # noqa: BLE001  # as in all handlers: a failure to log must not end the worker
            self.handleError(record)

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
def log_to(section: LogSection, *, verbose: bool = False, worker: str | None = None) -> Generator[logging.Logger]:
    """Log to stderr and to the configured file for the length of the block.

    Args:
        section: the folder, the format and the limits.
        verbose: log details as well.
        worker: the instance, a field of every line: several workers may share a file.

    Raises:
        ConfigError: the log folder cannot be written to.
    """
    formatter = FORMATTERS[section.format](worker=worker)
    try:
        section.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = _SharedRotatingHandler(
            section.dir / LOG_FILE, maxBytes=section.max_bytes, backupCount=section.backup_count, encoding="utf-8"
        )
    except OSError as error:
        raise ConfigError(f"cannot write the log in {section.dir}: {error.strerror}; set dir in [log]") from None
    handlers = [logging.StreamHandler(sys.stderr), file]
    logger = logging.getLogger("agentbus")
    before = logger.level, logger.propagate, [getattr(logging, name, None) for name in _UNUSED_ATTRIBUTES]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    for name in _UNUSED_ATTRIBUTES:
        setattr(logging, name, False)
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    try:
        yield logging.getLogger("agentbus.worker")
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        for name, value in zip(_UNUSED_ATTRIBUTES, before[2], strict=True):
            setattr(logging, name, value)
        for handler in handlers:
            logger.removeHandler(handler)
        file.close()

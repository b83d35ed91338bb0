"""The worker's log: a rotated file and stderr. Neither holds prompts, task contents or secrets."""

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

from agentbus.config.schema import LogSection
from agentbus.errors import ConfigError
from agentbus_worker.file_lock import locked
from agentbus_worker.log.lines import FORMATTERS

_IN_NO_LINE: Final = ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks")
"""What `logging` finds out for every record unless it is switched off."""
LOG_FILE: Final = "agentbus-worker.log"
_OWNER_FILE: Final = 0o600


class _SharedRotatingHandler(logging.handlers.RotatingFileHandler):
    """A rotated file that several workers share. A worker that finds it rotated by another opens the new one."""

    _mine = (0, 0)

    def _open(self) -> TextIOWrapper:
        opened = open(self.baseFilename, self.mode, encoding=self.encoding, opener=_for_the_owner)  # noqa: SIM115
        stream = cast("TextIOWrapper", opened)
        mine = os.fstat(stream.fileno())
        self._mine = (mine.st_dev, mine.st_ino)
        return stream

    def emit(self, record: logging.LogRecord) -> None:
        """Append a line in one unbuffered write: it survives a crash of this process, and no line is torn."""
        try:
            line = (self.format(record) + "\n").encode()
            self._make_room(len(line))
            assert self.stream is not None, "it is open from the beginning"
            os.write(self.stream.fileno(), line)
        except Exception:  # noqa: BLE001  # as in all handlers: a line that cannot be logged must not end the worker
            self.handleError(record)

    def _make_room(self, line_bytes: int) -> None:
        there = self._there()
        if there is None or self._is_other(there):
            self._reopen()
            there = self._there()
        size = there.st_size if there else 0  # all workers have written to it
        if size > 0 and size + line_bytes >= self.maxBytes:
            self.doRollover()

    def doRollover(self) -> None:  # noqa: N802
        with locked(Path(self.baseFilename + ".lock")):
            there = self._there()
            if there is None or self._is_other(there):
                self._reopen()
            else:
                super().doRollover()

    def _there(self) -> os.stat_result | None:
        """Stat the file that has the name now."""
        try:
            return os.stat(self.baseFilename)  # noqa: PTH116  # for every line: a Path takes as long as the call
        except FileNotFoundError:
            return None

    def _is_other(self, there: os.stat_result) -> bool:
        """Whether another worker has rotated the file that is open here."""
        return (there.st_dev, there.st_ino) != self._mine

    def _reopen(self) -> None:
        self.close()
        self.stream = self._open()


def _for_the_owner(path: str, flags: int) -> int:
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
        section: where to, and in what form.
        verbose: log details as well.
        worker: who writes it, said in every line: several workers may share a file.

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
    before = logger.level, logger.propagate, [getattr(logging, name, None) for name in _IN_NO_LINE]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    for name in _IN_NO_LINE:
        setattr(logging, name, False)
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    try:
        yield logging.getLogger("agentbus.worker")
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        for name, value in zip(_IN_NO_LINE, before[2], strict=True):
            setattr(logging, name, value)
        for handler in handlers:
            logger.removeHandler(handler)
        file.close()

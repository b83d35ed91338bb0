"""The worker's log: a rotated file and stderr. Neither holds prompts, task contents or secrets."""

import fcntl
import logging
import logging.handlers
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Final

from agentbus.config import LogSection
from agentbus.errors import ConfigError

LOG_FILE: Final = "agentbus-worker.log"


class _SharedRotatingHandler(logging.handlers.RotatingFileHandler):
    """A rotated file that several workers may write to: whoever finds it rotated by another opens the new one."""

    _mine = (0, 0)

    def _open(self) -> TextIOWrapper:
        stream = super()._open()
        mine = os.fstat(stream.fileno())
        self._mine = (mine.st_dev, mine.st_ino)
        return stream

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802  # the name is logging's
        there = self._there()
        if there is None or self._is_other(there):
            self._reopen()
            there = self._there()
        size = there.st_size if there else 0  # of what all workers have written
        return size > 0 and size + len(self.format(record).encode()) + 1 >= self.maxBytes

    def doRollover(self) -> None:  # noqa: N802
        with Path(self.baseFilename + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            there = self._there()
            if there is None or self._is_other(there):
                self._reopen()
            else:
                super().doRollover()

    def _there(self) -> os.stat_result | None:
        """The file that has the name now."""
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


class _Formatter(logging.Formatter):
    """The form of a line; made once for all that it goes to."""

    converter = time.gmtime
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._last: tuple[logging.LogRecord, str] | None = None

    def format(self, record: logging.LogRecord) -> str:
        if self._last is None or self._last[0] is not record:
            self._last = record, super().format(record)
        return self._last[1]


@contextmanager
def log_to(section: LogSection, *, verbose: bool = False) -> Generator[logging.Logger]:
    """Log to stderr and to the configured file for the length of the block.

    Raises:
        ConfigError: the log folder cannot be written to.
    """
    formatter = _Formatter()
    try:
        section.dir.mkdir(parents=True, exist_ok=True)
        file = _SharedRotatingHandler(
            section.dir / LOG_FILE, maxBytes=section.max_bytes, backupCount=section.backup_count, encoding="utf-8"
        )
    except OSError as error:
        raise ConfigError(f"cannot write the log in {section.dir}: {error.strerror}; set dir in [log]") from None
    handlers = [logging.StreamHandler(sys.stderr), file]
    logger = logging.getLogger("agentbus")
    before = logger.level, logger.propagate
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    try:
        yield logging.getLogger("agentbus.worker")
    finally:
        logger.setLevel(before[0])
        logger.propagate = before[1]
        for handler in handlers:
            logger.removeHandler(handler)
        file.close()

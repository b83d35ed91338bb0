"""A worker that waits for each of its log lines to be written: what the storm must find."""

import logging

from agentbus.observability.queued_log import QueuedHandler
from agentbus_worker.__main__ import main


def emit(self: QueuedHandler, record: logging.LogRecord) -> None:
    """Write at once."""
    self._write(self.format(record) + "\n")  # pyright: ignore[reportPrivateUsage]


if __name__ == "__main__":
    QueuedHandler.emit = emit
    main()

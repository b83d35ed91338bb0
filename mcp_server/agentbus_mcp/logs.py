"""Logs to standard error, which hosts keep and people read. One that is not read does not stop the server."""

import logging
import sys
from typing import Any

from agentbus.observability.queued_log import QueuedHandler, write_to
from agentbus_mcp.sanitize import printable, visible


class OneLine(logging.Formatter):
    """Formats each message on one line, so that text from a client or the bus cannot look like another line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name is logging's
        """Escape the message, on one line."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Escape a traceback, which follows the message in lines of its own."""
        return visible(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        """Escape a stack in the same way."""
        return visible(super().formatStack(stack_info))


def log_to_stderr(program: str = "agentbus-mcp") -> None:
    """Log our own lines and the warnings of libraries to standard error, each behind the name of the program."""
    handler = QueuedHandler(write_to(sys.stderr), "standard error")
    handler.setFormatter(OneLine(f"{program}: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for library in ("mcp", "uvicorn"):
        logging.getLogger(library).setLevel(logging.WARNING)


def flush() -> None:
    """Write the lines that are left, as far as they are taken at once; before the process exits past Python's end."""
    for handler in logging.getLogger().handlers:
        handler.flush()

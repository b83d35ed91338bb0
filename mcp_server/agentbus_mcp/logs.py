"""The log of the server: lines on standard error, which hosts keep and people read."""

import logging
import sys

from agentbus_mcp.replies.sanitize import printable


class OneLine(logging.Formatter):
    """A message on one line: what it quotes of a client or of the bus cannot look like a line of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name is logging's
        """The line; a traceback follows it as it is."""
        return printable(super().formatMessage(record))


def log_to_stderr() -> None:
    """Have this process log there: our own lines, and what the libraries warn of."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("agentbus-mcp: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for library in ("mcp", "uvicorn"):
        logging.getLogger(library).setLevel(logging.WARNING)

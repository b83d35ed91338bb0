"""`python -m agentbus_worker` runs `agentbus worker run`."""

import sys

from agentbus.errors import AgentBusError
from agentbus.terminal import error_line, guard_tracebacks
from agentbus_worker.cli import run


def main() -> None:
    """Run the worker; an error is one line on stderr and exit code 1."""
    guard_tracebacks()
    try:
        run(prog_name="python -m agentbus_worker")
    except AgentBusError as error:
        error_line(f"error: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()

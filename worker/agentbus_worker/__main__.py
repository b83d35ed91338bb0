"""`python -m agentbus_worker` runs `agentbus worker run`."""

import sys

import click

from agentbus.errors import AgentBusError
from agentbus_worker.cli import run


def main() -> None:
    """Run the worker; an error is one line on stderr and exit code 1."""
    try:
        run(prog_name="python -m agentbus_worker")
    except AgentBusError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

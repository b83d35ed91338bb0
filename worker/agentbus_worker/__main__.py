"""`python -m agentbus_worker` runs `agentbus worker run`."""

from agentbus.terminal import program
from agentbus_worker.cli import run


def main() -> None:
    """Run the worker; an error is one line on stderr and exit code 1."""
    with program():
        run(prog_name="python -m agentbus_worker")


if __name__ == "__main__":
    main()

"""Runs the commands of service managers: systemctl, launchctl, supervisorctl."""

import subprocess
from collections.abc import Sequence
from typing import Final

from agentbus.errors import ServiceError

# A stop waits for the worker's drain, 30 seconds by default and set higher by some operators.
_TIMEOUT_S: Final = 180
_SHOWN_CHARACTERS: Final = 500  # of the manager's output: some print their manual after an error


def run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, whatever its exit code.

    Raises:
        ServiceError: the command is not on this machine, or does not end in time.
    """
    try:
        return subprocess.run(
            command,
            check=False,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise ServiceError(f"{command[0]} is not on this machine; choose another with --manager") from None
    except subprocess.TimeoutExpired:
        raise ServiceError(f"{' '.join(command)} has not ended within {_TIMEOUT_S} s") from None


def run_all(commands: Sequence[Sequence[str]]) -> None:
    """Run commands one after the other.

    Raises:
        ServiceError: one of them failed; the rest was not run.
    """
    for command in commands:
        done = run(command)
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
            raise ServiceError(f"{' '.join(command)}: {said[:_SHOWN_CHARACTERS]}")

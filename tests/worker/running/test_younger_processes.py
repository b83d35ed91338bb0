"""What a command has started of late is told from what it started before."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from agentbus_worker.running.process_tree import has_younger_process


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    """A shell that starts a process for each line of its input, and says so."""
    with subprocess.Popen(
        ["sh", "-c", "while read line; do sleep 1000 & echo $!; done"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        encoding="utf-8", start_new_session=True,
    ) as process:  # fmt: skip
        yield process
        os.killpg(process.pid, 9)


def test_a_process_is_younger_than_an_hour_and_not_than_a_time_before_its_start(parent: subprocess.Popen[str]) -> None:
    assert parent.stdin is not None
    assert parent.stdout is not None
    assert not has_younger_process(parent.pid, 3600), "the command itself does not count"
    parent.stdin.write("x\n")
    parent.stdin.flush()
    parent.stdout.readline()
    assert has_younger_process(parent.pid, 3600)
    assert not has_younger_process(parent.pid, -60)


def test_a_command_that_has_ended_has_no_processes() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert not has_younger_process(process.pid, 3600)

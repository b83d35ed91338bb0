"""A process that begins with everything imported is otherwise what `subprocess` starts: many tests rest on it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from support.harness import SUPPORT
from support.warm_starts import COLD, is_possible

REPORT: Final = [sys.executable, str(SUPPORT / "self_report.py")]
COMMAND: Final = [sys.executable, "-m", "agentbus"]

pytestmark = pytest.mark.skipif(not is_possible(), reason="processes are started as always here")


def ended(argv: list[str], *, cold: bool = False, **more: Any) -> tuple[int, str, str]:
    environment = {**os.environ, **more.pop("env", {}), **({COLD: "1"} if cold else {})}
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", check=False, env=environment, **more)
    return done.returncode, done.stdout, done.stderr


def reported(*, cold: bool, **more: Any) -> dict[str, Any]:
    code, out, err = ended([*REPORT, "7", "wörter"], cold=cold, input="from standard input", **more)
    assert (code, err) == (7, "from standard input")
    report = json.loads(out)
    assert report.pop("imported already") is not cold
    variables, shown = report.pop("environment")
    assert sorted(pair for pair in shown if pair) == sorted(f"{name}={value}" for name, value in variables)
    return {**report, "variables": [pair for pair in variables if pair[0] != COLD]}


def test_it_finds_of_itself_what_any_process_does(tmp_path: Path) -> None:
    earlier = signal.signal(signal.SIGUSR1, signal.SIG_IGN), os.umask(0o027)
    try:
        with (tmp_path / "kept").open("wb") as kept:
            how: dict[str, Any] = {"cwd": tmp_path, "env": {"AN": "öther"}, "pass_fds": [kept.fileno()]}
            assert reported(cold=False, **how) == reported(cold=True, **how)
            assert reported(cold=False, start_new_session=True) == reported(cold=True, start_new_session=True)
    finally:
        signal.signal(signal.SIGUSR1, earlier[0])
        os.umask(earlier[1])


def test_it_ends_as_any_process_does() -> None:
    for word in ("no-such-command", "--version"):
        assert ended([*COMMAND, word], stdin=subprocess.DEVNULL) == ended([*COMMAND, word], cold=True)
    code, _, err = ended([*REPORT, "a reason"], stdin=subprocess.DEVNULL)
    assert (code, err) == (1, "a reason\n")


def test_it_is_a_child_of_the_tests_which_learn_of_the_signal_that_ended_it() -> None:
    with subprocess.Popen([*REPORT, "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["parent"] == os.getpid()
        assert child.poll() is None
        child.terminate()
        assert child.wait(10) == -signal.SIGTERM


@pytest.mark.parametrize("name", ["PYTHONDEVMODE", "LC_ALL", "OTEL_PROPAGATORS"])
def test_where_an_interpreter_reads_something_else_at_its_start_it_is_started_as_always(name: str) -> None:
    _, out, _ = ended([*REPORT, "0"], stdin=subprocess.DEVNULL, env={name: "none" if "OTEL" in name else "C"})
    assert json.loads(out)["imported already"] is False


def test_a_folder_that_is_missing_is_an_error_as_always(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        ended([*REPORT, "0"], cwd=tmp_path / "missing")

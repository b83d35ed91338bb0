"""Real child processes: how they end, what they print, and that no process stays behind."""

import asyncio
import contextlib
import ctypes
import hashlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from agentbus.errors import CommandError, MachineFaultError
from agentbus.protocol.ids import random_token
from agentbus_worker.running import spawn
from agentbus_worker.running.command import Exit, Limits, running
from agentbus_worker.running.process_tree import RUN_VARIABLE, Children
from agentbus_worker.running.spawn import MAX_ARGUMENT_BYTES, Command, close_on_exec
from agentbus_worker.running.supervising.supervisor import become_subreaper
from support.harness import BOUND_S, alive, eventually
from support.pace import at_this_pace

LONG_S = 1000
MOMENT_S = 0.2
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, or at a limit of Linux")


class Run(Protocol):
    """A command from its start until nothing of it is left, with defaults, and with a bound for the test."""

    async def __call__(
        self,
        argv: list[str],
        *,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
        stop: asyncio.Future[None] | None = None,
        look: Callable[[Exit], None] = lambda _: None,
        on_still_running: Callable[[], None] = lambda: None,
        no_process_left: Callable[[], None] = lambda: None,
        **limits: float,
    ) -> Exit: ...


def _never() -> asyncio.Future[None]:
    """A stop that has not been asked for yet."""
    return asyncio.get_running_loop().create_future()


@pytest.fixture
def adopted() -> Iterator[None]:
    """Orphans become children of this process, as they do of a worker; none is left as a zombie."""
    become_subreaper()
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


@pytest.fixture(params=["supervised", "waitid", "poll"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way in which a platform can start a process, and tell that it has ended."""
    if request.param == "supervised":
        if sys.platform != "linux":
            pytest.skip("no supervisors here")
        request.getfixturevalue("adopted")
        if (variable := "COVERAGE_PROCESS_CONFIG") in os.environ:  # what measures a supervisor is an installed package
            monkeypatch.setattr(spawn, "_ISOLATED", ())
            monkeypatch.setattr(spawn, "_LOADER_VARIABLES", (variable,))
    if request.param == "poll":
        monkeypatch.delattr(os, "waitid", raising=False)
    elif request.param == "waitid" and not hasattr(os, "waitid"):
        pytest.skip("no waitid here")
    return str(request.param)


@pytest.fixture
async def run(way: str, tmp_path: Path) -> AsyncIterator[Run]:
    """Runs a command in that way."""
    folder = tmp_path / "worker"
    for name in ("children", "tmp"):
        (folder / name).mkdir(parents=True)
    records = folder / "children"
    children = Children(records, slots=2 if way == "supervised" else 0)

    async def bounded(
        argv: list[str],
        *,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
        stop: asyncio.Future[None] | None = None,
        look: Callable[[Exit], None] = lambda _: None,
        on_still_running: Callable[[], None] = lambda: None,
        no_process_left: Callable[[], None] = lambda: None,
        **limits: float,
    ) -> Exit:
        run_id = random_token()
        given = {**(dict(os.environ) if env is None else env), RUN_VARIABLE: run_id}
        command = Command(argv, given, run_id, cwd=cwd, stdin=stdin, no_process_left=no_process_left)
        bounds: dict[str, Any] = {"timeout_s": BOUND_S, "grace_s": MOMENT_S, "keep_bytes": 1 << 20, **limits}
        try:
            async with (
                asyncio.timeout(2 * BOUND_S),
                running(command, Limits(**bounds), children, folder / "tmp") as child,
            ):
                ended = await child.ended(stop or _never(), children, on_still_running=on_still_running)
                look(ended)
            return ended
        finally:
            assert not [*(folder / "tmp").iterdir()], "a file of a run was left"
            if not children._runs:  # pyright: ignore[reportPrivateUsage]
                assert len([*records.iterdir()]) == 1, "a record of a command that has ended was left"

    with children:
        yield bounded
    assert not [*records.iterdir()]


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def python(script: str, *args: str) -> list[str]:
    return [sys.executable, "-c", script, *args]


@contextlib.contextmanager
def strays(folder: Path) -> Generator[Callable[[str], Awaitable[int]]]:
    """Reads the pid that a child wrote into a file of `folder`; whatever of them still lives at the end is killed."""

    async def pid_in(name: str) -> int:
        def read() -> int:
            path = folder / name
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            return int(text) if text.endswith("\n") else 0

        return await eventually(read, f"a child writes its pid into {name}")

    try:
        yield pid_in
    finally:
        for path in folder.glob("*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(path.read_text(encoding="utf-8")), signal.SIGKILL)


async def gone(*pids: int) -> None:
    await eventually(lambda: not any(alive(pid) for pid in pids), f"the processes {pids} are gone")


# -- how it ended -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 7, 255])
async def test_the_exit_code_is_that_of_the_command(run: Run, code: int):
    ended = await run(shell(f"exit {code}"))
    assert (ended.reason, ended.code) == ("exited", code)
    assert 0 < ended.duration_s < BOUND_S


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT])
async def test_a_command_that_a_signal_ended_has_the_negative_signal_as_its_code(run: Run, number: signal.Signals):
    ended = await run(shell(f"ulimit -c 0; kill -{int(number)} $$"))
    assert (ended.reason, ended.code) == ("exited", -number)


async def test_concurrent_commands_do_not_mix_their_exit_codes_or_outputs(run: Run):
    ends = await asyncio.gather(*(run(shell(f"echo {number}; exit {number}")) for number in range(12)))
    assert [(ended.code, ended.stdout.head) for ended in ends] == [(n, f"{n}\n".encode()) for n in range(12)]


async def test_the_callback_is_called_once_for_a_longer_command_and_not_for_a_very_short_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
):
    told: list[str] = []
    await run(["sleep", str(MOMENT_S)], on_still_running=lambda: told.append("lasts"))
    assert told == ["lasts"]
    monkeypatch.setattr("agentbus_worker.running.command._QUICK_S", BOUND_S)  # however busy this machine is
    await run(["true"], on_still_running=lambda: told.append("over"))
    assert told == ["lasts"]


async def test_no_zombie_is_left_afterwards(run: Run):
    await run(shell("sleep 0 & exit 3"))
    await run(["sleep", str(LONG_S)], timeout_s=0.01)
    with contextlib.suppress(ChildProcessError):  # no child at all, or supervisors that live
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)  # noqa: ASYNC222  # it does not wait


# -- what it is given -------------------------------------------------------------------------------------------


async def test_its_standard_input_is_empty(run: Run):
    ended = await run(python("import sys; print(repr(sys.stdin.buffer.read()))"))
    assert ended.stdout.head == b"b''\n"


@pytest.mark.parametrize("size", [0, 5, 1_000_000])
async def test_its_standard_input_is_what_it_is_given_and_then_end_of_file(run: Run, size: int):
    ended = await run(["/bin/cat"], stdin=b"x" * size)
    assert ended.stdout.head == b"x" * size


async def test_a_command_that_does_not_read_its_input_delays_nothing(run: Run):
    assert (await run(shell("exit 3"), stdin=b"x" * 1_000_000)).code == 3


async def test_it_leads_a_session_and_a_group_of_its_own(run: Run):
    ended = await run(python("import os, json; print(json.dumps([os.getpid(), os.getsid(0), os.getpgrp()]))"))
    pid, session, group = json.loads(ended.stdout.head)
    assert pid == session == group != os.getpid()


async def test_its_environment_is_what_it_is_given_and_nothing_else(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AGENTBUS_TEST_SECRET", "hunter2")
    ended = await run(["/usr/bin/env"], env={"ONLY": "this é"})
    lines = ended.stdout.head.decode().splitlines()
    assert sorted(line.partition("=")[0] for line in lines) == [RUN_VARIABLE, "ONLY"]
    assert "ONLY=this é" in lines


async def test_its_arguments_reach_it_unchanged(run: Run):
    words = ["", "two words", "é \N{GRINNING FACE}", "$HOME `id` ; *", "'\"\\", "a\nb", "-x"]
    ended = await run(python("import json, sys; print(json.dumps(sys.argv[1:]))", *words))
    assert json.loads(ended.stdout.head) == words


async def test_it_is_found_on_the_path_of_its_own_environment(run: Run, tmp_path: Path):
    command = tmp_path / "mine"
    command.write_text("#!/bin/sh\necho found\n", encoding="utf-8")
    command.chmod(0o755)
    assert (await run(["mine"], env={"PATH": str(tmp_path)})).stdout.head == b"found\n"


async def test_it_runs_in_the_configured_folder(run: Run, tmp_path: Path):
    assert (await run(["/bin/pwd", "-P"], cwd=tmp_path)).stdout.head.decode().strip() == str(tmp_path.resolve())


@linux_only
async def test_it_inherits_no_open_file(run: Run, tmp_path: Path):
    with (tmp_path / "open").open("w", encoding="utf-8") as file:
        os.set_inheritable(file.fileno(), True)
        close_on_exec()  # as a worker does when it starts
        ended = await run(python("import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"))
    assert ended.stdout.head == b"[0, 1, 2]\n"


# -- its output -------------------------------------------------------------------------------------------------


async def test_both_outputs_are_captured_separately(run: Run):
    ended = await run(shell("printf out; printf err >&2"))
    assert (ended.stdout.head, ended.stderr.head, ended.stderr.tail) == (b"out", b"err", b"err")
    assert (ended.stdout.size, ended.stdout.truncated) == (3, False)
    assert ended.stdout.sha256 == hashlib.sha256(b"out").hexdigest()


async def test_output_that_is_not_utf8_is_captured_as_bytes(run: Run):
    assert (await run(shell(r"printf '\377\0\376'"))).stdout.head == b"\xff\x00\xfe"


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 65_536, 65_537, 200_000])
async def test_the_kept_output_is_bounded_and_the_size_is_that_of_the_whole(run: Run, size: int):
    data = bytes(number % 251 for number in range(size))
    script = f"import sys; data = bytes(n % 251 for n in range({size})); sys.stdout.buffer.write(data)"
    ended = await run(python(script), keep_bytes=1024)
    out = ended.stdout
    assert (out.size, out.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert (out.head, out.truncated) == (data[:1024], size > 1024)
    assert out.tail == data[-8192:]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
async def test_ten_megabytes_of_output_do_not_block_the_event_loop(run: Run, stream: str):
    size = 10_000_000
    script = f"import sys; sys.{stream}.buffer.write(b'x' * {size})"
    going = asyncio.ensure_future(run(python(script), keep_bytes=4096))
    turns = 0
    while not going.done():
        await asyncio.sleep(0)
        turns += 1
    out = getattr(await going, stream)
    assert (out.size, out.sha256) == (size, hashlib.sha256(b"x" * size).hexdigest())
    assert len(out.head) <= 8192
    # A pipe holds 64 KiB: had one turn of the loop read on until the end, there would have been few.
    assert turns > size / 65_536 / 2


async def test_both_outputs_are_read_at_the_same_time(run: Run):
    script = "import sys\nfor n in range(50):\n    sys.stderr.write('e' * 50000); sys.stdout.write('o' * 50000)"
    ended = await run(python(script))
    assert (ended.stdout.size, ended.stderr.size) == (2_500_000, 2_500_000)


@pytest.mark.parametrize(
    ("size", "spilled"), [(1024, False), (1025, True), (100_000, True), (200_000, True), (200_001, False)]
)
async def test_output_beyond_the_kept_part_is_spilled_to_a_file_up_to_a_limit(run: Run, size: int, spilled: bool):
    data = bytes(number % 251 for number in range(size))
    contents: list[bytes] = []

    def look(ended: Exit) -> None:
        if ended.stdout.spilled is not None:
            contents.append(ended.stdout.spilled.read_bytes())

    script = f"import sys; data = bytes(n % 251 for n in range({size})); sys.stdout.buffer.write(data)"
    ended = await run(python(script), look=look, keep_bytes=1024, spill_bytes=200_000)
    assert (ended.stdout.head, ended.stdout.size) == (data[:1024], size)
    assert contents == ([data] if spilled else [])
    assert ended.stdout.spilled is None or not ended.stdout.spilled.exists(), "the file outlives the run"


# -- when it takes too long, or must stop -----------------------------------------------------------------------


async def test_a_command_that_times_out_is_ended_and_its_output_is_kept(run: Run):
    timeout_s = at_this_pace(1)
    ended = await run(shell(f"echo so far; exec sleep {LONG_S}"), timeout_s=timeout_s)
    assert (ended.reason, ended.code, ended.stdout.head) == ("timeout", -signal.SIGTERM, b"so far\n")
    assert timeout_s <= ended.duration_s < timeout_s + BOUND_S


async def test_the_first_process_of_a_command_may_be_asked_to_end_before_the_others(run: Run, tmp_path: Path):
    stop = _never()
    with strays(tmp_path) as pid_in:
        child = "trap 'echo the child was asked; exit' TERM; while :; do sleep 0.01; done"
        script = f"""
            ({child}) &
            trap 'sleep {MOMENT_S}; echo the leader ends; exit 5' TERM
            echo $$ > {tmp_path}/me.pid
            while :; do sleep 0.01; done
        """
        going = asyncio.ensure_future(run(shell(script), stop=stop, grace_s=BOUND_S, leader_first=True))
        await pid_in("me.pid")
        stop.set_result(None)
        ended = await going
    assert (ended.reason, ended.code) == ("stopped", 5)
    assert ended.stdout.head.startswith(b"the leader ends\n")


async def test_a_command_may_clean_up_within_its_grace_period(run: Run, tmp_path: Path):
    stop = _never()
    with strays(tmp_path) as pid_in:
        script = f"trap 'echo tidied up; exit 5' TERM; echo $$ > {tmp_path}/me.pid; while :; do sleep 0.01; done"
        going = asyncio.ensure_future(run(shell(script), stop=stop, grace_s=BOUND_S))
        await pid_in("me.pid")
        stop.set_result(None)
        ended = await going
    assert (ended.reason, ended.code, ended.stdout.head) == ("stopped", 5, b"tidied up\n")


@pytest.mark.parametrize("grace_s", [0, MOMENT_S])
async def test_a_command_that_ignores_sigterm_is_killed_after_its_grace_period(
    run: Run, tmp_path: Path, grace_s: float
):
    stop = _never()
    with strays(tmp_path) as pid_in:
        script = f"trap '' TERM; echo $$ > {tmp_path}/me.pid; exec sleep {LONG_S}"
        going = asyncio.ensure_future(run(shell(script), stop=stop, grace_s=grace_s))
        pid = await pid_in("me.pid")
        stop.set_result(None)
        ended = await going
    assert (ended.reason, ended.code) == ("stopped", -signal.SIGKILL)
    assert not alive(pid)


FAMILY = """
trap '' TERM
sh -c 'echo $$ > {folder}/grandchild.pid; exec sleep 1000' &
trap - TERM
echo $$ > {folder}/child.pid
{then}
"""


@pytest.mark.parametrize("how", ["timeout", "stopped"])
async def test_the_whole_group_ends_even_a_grandchild_that_ignores_sigterm(run: Run, tmp_path: Path, how: str):
    stop = _never()
    with strays(tmp_path) as pid_in:
        script = FAMILY.format(folder=tmp_path, then=f"exec sleep {LONG_S}")
        timeout_s = at_this_pace(1.5) if how == "timeout" else LONG_S
        going = asyncio.ensure_future(run(shell(script), stop=stop, timeout_s=timeout_s))
        pids = [await pid_in("child.pid"), await pid_in("grandchild.pid")]
        if how == "stopped":
            stop.set_result(None)
        ended = await going
        assert (ended.reason, ended.code) == (how, -signal.SIGTERM)
        assert not any(alive(pid) for pid in pids), "it has returned before the group was gone"


async def test_a_stop_that_was_requested_before_the_start_ends_the_command_at_once(run: Run):
    stop = _never()
    stop.set_result(None)
    ended = await run(["sleep", str(LONG_S)], stop=stop)
    assert ended.reason == "stopped"


async def test_a_command_without_output_is_ended_at_the_idle_limit_and_one_with_output_is_not(run: Run):
    idle_s = at_this_pace(1.2)
    talk = f"for n in 1 2 3 4 5 6 7 8; do echo $n; sleep {idle_s / 6}; done"
    silent = await run(shell(f"echo once; exec sleep {LONG_S}"), idle_timeout_s=MOMENT_S)
    assert (silent.reason, silent.code) == ("idle", -signal.SIGTERM)
    for script in (talk, f"({talk}) >&2"):
        ended = await run(shell(script), idle_timeout_s=idle_s)
        assert (ended.reason, ended.code) == ("exited", 0)


async def test_a_command_that_ended_before_its_limit_has_not_timed_out(run: Run):
    stop = _never()
    ended = await run(shell("exit 0"), stop=stop, timeout_s=BOUND_S)
    stop.set_result(None)
    assert ended.reason == "exited"


# -- what it leaves behind --------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["exit 0", "exit 3"])
@pytest.mark.parametrize("stubborn", [False, True])
async def test_processes_that_a_command_leaves_in_its_group_are_ended(
    run: Run, tmp_path: Path, then: str, stubborn: bool
):
    with strays(tmp_path) as pid_in:
        wait = f"while [ ! -s {tmp_path}/grandchild.pid ]; do sleep 0.01; done; echo said; {then}"
        script = FAMILY.format(folder=tmp_path, then=wait)
        if not stubborn:
            script = script.replace("trap '' TERM", "")
        started = time.monotonic()
        ended = await run(shell(script))
        assert (ended.reason, ended.code, ended.stdout.head) == ("exited", int(then[-1]), b"said\n")
        assert not alive(await pid_in("grandchild.pid"))
    # The grandchild holds the pipes for ever: only its end, or not waiting for it, can be the reason to be here.
    assert time.monotonic() - started < BOUND_S


LEAVE = """
import os, sys, time
os.setsid()
open(sys.argv[1], "w").write(f"{os.getpid()}\\n")
time.sleep(1000)
"""


async def test_a_process_outside_the_group_that_holds_the_pipe_delays_nothing_and_is_ended(
    run: Run, way: str, tmp_path: Path
):
    leave = tmp_path / "leave.py"
    leave.write_text(LEAVE, encoding="utf-8")
    with strays(tmp_path) as pid_in:
        wait = f"while [ ! -s {tmp_path}/away.pid ]; do sleep 0.01; done; echo said"
        ended = await run(shell(f"{sys.executable} {leave} {tmp_path}/away.pid & {wait}"))
        assert (ended.reason, ended.code, ended.stdout.head) == ("exited", 0, b"said\n")
        if way == "supervised":
            assert not alive(await pid_in("away.pid"))


FLOOD = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").write(f"{os.getpid()}\\n")
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    os.write(1, b"x" * 65536)
open(sys.argv[1].replace(".pid", ".done"), "w").close()
"""


async def test_a_grandchild_that_never_stops_writing_delays_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read = os.read

    def slower_than_the_writer(descriptor: int, count: int) -> bytes:
        data = read(descriptor, count)
        time.sleep(0.002)  # so that the pipe is never found empty
        return data

    monkeypatch.setattr(os, "read", slower_than_the_writer)
    flood = tmp_path / "flood.py"
    flood.write_text(FLOOD, encoding="utf-8")
    with strays(tmp_path):
        writes = f"{sys.executable} {flood} {tmp_path}/flood.pid {BOUND_S / 2}"
        script = f"{writes} & while [ ! -s {tmp_path}/flood.pid ]; do sleep 0.01; done; sleep 0.1; exit 4"
        ended = await run(shell(script))
        assert (ended.reason, ended.code) == ("exited", 4)
        assert ended.stdout.size > 0
    assert not (tmp_path / "flood.done").exists(), "it has waited for the writer"


# -- the caller is cancelled ------------------------------------------------------------------------------------


IGNORES_SIGTERM = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # one that comes right before the wait is not missed
open(sys.argv[1] + "/ready", "w").close()
while True:
    signal.sigwait({signal.SIGTERM})
    open(sys.argv[1] + "/asked", "w").close()
"""


@pytest.mark.parametrize("when", ["running", "in its grace", "ending the group"])
async def test_cancelling_the_caller_kills_the_whole_group_at_once(run: Run, tmp_path: Path, when: str):
    stop = _never()
    stubborn = tmp_path / "stubborn.py"
    stubborn.write_text(IGNORES_SIGTERM, encoding="utf-8")
    ending = {
        "running": f"exec sleep {LONG_S}",
        "in its grace": f"exec {sys.executable} {stubborn} {tmp_path}",
        "ending the group": f"while [ ! -s {tmp_path}/grandchild.pid ]; do sleep 0.01; done",
    }[when]
    with strays(tmp_path) as pid_in:
        script = FAMILY.format(folder=tmp_path, then=ending)
        going = asyncio.ensure_future(run(shell(script), stop=stop, grace_s=LONG_S, timeout_s=LONG_S))
        child, grandchild = await pid_in("child.pid"), await pid_in("grandchild.pid")
        if when == "in its grace":
            await eventually((tmp_path / "ready").exists, "the command can be asked to end")
            stop.set_result(None)
            await eventually((tmp_path / "asked").exists, "the command was asked to end")
        elif when == "ending the group":
            await gone(child)
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
        await gone(child, grandchild)


# -- what cannot be started -------------------------------------------------------------------------------------


async def refusal(run: Run, argv: list[str], *, cwd: Path | None = None, of_machine: bool = True) -> str:
    with pytest.raises(CommandError) as caught:
        await run(argv, cwd=cwd)
    assert isinstance(caught.value, MachineFaultError) == of_machine
    return str(caught.value)


@pytest.mark.parametrize("command", ["no-such-command-anywhere", "/no/such/command", "./relative-and-missing"])
async def test_a_command_that_does_not_exist_is_an_error_that_names_it(run: Run, command: str):
    assert await refusal(run, [command, "x"]) == f"cannot start {command!r}: {command!r} does not exist"


async def test_a_command_whose_interpreter_does_not_exist_is_an_error_that_says_so(run: Run, tmp_path: Path):
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n", encoding="utf-8")
    script.chmod(0o755)
    assert await refusal(run, [str(script)]) == f"cannot start {str(script)!r}: its interpreter does not exist"
    script.write_bytes(b"#!/bin/sh\r\necho hello\r\n")
    assert "its interpreter does not exist: its #! line ends in a carriage return" in await refusal(run, [str(script)])
    script.write_bytes(b"")
    assert "it is empty" in await refusal(run, [str(script)])
    script.write_bytes(b"\x7fELF\0 of another machine")
    assert (await refusal(run, [str(script)])).endswith("Exec format error")


async def test_why_a_relative_command_is_not_started_is_looked_up_in_its_own_working_folder(run: Run, tmp_path: Path):
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n", encoding="utf-8")
    script.chmod(0o755)
    assert (await refusal(run, ["./script"], cwd=tmp_path)).endswith("its interpreter does not exist")
    (tmp_path / "else").mkdir()
    assert (await refusal(run, ["./script"], cwd=tmp_path / "else")).endswith("'./script' does not exist")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("not executable", "Permission denied"),
        ("folder", "Permission denied"),
        ("no program", "Exec format error: it has no #! line"),
    ],
)
async def test_a_file_that_is_not_executable_is_an_error_with_the_reason(
    run: Run, tmp_path: Path, kind: str, reason: str
):
    path = tmp_path / "file"
    if kind == "folder":
        path.mkdir()
    else:
        path.write_text("echo hello\n", encoding="utf-8")
        path.chmod(0o755 if kind == "no program" else 0o644)
    assert await refusal(run, [str(path), "x"]) == f"cannot start {str(path)!r}: {reason}"
    if reason == "Permission denied":  # the length of the prompt is not to blame
        assert await refusal(run, [str(path), "x" * 200_000]) == f"cannot start {str(path)!r}: {reason}"


@pytest.mark.parametrize("word", ["a\0b", "\ud800"], ids=["NUL", "lone surrogate"])
async def test_an_argument_with_a_null_character_is_an_error_that_says_so(run: Run, word: str):
    assert "an argument cannot be passed on" in await refusal(run, ["/bin/echo", word], of_machine=False)


@linux_only
@pytest.mark.parametrize("prompt", ["x" * 200_000, "é" * 100_000, "x" * (MAX_ARGUMENT_BYTES + 1)], ids=len)
async def test_a_prompt_that_is_too_long_for_an_argument_is_an_error_with_its_size_and_the_limit(run: Run, prompt: str):
    text = await refusal(run, ["/bin/echo", prompt], of_machine=False)
    assert f"the prompt is {len(prompt.encode())} bytes long" in text
    assert f"{MAX_ARGUMENT_BYTES} at the most" in text


@linux_only
async def test_the_longest_argument_that_is_allowed_reaches_the_command(run: Run):
    ended = await run(["/bin/echo", "x" * MAX_ARGUMENT_BYTES])
    assert ended.stdout.size == MAX_ARGUMENT_BYTES + 1


@pytest.mark.parametrize(("kind", "reason"), [("missing", "does not exist"), ("a file", "Not a directory")])
async def test_a_working_folder_that_cannot_be_used_is_an_error_that_names_it(
    run: Run, tmp_path: Path, kind: str, reason: str
):
    folder = tmp_path / "folder"
    if kind == "a file":
        folder.write_text("", encoding="utf-8")
    text = await refusal(run, ["/bin/echo"], cwd=folder)
    assert repr(str(folder)) in text
    assert reason in text


# -- nothing piles up -------------------------------------------------------------------------------------------


@pytest.mark.gate("waitid")
@linux_only
async def test_no_file_stays_open_over_fifty_runs_of_all_kinds(run: Run, tmp_path: Path):
    async def round_of_all() -> None:
        stop = _never()
        stop.set_result(None)
        await run(shell("echo out; echo err >&2"))
        await run(shell(f"sleep {LONG_S} & exit 1"))
        await run(["sleep", str(LONG_S)], stop=stop, grace_s=0)
        await refusal(run, ["/no/such/command"])
        going = asyncio.ensure_future(run(["sleep", str(LONG_S)]))
        await asyncio.sleep(0)
        going.cancel()
        await asyncio.wait([going])

    await round_of_all()
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(10):
        await round_of_all()
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def open_files() -> set[int]:
    listed = [*Path("/proc/self/fd").iterdir()]
    return {int(path.name) for path in listed if path.exists()}  # without that of the listing


@linux_only
@pytest.mark.parametrize("free", range(1, 7))
async def test_without_free_descriptors_a_start_is_an_error_and_leaves_none_open(
    run: Run, way: str, free: int, tmp_path: Path
):
    """With 1 the first pipe cannot be made, with 2 or 3 the second, with up to 6 a process with a folder of its own."""
    if way == "supervised" and free > 3:
        pytest.skip("the supervisor is there, and starts it")
    await run(["true"])  # whatever is opened once and kept is open now
    before = open_files()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(max(before) + 1 - len(before))]  # no gap is left
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before) + 1 + free, hard))
    try:
        said = await refusal(run, ["true"], cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in held:
            os.close(number)
    assert said.startswith("cannot start 'true': ")
    assert said.endswith("Too many open files")
    assert open_files() == before
    assert (await run(["true"])).code == 0


async def test_that_no_process_is_left_is_known_under_a_supervisor_alone_and_not_where_one_was(run: Run, way: str):
    known: list[str] = []
    await run(["sh", "-c", f"sleep {LONG_S} &"], no_process_left=lambda: known.append("one was left"))
    await run(["true"], no_process_left=lambda: known.append("none was left"))
    assert known == (["none was left"] if way == "supervised" else [])

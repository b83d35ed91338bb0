"""`agentbus run` and other commands that wait: the answer alone on standard output, and what the exit code says."""

import asyncio
import json
import re
import signal
import sys
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.cli import exit_codes
from agentbus.provision.nats_server import NatsServer
from support.harness import BOUND_S, Ran, eventually, run_cli, worker, worker_toml
from support.in_process import run_here
from support.pseudo_terminal import terminal

pytestmark = pytest.mark.posix("needs a worker and a pseudo-terminal")

ID = re.compile(r"task-\d{8}-[a-z0-9]{20}")


async def run(server: NatsServer, *args: str, stdin: bytes = b"") -> Ran:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agentbus", "run", "--nats-url", server.url, *args),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(BOUND_S):
        out, err = await child.communicate(stdin)
    return Ran(child.returncode or 0, out.decode(), err.decode())


async def test_only_the_answer_of_a_completed_task_is_on_standard_output(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    file = tmp_path / "content.md"
    file.write_text("\ufeffsay:from_a_file", encoding="utf-8")
    async with worker(worker_toml(tmp_path, server.url)):
        done = await run(server, "code", "say:hello")
        assert (done.code, done.out) == (0, "hello\n"), done.err
        assert ID.search(done.err)
        assert (await run(server, "code", f"@{file}")).out == "from a file\n"
        assert (await run(server, "code", stdin=b"say:from_a_pipe")).out == "from a pipe\n"
        assert (await run(server, "code", "-", "--timeout", "1m", stdin=b"say:dash")).out == "dash\n"
        large = await run(server, "code", "bytes:300000")
        assert (large.code, len(large.out)) == (0, 300_000), large.err

        failed = await run(server, "code", "say:before exit:3")
        assert (failed.code, failed.out) == (exit_codes.TASK_FAILED, "")
        assert "failed (exit)" in failed.err
        assert "  > the command exited with status 3: before" in failed.err
        asks = await run(server, "code", "approval")
        assert (asks.code, asks.out) == (exit_codes.NEEDS_APPROVAL, "")
        assert "agentbus task answer " in asks.err

        waiting = asyncio.create_task(run(server, "code", "--task-id", "long", f"wait:{tmp_path / 'never'}"))
        await eventually(lambda: _state_is(coordinator, "long", "working"), "the task runs")
        await coordinator.task("long").cancel("not needed")
        cancelled = await waiting
        assert (cancelled.code, cancelled.out) == (exit_codes.CANCELLED, "")
        assert "  > cancelled by agent-main: not needed" in cancelled.err
    late = await run(server, "nothere", "say:x", "--new-agent", "--timeout", "0.2s")
    assert (late.code, late.out) == (exit_codes.TIMED_OUT, "")
    assert "still pending after 0.2 s: " in late.err
    detached = await run(server, "nothere", "say:x", "--new-agent", "--detach")
    assert (detached.code, bool(ID.fullmatch(detached.out.strip()))) == (0, True)
    assert (await coordinator.task(detached.out.strip()).status()).state == "queued"


async def _state_is(coordinator: Coordinator, task_id: str, state: str) -> bool:
    found = await coordinator.statuses([task_id])
    return getattr(found[0], "state", None) == state


async def test_waiting_for_several_ends_with_the_worst_of_them(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    on_bus = ("--nats-url", server.url)
    async with worker(worker_toml(tmp_path, server.url)), worker(worker_toml(tmp_path, server.url, agent="doc")):
        both = await run_cli("task", "publish", "--to", "code", "--to", "doc", "--wait", "say:hello", *on_bus)
        assert both.code == 0, both.err
        states = {told["agent"]: told["state"] for told in map(json.loads, both.out.splitlines())}
        assert states == {"code": "completed", "doc": "completed"}
        failed = await run_cli("task", "publish", "--to", "code", "--task-id", "bad", "--wait", "exit:3", *on_bus)
        assert (failed.code, json.loads(failed.out)["state"]) == (exit_codes.TASK_FAILED, "failed")
    await coordinator.publish("code", "say:x", task_id="open")
    for ids, options, code in (
        (["bad"], [], 0),
        (["bad"], ["--exit-status"], exit_codes.TASK_FAILED),
        (["open"], ["--timeout", "0"], exit_codes.FAILED),
        (["open"], ["--exit-status", "--timeout", "0.1s"], exit_codes.TIMED_OUT),
        (["open", "bad"], ["--exit-status", "--timeout", "0.1s"], exit_codes.TASK_FAILED),
        (["open", "bad"], ["--exit-status", "--any"], exit_codes.TASK_FAILED),
    ):
        waited = await run_cli("task", "wait", *ids, *options, *on_bus)
        assert waited.code == code, (ids, options, waited)


async def test_on_a_terminal_one_line_shows_what_goes_on_and_the_answer_takes_its_place(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    said, go = "x" * 300, tmp_path / "go"
    async with worker(worker_toml(tmp_path, server.url)):
        argv = ["-m", "agentbus", "run", "code", f"say:{said} wait:{go} say:done", "--nats-url", server.url]
        async with terminal(argv, columns=40) as running:
            await running.until_shown("code · working · xxxx")
            go.touch()
    assert running.child.returncode == 0
    *drawn, answer = [line.removeprefix("\x1b[K") for line in running.shown.split("\r") if line.startswith("\x1b[K")]
    assert drawn
    assert all(len(line) < 40 for line in drawn)
    assert answer.startswith(said)
    assert running.shown.endswith(f"\r\x1b[K{said}\r\ndone\r\n")


@pytest.mark.parametrize("presses", [1, 2])
async def test_ctrl_c_leaves_the_task_and_a_second_one_cancels_it(
    server: NatsServer, coordinator: Coordinator, presses: int
):
    argv = ["-m", "agentbus", "run", "code", "--task-id", "job", "say:x", "--nats-url", server.url]
    async with terminal(argv) as running:
        await running.until_shown("· queued")
        running.child.send_signal(signal.SIGINT)
        await running.until_shown("job goes on; Ctrl-C again within 2 s cancels it")
        await running.until_shown("agentbus task wait job")
        if presses == 2:
            running.child.send_signal(signal.SIGINT)
            await running.until_shown("job: cancelled")
    assert running.child.returncode == exit_codes.INTERRUPTED
    assert (await coordinator.task("job").status()).state == ("queued" if presses == 1 else "cancelled")


async def test_a_publication_on_a_terminal_shows_the_id_and_the_next_command(
    server: NatsServer, coordinator: Coordinator
):
    argv = ["-m", "agentbus", "task", "publish", "--to", "code", "--to", "doc", "--task-id", "job", "a secret text"]
    async with terminal([*argv, "--nats-url", server.url]) as running:
        pass
    assert "job-code\x1b[0m -> code" in running.shown
    assert "next: agentbus task wait job-code job-doc" in running.shown
    assert "secret" not in running.shown


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("run", "code", "@/no/such/file"), 1, "cannot read the file '/no/such/file': No such file or directory"),
        (("run", "code", ""), 1, "the content is empty; nothing was published"),
        (("run", "code", "--detach", "--timeout", "1s", "x"), 2, "--detach and --timeout exclude each other"),
        (("run", "code", "--timeout", "soon", "x"), 2, "'soon' is no duration: use 90 (seconds), 30s, 10m"),
        (("run",), 2, "Missing argument 'AGENT'"),
        (("task", "publish", "--to", "code", "--timeout", "1s", "x"), 2, "--timeout goes with --wait"),
        (("task", "publish", "--lines", "--wait"), 2, "--wait and --lines exclude each other"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_sent(args: tuple[str, ...], code: int, said: str):
    ran = run_here(*args)
    assert said in f"{ran.err}{ran.error or ''}"
    assert ran.code == code


async def test_a_missing_content_and_an_empty_input_are_wrong_usage(server: NatsServer):
    ran = await run(server, "code")
    assert (ran.code, ran.out) == (exit_codes.USAGE, "")
    assert "Missing argument 'CONTENT', and standard input is empty" in ran.err


async def test_an_at_sign_is_written_twice_and_a_file_without_an_end_is_refused(
    server: NatsServer, coordinator: Coordinator
):
    assert (await run(server, "code", "--task-id", "at", "--detach", "@@home alone")).code == 0
    assert (await coordinator.task("at").status()).record.entry.state == "queued"
    endless = await run(server, "code", "@/dev/zero")
    assert endless.code == 1
    assert "is larger than 67108864 bytes" in endless.err

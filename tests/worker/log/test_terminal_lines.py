"""The log of a worker on a terminal: short lines in colours; in a pipe and in the file, every field."""

import re
import signal
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.log.handlers import LOG_FILE
from support.harness import worker_toml
from support.pseudo_terminal import OnTerminal, terminal

pytestmark = pytest.mark.posix("a pseudo-terminal")

LINE = re.compile(r"(\d\d:\d\d:\d\d (warning: |error: )?| {9})\S.*")


def lines_of(shown: OnTerminal) -> list[str]:
    return [line.rstrip("\r") for line in shown.text.split("\n") if line.strip("\r")]


def running_worker(config: Path, **keys: str | int | dict[str, str]):
    return terminal(["-m", "agentbus", "worker", "run", "--config", str(config)], **keys)  # pyright: ignore[reportArgumentType]


async def test_each_event_of_a_task_fits_a_line_of_80_columns_and_says_how_it_ended(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
):
    config = worker_toml(
        tmp_path, server.url, chat_cmd=["sh", "-c", 'test "$1" || exit; sleep 0.1; exit 3', "x", "{input}"]
    )
    async with running_worker(config, columns=80) as shown:
        await shown.until_shown("ready for tasks")
        published = await coordinator.publish("code", "go", task_type="a-review-of-something-very-long")
        await shown.until_shown("settled")
        shown.child.send_signal(signal.SIGINT)
    lines = lines_of(shown)
    assert all(LINE.fullmatch(line) for line in lines), lines
    assert all(len(line) <= 80 for line in lines if "warning" not in line), lines
    assert not any("worker=" in line or "agent=" in line for line in lines), lines
    [started] = [line for line in lines if f"{published.id}: started" in line]
    assert started[9:].startswith(f"{published.id}: started")
    [settled] = [line for line in lines if "settled" in line]
    assert re.search(rf"{published.id}: settled failed in 0\.\d s", settled), settled
    assert "exited with status 3" in lines[lines.index(settled) + 1]
    assert "\x1b[31m failed\x1b[0m" in shown.shown


async def test_the_log_file_and_a_pipe_keep_every_field(coordinator: Coordinator, server: NatsServer, tmp_path: Path):
    config = worker_toml(tmp_path, server.url, chat_cmd=["true", "{input}"], log={"dir": str(tmp_path / "logs")})
    async with running_worker(config, columns=80) as shown:
        await shown.until_shown("ready for tasks")
        published = await coordinator.publish("code", "go")
        await shown.until_shown("settled")
        shown.child.send_signal(signal.SIGINT)
    whole = (tmp_path / "logs" / LOG_FILE).read_text(encoding="utf-8")
    assert re.search(
        rf"Z INFO task {published.id}: settled status=completed attempt=1 .*exit_code=0 .* agent=code worker=\S+\n",
        whole,
    )
    assert "\x1b" not in whole


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
async def test_there_are_no_colours_where_none_are_wanted(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path, env: dict[str, str]
):
    assert coordinator, "the streams are there"
    async with running_worker(worker_toml(tmp_path, server.url), env=env) as shown:
        await shown.until_shown("ready for tasks")
        shown.child.send_signal(signal.SIGINT)
    assert "\x1b" not in shown.shown


async def test_a_log_that_is_to_be_json_is_json_on_a_terminal_as_well(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
):
    assert coordinator, "the streams are there"
    async with running_worker(worker_toml(tmp_path, server.url, log={"format": "json"})) as shown:
        await shown.until_shown('"message": "ready for tasks')
        shown.child.send_signal(signal.SIGINT)


async def test_an_error_is_shown_whole_however_narrow_the_terminal_is(server: NatsServer, tmp_path: Path):
    no_folder = "/dev/null/a-state-folder-with-a-name-of-some-length"
    config = worker_toml(tmp_path, server.url, worker={"state_dir": no_folder})
    async with running_worker(config, columns=40) as shown:
        pass
    assert shown.child.returncode == 1
    [line] = [line for line in lines_of(shown) if "error: " in line]
    assert LINE.fullmatch(line)
    assert no_folder in line

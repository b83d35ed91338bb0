"""How a prompt gets to the agent command of a real worker: as an argument, on standard input, in a file."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.protocol.json_codec import encode
from agentbus.protocol.messages import decode_task
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.running.prompt import build_prompt
from agentbus_worker.running.spawn import MAX_ARGUMENT_BYTES
from support.harness import FAKE_AGENT, eventually, worker, worker_toml
from support.jobs import acknowledged, agent_keys, counts, error, outcome, text

LAST_WORD = {"argv": "{input}", "stdin": "-", "file": "@{input_file}"}


def config_for(folder: Path, server: NatsServer, via: str, *more: str, **keys: Any) -> Path:
    """The fake agent, that gets its prompt in one of the three ways."""
    command = [sys.executable, str(FAKE_AGENT), *more, LAST_WORD[via]]
    return agent_keys(worker_toml(folder, server.url, chat_cmd=command, worker=keys), prompt_via=via)


@pytest.mark.parametrize("via", LAST_WORD)
async def test_the_command_gets_exactly_the_prompt_whatever_the_task_contains(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, via: str
):
    content = "prompt  'quoted' \"twice\" $(rm -rf /) `x` {input} {task_id} {workdir} ü☃𝄞\r\n\tstatus=needs_approval \\"
    async with worker(config_for(tmp_path, server, via)):
        status = await outcome(coordinator, content)
    assert status.result is not None
    prompt = build_prompt(decode_task(encode(status.result.task)), agent="code")
    assert text(status).startswith(prompt)
    assert text(status).count("You are the agent code.") == 1, "a placeholder in the task was filled in"


@pytest.mark.parametrize("via", LAST_WORD)
async def test_a_prompt_too_long_for_an_argument_works_over_stdin_or_a_file(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, via: str
):
    content = "prompt " + "x" * 300_000
    async with worker(config_for(tmp_path, server, via, inline_output_bytes=1_048_576)) as child:
        status = await outcome(coordinator, content)
        await acknowledged(coordinator)
        again = await outcome(coordinator, "say:next")
        assert child.popen.poll() is None
    assert text(again) == "next\n"
    if via == "argv":
        assert status.state == "failed"
        assert f"one argument can have {MAX_ARGUMENT_BYTES} at the most" in error(status)
        assert 'set prompt_via to "stdin" or "file" in [agent]' in error(status)
    else:
        assert status.state == "completed"
        assert content in text(status)
    assert (await counts(coordinator))["AGENT_DEAD"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of one argument is Linux's")
@pytest.mark.parametrize("over", [0, 1])
async def test_an_argument_may_have_the_maximum_length_of_linux_and_not_a_byte_more(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, over: int
):
    """The prompt differs from task to task by nothing but the content: its size is measured with a first one."""
    async with worker(config_for(tmp_path, server, "argv", inline_output_bytes=262_144)):
        first = await outcome(coordinator, "prompt ", task_id="task-1")
        room = MAX_ARGUMENT_BYTES - len(text(first).rstrip("\n").encode()) - 1
        status = await outcome(coordinator, "prompt " + "x" * (room + over), task_id="task-2")
    if over:
        assert f"the prompt is {MAX_ARGUMENT_BYTES + 1} bytes long" in error(status)
    else:
        assert status.state == "completed"


@pytest.mark.parametrize("via", ["argv", "file"])
async def test_standard_input_is_empty_unless_it_carries_the_prompt(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, via: str
):
    async with worker(config_for(tmp_path, server, via)):
        assert text(await outcome(coordinator, "stdin")) == "''\n"


async def test_the_prompt_file_is_deleted_when_the_command_has_ended(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    command = ["sh", "-c", 'echo "$1"; test -s "$1"', "sh", "{input_file}"]
    config = agent_keys(worker_toml(tmp_path, server.url, chat_cmd=command), prompt_via="file")
    async with worker(config):
        status = await outcome(coordinator, "x")
        await acknowledged(coordinator)
        assert status.state == "completed"
        file = Path(text(status).strip())
        assert file.is_relative_to(tmp_path)
        await eventually(lambda: not file.exists(), "it is deleted")


# -- the other placeholders, and the working folder -------------------------------------------------------------


async def test_the_placeholders_of_task_id_and_working_folder_work_in_any_argument(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    command = ["sh", "-c", 'echo "$1 $2 $AGENTBUS_WORKDIR"; pwd', "sh", "--id={task_id}", "{workdir}/out", "{input}"]
    config = worker_toml(tmp_path, server.url, chat_cmd=command, worker={"workdir": tmp_path / "work"})
    async with worker(config):
        status = await outcome(coordinator, "x", task_id="job.1")
    folder = tmp_path / "work" / "job.1"
    assert text(status) == f"--id=job.1 {folder}/out {folder}\n{folder}\n"


@pytest.mark.parametrize("word", ["{task_id}", "{task_id}.txt"])
async def test_a_task_id_that_would_be_an_option_of_the_command_is_not_given_to_it(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, word: str
):
    ran = tmp_path / "ran"
    command = ["sh", "-c", f"touch {ran}", "sh", word, "{input}"]
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=command)):
        status = await outcome(coordinator, "x", task_id="-rf")
        assert status.state == "failed"
        assert "this id begins with '-'" in error(status)
        assert not ran.exists()
        assert (await outcome(coordinator, "x", task_id="r-f")).state == "completed"


async def test_a_task_id_that_begins_with_a_dash_may_stand_inside_a_word(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    command = ["sh", "-c", 'echo "$1 $2"', "sh", "--id={task_id}", "{workdir}", "{input}"]
    config = worker_toml(tmp_path, server.url, chat_cmd=command, worker={"workdir": tmp_path / "work"})
    async with worker(config):
        status = await outcome(coordinator, "x", task_id="-rf")
    assert text(status) == f"--id=-rf {tmp_path}/work/-rf\n"


async def test_without_a_working_folder_a_command_runs_in_the_folder_of_its_worker(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    command = ["sh", "-c", 'echo "$1"; pwd', "sh", "{workdir}", "{input}"]
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=command)):
        assert text(await outcome(coordinator, "x")) == f"{Path.cwd()}\n{Path.cwd()}\n"


@pytest.mark.parametrize("keep", [False, True])
async def test_each_task_has_a_working_folder_that_is_kept_only_if_configured(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, keep: bool
):
    command = ["sh", "-c", "ls; echo left > file; sleep 0.5", "sh", "{input}"]
    more = {"workdir": tmp_path / "work", "keep_workdir": keep, "concurrency": 2}
    config = worker_toml(tmp_path, server.url, chat_cmd=command, worker=more)
    async with worker(config):
        tasks = [await coordinator.publish("code", "x", task_type="t", task_id=f"job-{number}") for number in (1, 2)]
        waited = await coordinator.wait([task.id for task in tasks], timeout_s=30)
        assert [text(status) for status in waited.settled.values()] == ["", ""], "one found the files of the other"
        await acknowledged(coordinator)
    left = sorted(str(path.relative_to(tmp_path / "work")) for path in (tmp_path / "work").glob("*/*"))
    assert left == (["job-1/file", "job-2/file"] if keep else [])


async def test_a_later_attempt_finds_the_files_of_an_earlier_one_in_the_working_folder(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    command = ["sh", "-c", "test -e half && echo going on || { touch half; exit 3; }", "sh", "{input}"]
    more = {
        "workdir": tmp_path / "work",
        "keep_workdir": True,
        "retry_on": ["exit:3"],
        "retry_backoff_seconds": 0.1,
    }
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=command, worker=more)):
        status = await outcome(coordinator, "x")
    assert (text(status), status.record.entry.attempt) == ("going on\n", 2)


async def test_a_relative_command_is_found_from_the_folder_of_the_worker_not_from_that_of_the_task(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    program = tmp_path / "bin" / "agent"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\npwd\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    keys = {"workdir": "work"}
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=["./bin/agent", "{input}"], worker=keys)):
        assert text(await outcome(coordinator, "x", task_id="job-1")) == f"{tmp_path}/work/job-1\n"
    path = {"PATH": f"bin:{os.environ['PATH']}"}
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=["agent", "{input}"], worker=keys), env=path):
        assert text(await outcome(coordinator, "x", task_id="job-2")) == f"{tmp_path}/work/job-2\n"


async def test_a_working_folder_that_cannot_be_made_is_a_failed_result_that_names_it(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    folders = tmp_path / "folders"
    folders.write_text("a file", encoding="utf-8")
    config = agent_keys(worker_toml(tmp_path, server.url, worker={"workdir": folders}), setback_limit_seconds=0)
    async with worker(config) as child:
        status = await outcome(coordinator, "say:x", task_id="job")
        assert child.popen.poll() is None
    assert error(status) == f"the working folder {folders / 'job'} cannot be made: Not a directory"

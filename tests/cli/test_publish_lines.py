"""`task publish --lines`: each line has its outcome, in order, and the same lines again make no second task."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.cli.coordinator.task_line import Line, LineSplitter, read_task
from agentbus.errors import MessageError
from agentbus.protocol import subjects
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from support.agreement import agreed, ledger, queue
from support.harness import BOUND_S, Ran, run_cli

DEFAULTS = {"to": "code", "task_type": "test"}


@asynccontextmanager
async def publishing(server: NatsServer, *options: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """The command as a process, whose input stays open."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agentbus", "task", "publish", "--lines", "--to", "code", "--task-type", "test"),
        *("--nats-url", server.url, *options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
            await child.communicate()


async def publish_lines(server: NatsServer, lines: bytes, *options: str) -> tuple[Ran, list[dict[str, Any]]]:
    """Run the command with its whole input; return the lines that it printed as well."""
    async with publishing(server, *options) as child, asyncio.timeout(BOUND_S):
        out, err = await child.communicate(lines)
    return Ran(child.returncode or 0, out.decode(), err.decode()), [json.loads(line) for line in out.splitlines()]


def lines_of(count: int, **more: Any) -> bytes:
    return b"".join(json.dumps({"content": f"task {number}", **more}).encode() + b"\n" for number in range(count))


async def test_each_line_is_a_task_and_has_its_outcome_in_order(server: NatsServer, coordinator: Coordinator) -> None:
    lines = [
        b'\xef\xbb\xbf{"content": "one", "task_id": "job-1"}\r\n',
        b"\n",
        b' {"content": {"a": [1, null]}, "payload_fmt": "json", "to": "agent-doc", "task_type": "other"} \n',
        '{"content": "dr\u00e9i\\u2028", "reply_to": "other", "from": "tool", "task_id": null}\n'.encode(),
        b'{"content": "last, without an end"}',
    ]
    ran, told = await publish_lines(server, b"".join(lines))
    assert ran.code == 0, ran.err
    assert [one["line"] for one in told] == [1, 3, 4, 5]
    assert [one["agent"] for one in told] == ["code", "doc", "code", "code"]
    assert told[0] == {"line": 1, "id": "job-1", "agent": "code", "state": "queued", "known": False}
    assert told[1]["id"].startswith("lines-")
    messages = {task_id: record.entry for task_id, record in (await ledger(coordinator)).items()}
    assert messages.keys() == {one["id"] for one in told}
    assert messages[told[1]["id"]].task_type == "other"
    third = messages[told[2]["id"]]
    assert (third.sender, third.inbox) == ("agent-tool", "other")
    assert "no worker of the agent code is alive now" in ran.err
    await agreed(coordinator)


async def test_a_fault_of_one_line_stops_no_other_one(server: NatsServer, coordinator: Coordinator) -> None:
    await coordinator.publish("code", "something else", task_type="test", task_id="taken")
    lines = {
        b'{"content": "good", "task_id": "job-1"}': None,
        b"{": "not JSON",
        b'{"content": "x", "colour": "red"}': "unknown field 'colour'; there are content, to,",
        b'{"content": "x", "task_id": "taken"}': "the id taken belongs to another task of code",
        b'{"content": "x", "to": "no agent"}': "agent id 'no agent' is not valid",
        b'{"content": "good", "task_id": "job-2"}': None,
    }
    ran, told = await publish_lines(server, b"\n".join(lines))
    assert (ran.code, "4 of 6 not published" in ran.err) == (1, True), ran.err
    assert [one["line"] for one in told] == [1, 2, 3, 4, 5, 6]
    for one, fault in zip(told, lines.values(), strict=True):
        assert ("error" in one) == (fault is not None), one
        assert fault is None or fault in one["error"]
    assert told[3]["id"] == "taken"
    assert (await ledger(coordinator)).keys() == {"taken", "job-1", "job-2"}


async def test_the_same_lines_again_make_no_second_task_unless_the_batch_has_another_name(
    server: NatsServer, coordinator: Coordinator
) -> None:
    lines = lines_of(20) + lines_of(2)  # the same content twice is two tasks
    first, told = await publish_lines(server, lines)
    assert (first.code, len({one["id"] for one in told})) == (0, 22)
    again, told_again = await publish_lines(server, lines + lines_of(1, to="doc"))
    assert [one["id"] for one in told_again[:22]] == [one["id"] for one in told]
    assert [one["known"] for one in told_again] == [True] * 22 + [False]
    assert "22 of 23 were published before" in again.err
    _, other = await publish_lines(server, lines, "--batch", "tuesday")
    assert all(one["id"].startswith("tuesday-") and not one["known"] for one in other)
    assert len(await queue(coordinator)) == 22 + 1 + 22


@pytest.mark.posix("signals")
@pytest.mark.gate("SIGKILL", "SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_command_that_is_ended_in_the_middle_and_repeated_publishes_each_line_once(
    server: NatsServer, coordinator: Coordinator, number: signal.Signals
) -> None:
    lines = lines_of(400)
    async with publishing(server) as child, asyncio.timeout(BOUND_S):
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(lines)
        out = b"".join([await child.stdout.readline() for _ in range(30)])
        child.send_signal(number)
        out += await child.stdout.read()
        code = await child.wait()
    told = [json.loads(line) for line in out.splitlines() if line.endswith(b"}")]
    stored = await ledger(coordinator)
    assert {one["id"] for one in told} <= stored.keys()
    if number is not signal.SIGKILL:
        assert code == (130 if number is signal.SIGINT else -number)
        assert {one["id"] for one in told} == stored.keys(), "what was begun is finished and told"
        assert [one["line"] for one in told] == list(range(1, len(told) + 1))
        await agreed(coordinator)
    assert len(stored) < 400
    again, told_again = await publish_lines(server, lines)
    assert (again.code, len(told_again)) == (0, 400), again.err
    assert sorted((await queue(coordinator)).values()) == [1] * 400
    await agreed(coordinator)


async def test_a_line_is_published_before_the_next_one_is_there(server: NatsServer, coordinator: Coordinator) -> None:
    async with publishing(server) as child, asyncio.timeout(BOUND_S):
        assert child.stdin is not None
        assert child.stdout is not None
        for number in range(1, 3):
            child.stdin.write(b'{"content": "x", "task_id": "job-%d"}\n' % number)
            told = json.loads(await child.stdout.readline())
            assert told["id"] == f"job-{number}"
            assert (await Ledger(coordinator.bus).read(TaskKey("code", told["id"]))).revision
        child.stdin.write(b"no task\n")
        assert "not JSON" in json.loads(await child.stdout.readline())["error"]
        child.stdin.close()
        assert await child.wait() == 1


async def test_an_output_that_is_not_read_any_more_leaves_no_half_of_a_publication(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with publishing(server) as child, asyncio.timeout(BOUND_S):
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b'{"content": "first"}\n')
        await child.stdout.readline()
        cast("Any", child.stdout)._transport.close()  # asyncio has no other way
        child.stdin.write(lines_of(300))
        child.stdin.close()
        await child.wait()
    assert len(await ledger(coordinator)) < 301
    await agreed(coordinator)


async def test_a_bus_that_goes_away_fails_the_lines_and_the_same_lines_again_are_published(
    coordinator: Coordinator, server: NatsServer
) -> None:
    await coordinator.bus.api(f"STREAM.DELETE.{subjects.TASKS_STREAM}")
    ran, told = await publish_lines(server, lines_of(3))
    assert ran.code == 1
    assert [one["line"] for one in told] == [1, 2, 3]
    assert all("agentbus setup" in one["error"] for one in told)
    assert len({one["id"] for one in told}) == 3, "by which the lines are found again"
    assert await ledger(coordinator) == {}


async def test_wrong_usage_is_told_before_anything_is_dialled() -> None:
    whole = ("--to", "code", "--task-type", "test")
    faults = {
        (): "Missing option '--to'.",
        whole: "Missing argument 'CONTENT', and standard input is empty.",
        ("--lines", "text"): "CONTENT and --lines exclude each other.",
        ("--lines", "--task-id", "job"): "--task-id and --lines exclude each other",
        ("--lines", "--to", "code", "--to", "doc"): "With --lines, name one agent",
        (*whole, "--batch", "b", "text"): "--batch goes with --lines.",
    }
    runs = await asyncio.gather(*(run_cli("task", "publish", *args) for args in faults))
    for ran, fault in zip(runs, faults.values(), strict=True):
        assert (ran.code, fault in ran.err) == (2, True), ran.err


async def test_input_in_utf_16_is_refused_as_a_whole(server: NatsServer, coordinator: Coordinator) -> None:
    ran, told = await publish_lines(server, lines_of(2).decode().encode("utf-16"))
    assert (ran.code, told, "standard input is UTF-16" in ran.err) == (1, [], True)
    assert await ledger(coordinator) == {}


# -- reading lines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_are_the_same_however_the_input_arrives(size: int) -> None:
    text = b"one\n\ntwelve bytes\n" + b"x" * 13 + b"\n" + b"y" * 40 + b"\nlast"
    splitter = LineSplitter(max_bytes=12)
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    found = [line for piece in (*pieces, b"") for line in splitter.feed(piece)]
    expected = [b"one", b"", b"twelve bytes", None, None, b"last"]
    assert found == [Line(number, data) for number, data in enumerate(expected, start=1)]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (None, "the line is longer than 16777216 bytes"),
        (b'["content"]', "the line is no JSON object"),
        (b'{"content": "a", "content": "b"}', "has the key 'content' twice"),
        (b'{"content": {"k": 1, "k": 2}, "payload_fmt": "json"}', "has the key 'k' twice"),
        (b'{"content": 1.00000000000000000001, "payload_fmt": "json"}', "JSON that would change"),
        (b'{"content": "\\ud800"}', "not JSON"),
        (b'{"content": "\xff"}', "not JSON"),
        (b'{"content": NaN, "payload_fmt": "json"}', "not JSON"),
        (b'{"content": " \\n"}', "the content is empty"),
        (b'{"task_id": "job"}', "content is missing"),
        (b'{"content": "x", "task_id": 7}', "task_id is not a string"),
        (b'{"content": "x", "payload_fmt": "yaml"}', "payload_fmt is neither text nor json"),
    ],
)
def test_what_is_no_task_says_why(data: bytes | None, fault: str) -> None:
    with pytest.raises(MessageError, match=fault):
        read_task(Line(1, data), DEFAULTS)


def test_a_field_without_a_default_is_asked_for() -> None:
    with pytest.raises(MessageError, match="to is missing: name it in the line, or with --to"):
        read_task(Line(1, b'{"content": "x"}'), {"task_type": "test"})


def test_a_line_without_a_type_has_that_of_other_tasks() -> None:
    assert read_task(Line(1, b'{"content": "x"}'), {"to": "code"}).task_type == "task"


async def test_a_line_for_an_agent_that_the_bus_has_never_seen_is_refused_alone(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    lines = lines_of(2, to="cod") + lines_of(1)
    ran, told = await publish_lines(server, lines)
    assert (ran.code, ["error" in one for one in told]) == (1, [True, True, False])
    assert "did you mean code?" in told[0]["error"]
    ran, told = await publish_lines(server, lines, "--new-agent")
    assert (ran.code, [one["agent"] for one in told]) == (0, ["cod", "cod", "code"])


async def test_lines_name_files_below_one_folder_that_the_command_allows_and_no_others(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await set_up(coordinator.bus, ["code"])
    shared = tmp_path / "shared"
    (shared / "logs").mkdir(parents=True)
    (shared / "logs" / "a").write_bytes(b"a")
    (tmp_path / "secret").write_bytes(b"s3cret")
    (shared / "link").symlink_to(tmp_path / "secret")
    (shared / "out").symlink_to(tmp_path)
    refused = ["../secret", str(tmp_path / "secret"), "link", "out/secret", ".git/config", "none"]
    lines = [
        {"content": "x", "files": ["logs", "logs/a"], "base": "main"},
        *({"content": "x", "files": [name]} for name in refused),
        {"content": "x", "files": "logs"},
        {"content": "x", "base": "--upload-pack=x"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    ran, [first, *others] = await publish_lines(server, text, "--attach", str(shared), "--branch", "fix")
    assert ran.code == 1
    assert [one["line"] for one in others if "error" in one] == list(range(2, len(lines) + 1))
    stored = await coordinator.bus.message_without_headers(subjects.TASKS_STREAM, 1)
    assert stored is not None
    task: Any = json.loads(stored.data)
    assert first["state"] == "queued"
    assert [one["name"] for one in task["files"]] == ["logs/a", "a"]
    assert task["work"] == {"base": "main", "branch": "fix"}
    _, [told] = await publish_lines(server, b'{"content": "x", "files": ["logs"]}')
    assert "name the folder below which lines may name files, with --attach" in told["error"]
    wrong, _ = await publish_lines(server, b"", "--send-commits")
    assert (wrong.code, "--lines sends no commits" in wrong.err) == (2, True)

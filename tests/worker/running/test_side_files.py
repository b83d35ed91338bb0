"""The file beside the output of an agent: when it is asked for, what is read of it, and what it means."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from agentbus_worker.disk.threads import AT_ONCE
from agentbus_worker.formats.judgement import Ended
from agentbus_worker.formats.readers import READERS
from agentbus_worker.formats.stream import EventStream
from agentbus_worker.running.side_files import end_of, read_side_file, side_file_of_run

COMMAND = ("gemini", "-o", "stream-json")
DONE = Ended("exited", 0, "the command exited with status 0")


async def asked(output: str, folder: Path, environment: dict[str, str]) -> tuple[Path | None, dict[str, str]]:
    environment = {"HOME": str(folder), "GEMINI_CLI_SYSTEM_SETTINGS_PATH": str(folder / "none"), **environment}
    stop = asyncio.get_running_loop().create_future()
    path, variables = await side_file_of_run(
        output, folder, COMMAND, environment, folder, threads=AT_ONCE, stop=stop
    )  # fmt: skip
    return path, dict(variables)


async def test_gemini_is_asked_for_telemetry_where_there_is_none_and_no_other_agent_is(tmp_path: Path) -> None:
    path, variables = await asked("gemini", tmp_path, {})
    assert path is not None
    assert path.parent == tmp_path
    assert variables == {
        "GEMINI_TELEMETRY_ENABLED": "true",
        "GEMINI_TELEMETRY_TARGET": "local",
        "GEMINI_TELEMETRY_LOG_PROMPTS": "false",
        "GEMINI_TELEMETRY_OUTFILE": str(path),
    }
    assert await asked("gemini", tmp_path, {"OTEL_SERVICE_NAME": "mine"}) == (None, {})
    for output in ("text", *READERS):
        assert output == "gemini" or await asked(output, tmp_path, {}) == (None, {})


def record(reasons: Any, **attributes: Any) -> bytes:
    found = {"session.id": "s", "role": "main", "event.name": "gemini_cli.api_response", "finish_reasons": reasons}
    value = {"resource": {"a": 1}, "attributes": {**found, **attributes}, "_body": "API response\n}\n{"}
    return json.dumps(value, indent=2).encode() + b"\n"


NAME = b'\n    "event.name": "gemini_cli.api_response",\n'
CUT, WHOLE = record(["length"]), record(["stop"])


def judged(end: bytes, *, answer: str = "The beginning", session: str = "s") -> tuple[str, str | None, str]:
    reader = READERS["gemini"]()
    for value in (
        {"type": "init", "session_id": session},
        {"type": "message", "role": "assistant", "content": answer},
        {"type": "result", "status": "success"},
    ):
        reader.feed(json.dumps(value).encode())
    reader.feed_side_file(end)
    judgement = reader.outcome(DONE)
    return judgement.status, judgement.failure.code if judgement.failure else None, judgement.text


def test_the_last_response_to_the_agent_itself_decides() -> None:
    cut, whole = ("failed", "truncated", "The beginning"), ("completed", None, "The beginning")
    assert judged(WHOLE + CUT) == cut
    assert judged(CUT + WHOLE) == whole
    assert judged(record([None, "", "length"]) + b'{\n  "scopeMetrics": []\n}\n') == cut, "the answer came in parts"
    assert judged(b'  "half a record": [\n  ]\n}\n' + CUT + b'{\n  "attributes"') == cut
    for other in (
        record(["length"], role="utility_router"),
        record(["length"], role="subagent"),
        record(["length"], **{"session.id": "that of a run in the run"}),
        record(["length"], **{"event.name": "gen_ai.client.inference.operation.details"}),
    ):
        assert judged(other) == whole
        assert judged(CUT + other) == cut


def test_an_answer_of_which_nothing_came_before_the_limit_is_cut_and_not_empty() -> None:
    assert judged(CUT, answer="")[1] == "truncated"
    assert judged(WHOLE, answer="")[1] == "empty"


@pytest.mark.parametrize(
    "end",
    [
        b"", b"\x00\xff",
        b"{\n" * 100_000, b"}\n" * 1_000, NAME, NAME * 50_000, b"\n{\n" + NAME + b"\n}\n", b"{" * 200_000,
        b"\n{\n" + NAME + b'"attributes":' + b"[" * 50_000 + b"]" * 50_000 + b"\n}\n", (b"\n{\n" + NAME) * 10_000,
        b"\n{" + NAME + b'"attributes": "text"\n}\n', CUT + record(["length"], role="utility_router") * 20,
        record("length"), record(None), record({"length": 1}),
        record([["length"]]), record(["length"], **{"session.id": ["s"]}), CUT[:-3],
    ],
)  # fmt: skip
def test_anything_else_in_the_file_says_nothing(end: bytes) -> None:
    assert judged(end)[0] == "completed"


async def test_what_lies_in_place_of_the_file_is_neither_followed_nor_waited_for(tmp_path: Path) -> None:
    events = EventStream("gemini")
    for value in ({"type": "init", "session_id": "s"}, {"type": "message", "role": "assistant", "content": "x"}):
        events.feed(json.dumps(value).encode() + b"\n")
    stop = asyncio.get_running_loop().create_future()
    real, file = tmp_path / "real", tmp_path / "file"
    real.write_bytes(CUT)

    async def code() -> str | None:
        await read_side_file(file, events, AT_ONCE, stop)
        failure = events.reader.outcome(DONE).failure
        return failure.code if failure else None

    assert await code() is None, "there is none"
    file.symlink_to(real)
    assert await code() is None
    file.unlink()
    os.mkfifo(file)
    assert await code() is None
    file.unlink()
    file.mkdir()
    assert await code() is None
    file.rmdir()
    real.rename(file)
    assert await code() == "truncated"


def test_of_a_huge_file_the_end_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb") as out:
        out.truncate(1 << 40)  # which takes no place on the disk
        out.seek(0, os.SEEK_END)
        out.write(b"}\n" + CUT)
    end = end_of(file)
    assert len(end) == 4_194_304
    assert judged(end)[1] == "truncated"

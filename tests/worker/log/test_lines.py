"""The lines of the worker's log, as text and as JSON: what they say, and that task fields cannot forge a line."""

import json
import logging
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.config.worker_schema import LogSection
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.log.handlers import LOG_FILE, log_to
from agentbus_worker.log.lines import LogFormat, TaskLog, fields
from support.harness import eventually, worker, worker_toml
from support.jobs import acknowledged, agent_keys, publish, settled, short_lease

TEXT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (DEBUG|INFO|WARNING|ERROR) (.*)")
FORMATS: list[LogFormat] = ["text", "json"]
both = pytest.mark.parametrize("form", FORMATS)

FORGED = "2026-01-01T00:00:00.000Z INFO task task-1: settled status=completed"
HOSTILE = [
    f"x\n{FORGED}",
    f"x\r\n{FORGED}",
    f"x\r{FORGED}",
    f"x\u2028{FORGED}",
    f"x\x85{FORGED}",
    f'x"}}\n{{"level": "INFO", "message": "{FORGED}"}}',
    "x\x1b[2K\x1b[1A",
    "x\u202eabc\u200b",
    "x\x00\x07\x7f",
]


@pytest.fixture
def section(tmp_path: Path) -> LogSection:
    return LogSection(dir=tmp_path / "logs")


def of(section: LogSection, form: LogFormat) -> LogSection:
    return section.model_copy(update={"format": form})


def lines_in(folder: Path) -> list[str]:
    """Split into lines as a lenient reader does."""
    return (folder / LOG_FILE).read_bytes().decode().splitlines()


def one_line(section: LogSection) -> str:
    [line] = lines_in(section.dir)
    return line


# -- what a line tells ------------------------------------------------------------------------------------------


def test_a_line_of_text_ends_with_the_fields(section: LogSection):
    with log_to(section, worker="host-1-abc"):
        log = TaskLog("task-1", attempt=2, task_type="code review")
        log.add(duration_s=0.005, cause='it said "no"', folder="a=b", empty="")
        log.info("settled", status="failed", reason=None)
    found = TEXT.fullmatch(one_line(section))
    assert found is not None
    assert found[2] == "INFO"
    assert found[3] == (
        'task task-1: settled status=failed attempt=2 task_type="code review" duration_s=0.005 '
        'cause="it said \\"no\\"" folder="a=b" empty="" worker=host-1-abc'
    )
    words = shlex.split(found[3])
    assert "task_type=code review" in words
    assert 'cause=it said "no"' in words


def test_a_line_of_json_is_an_object_with_the_fields(section: LogSection):
    before = datetime.now(UTC)
    with log_to(of(section, "json"), worker="host-1-abc") as general:
        TaskLog("task-1", attempt=2, task_type="Prüfung").info("it took %d s", 3, status="failed", reason=None)
        general.warning("bus %s", "größer", extra=fields(reason="why"))
    first, second = (json.loads(line) for line in lines_in(section.dir))
    at = datetime.fromisoformat(first.pop("time"))
    assert at.utcoffset() is not None
    assert abs((at - before).total_seconds()) < 60
    assert first == {
        "level": "INFO",
        "logger": "agentbus.worker",
        "message": "it took 3 s",
        "status": "failed",
        "task_id": "task-1",
        "attempt": 2,
        "task_type": "Prüfung",
        "worker": "host-1-abc",
    }
    assert list(second) == ["time", "level", "logger", "message", "reason", "worker"]
    assert second["message"] == "bus größer"


@both
def test_the_time_is_truncated_to_milliseconds(section: LogSection, form: LogFormat):
    with log_to(of(section, form)) as log:
        for created in (1_763_980_267.0049, 1_763_980_267.9999, 1_763_980_268.0):
            record = logging.makeLogRecord({"name": log.name, "levelno": 20, "levelname": "INFO", "msg": "x"})
            record.created, record.msecs = created, created % 1 * 1000
            log.handle(record)
    found = [re.search(r"2025-11-24T10:31:\d\d\.\d{3}Z", line) for line in lines_in(section.dir)]
    assert [match and match[0][-7:] for match in found] == ["07.004Z", "07.999Z", "08.000Z"]


@both
def test_stderr_has_the_same_lines_as_the_file(
    section: LogSection, form: LogFormat, capsys: pytest.CaptureFixture[str]
):
    with log_to(of(section, form)) as log:
        log.info("one")
        log.info("two")
    assert capsys.readouterr().err.splitlines() == lines_in(section.dir)


@both
def test_an_exception_is_in_the_line_of_its_record(section: LogSection, form: LogFormat):
    with log_to(of(section, form)) as log:
        try:
            raise RuntimeError("inside")
        except RuntimeError:
            log.exception("it failed")
    line = one_line(section)
    assert "Traceback" in line
    assert "inside" in line


@both
def test_a_record_that_cannot_be_formatted_does_not_affect_other_records(section: LogSection, form: LogFormat):
    with log_to(of(section, form)) as log:
        log.info("%d tasks", "many")
        TaskLog("task-1").info("%d tasks", "many")
        log.info("fine")
    first, second, third = lines_in(section.dir)
    assert all("%d tasks (this line could not be made: TypeError)" in line for line in (first, second))
    assert "fine" in third


@both
async def test_a_line_is_in_the_file_at_once(section: LogSection, form: LogFormat):
    with log_to(of(section, form)) as log:
        log.info("there")
        await eventually(lambda: any("there" in line for line in lines_in(section.dir)), "the line is written")


# -- what cannot be made of them --------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_logged_text_can_begin_another_line_or_control_a_terminal(
    section: LogSection, form: LogFormat, text: str, capsys: pytest.CaptureFixture[str]
):
    with log_to(of(section, form), worker="host-1-abc") as log:
        log.info("%s", text)
        log.info("fact", extra=fields(reason=text))
        TaskLog("task-1", task_type=text).info("started")
    lines = lines_in(section.dir)
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert capsys.readouterr().err == "".join(f"{line}\n" for line in lines)
    if form == "text":
        assert all(TEXT.fullmatch(line) for line in lines)
        assert not any(line.startswith("2026-01-01") for line in lines)
    else:
        said = [json.loads(line) for line in lines]
        assert (said[0]["message"], said[1]["reason"], said[2]["task_type"]) == (text, text, text)


@both
def test_a_lone_surrogate_is_escaped(section: LogSection, form: LogFormat):
    with log_to(of(section, form)) as log:
        log.info("x \udc80 ü", extra=fields(reason="\ud800"))
    line = one_line(section)
    assert "\\udc80" in line
    assert "\\ud800" in line
    if form == "json":
        assert json.loads(line)["message"] == "x \\udc80 ü"  # no lone surrogate, which strict readers refuse


@both
def test_a_long_message_or_field_is_cut(section: LogSection, form: LogFormat):
    with log_to(of(section, form)) as log:
        log.info("m" * 1_000_000, extra=fields(reason="r" * 1_000_000))
    assert 8_000 < len(one_line(section)) < 9_000


# -- those of a worker ------------------------------------------------------------------------------------------


def of_task(lines: list[dict[str, Any]], task_id: str) -> list[dict[str, Any]]:
    return [line for line in lines if line.get("task_id") == task_id]


def json_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_in(folder / "logs-code")]


async def test_a_task_has_a_line_when_it_starts_and_one_when_it_is_settled(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url, log={"format": "json"})
    async with worker(config):
        status = await settled(coordinator, await publish(coordinator, "sleep:0.1 say:confidential_answer"))
        failed = await settled(coordinator, await publish(coordinator, "bytes:200000 stderr:confidential exit:3"))
        await acknowledged(coordinator)
    lines = json_log(tmp_path)
    [first, second] = of_task(lines, status.task_id)
    assert status.result is not None
    known = {"attempt": 1, "task_type": "test", "from": "agent-main"}
    known |= {
        "agent": "code",
        "worker": (status.result.model_extra or {})["worker"],
        "logger": "agentbus.worker",
        "level": "INFO",
    }
    assert first == {**known, "time": first["time"], "message": "started", "task_id": status.task_id}
    duration_s = (status.result.model_extra or {})["duration_seconds"]
    assert second == {
        **known,
        "time": second["time"],
        "message": "settled",
        "task_id": status.task_id,
        "status": "completed",
        "exit_code": 0,
        "output_bytes": len("confidential answer\n"),
        "duration_s": duration_s,
    }
    last = of_task(lines, failed.task_id)[-1]
    assert (last["status"], last["exit_code"], last["output_bytes"]) == ("failed", 3, 200_000)
    assert last["reason"] == "the command exited with status 3"
    assert len({line["worker"] for line in lines}) == 1
    assert "confidential" not in (tmp_path / "logs-code" / LOG_FILE).read_text(encoding="utf-8")


async def test_a_task_with_a_very_short_command_has_one_line(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url, chat_cmd=["true", "{input}"], log={"format": "json"})
    async with worker(config):
        for _ in range(20):  # on a busy machine, some take longer
            await settled(coordinator, await publish(coordinator, "x"))
        await acknowledged(coordinator)
    lines = json_log(tmp_path)
    by_task = {line["task_id"]: of_task(lines, line["task_id"]) for line in lines if "task_id" in line}
    assert len(by_task) == 20
    assert all(found[-1]["message"] == "settled" and found[-1]["exit_code"] == 0 for found in by_task.values())
    assert any(len(found) == 1 for found in by_task.values())


async def test_the_lines_count_attempts_and_redeliveries(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    await short_lease(coordinator)
    keys = {"retry_on": ["exit:3"], "retry_backoff_seconds": 0.1, "max_attempts": 2}
    async with worker(worker_toml(tmp_path, server.url, worker=keys, log={"format": "json"})):
        status = await settled(coordinator, await publish(coordinator, "sleep:0.1 exit:3"))
        await acknowledged(coordinator)
    lines = of_task(json_log(tmp_path), status.task_id)
    assert [line["message"].partition(" in ")[0] for line in lines] == ["started", "trying again", "started", "settled"]
    assert [(line["attempt"], line.get("redeliveries")) for line in lines] == [(1, None), (1, None), (2, 1), (2, 1)]
    assert lines[1]["reason"] == "the command exited with status 3"


async def test_a_command_that_cannot_be_started_is_logged_with_the_reason(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    script = tmp_path / "agent"
    script.write_text("#!/no/such/interpreter\n", encoding="utf-8")
    script.chmod(0o755)
    config = worker_toml(tmp_path, server.url, chat_cmd=[str(script), "{input}"], log={"format": "json"})
    async with worker(agent_keys(config, setback_limit_seconds=0)):
        status = await settled(coordinator, await publish(coordinator, "confidential"))
        await acknowledged(coordinator)
    [handed_back, line] = of_task(json_log(tmp_path), status.task_id)
    assert (line["message"], line["status"]) == ("settled", "failed")
    assert handed_back["message"] == "handed back unrun"
    assert handed_back["reason"] == line["reason"] == f"cannot start {str(script)!r}: its interpreter does not exist"
    assert "exit_code" not in line


@both
async def test_no_publisher_can_forge_a_line(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, form: LogFormat
):
    """A task says in every field that its publisher can choose freely what would be a line of its own."""
    forged = [*HOSTILE, FORGED]
    async with worker(worker_toml(tmp_path, server.url, log={"format": form})) as child:
        for number, text in enumerate(forged):
            task: dict[str, Any] = {"id": f"forged-{number}", "from": text, "to": "code", "type": "task.request"}
            task |= {"task_type": text, "payload": {"fmt": "text", "content": "say:ok"}}
            await coordinator.bus.store(subjects.tasks("code"), encode(task), msg_id=f"forged-{number}")
            broken = {**task, "id": text, "to": text}
            await coordinator.bus.store(subjects.tasks("code"), encode(broken), msg_id=f"broken-{number}")
        await acknowledged(coordinator)
    lines = lines_in(tmp_path / "logs-code")
    assert all(line.isprintable() for line in lines)
    assert child.log.read_bytes().decode().splitlines() == lines
    if form == "json":
        said = [json.loads(line) for line in lines]
        assert [line["from"] for line in said if line["message"] == "settled"] == forged
    else:
        assert all(TEXT.fullmatch(line) for line in lines)
        assert not any(line.startswith("2026-01-01") for line in lines)
        messages = [line.partition(" INFO ")[2] for line in lines]
        assert sum(bool(re.match(r"task forged-\d: settled status=", message)) for message in messages) == len(forged)

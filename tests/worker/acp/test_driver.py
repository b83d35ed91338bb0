"""The driver of agents that speak the Agent Client Protocol: good agents, bad ones, and how a run ends."""

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from agentbus.protocol.outcomes.run_report import Denied
from agentbus_worker.formats.events import Activity, Notice, Start, Text, Tool, ToolEnd
from agentbus_worker.formats.judgement import Judgement
from support.acp_driver import driven, driver
from support.harness import BOUND_S, eventually


def got(log: Path) -> list[dict[str, Any]]:
    """What the agent has got."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def failed(judgement: Judgement) -> tuple[str, str]:
    assert judgement.failure is not None, judgement
    return judgement.failure.code, judgement.failure.message


async def test_a_run_tells_its_answer_its_tools_what_it_used_and_what_the_agent_is(tmp_path: Path) -> None:
    judgement, run = await driven(
        "think", "say=I begin.", "tool", "cost", "usage", "say=It is ", "say=done.", folder=tmp_path
    )
    report = judgement.run
    assert (judgement.status, judgement.text) == ("completed", "It is done.")
    assert (report.format, report.kind, report.version, report.session, report.model) == (
        "acp", "fake-agent", "9.9.9", "s1", "model-1"
    )  # fmt: skip
    assert (report.usage.input_tokens, report.usage.cached_input_tokens, report.usage.output_tokens) == (100, 30, 57)
    assert report.cost_usd == 0.25
    assert run.stream.productive


async def test_events_have_the_form_of_those_of_any_agent(tmp_path: Path) -> None:
    async with driver("say=I begin.", "tool", "say=Done.", folder=tmp_path) as run:
        events: list[Any] = []
        run.stream.listen(events.append)
        await run.end()
    told = [event for event in events if isinstance(event, Start | Text | Tool | ToolEnd)]
    assert told == [
        Start("s1", "model-1", str(tmp_path)), Text("I begin."), Tool("execute", "touch made"),
        ToolEnd("execute", ok=True, summary="made it"), Text("Done."),
    ]  # fmt: skip
    assert any(isinstance(event, Activity) for event in events)


async def test_the_agent_gets_the_prompt_the_folder_the_mode_and_the_mcp_servers(tmp_path: Path) -> None:
    log, prompt = tmp_path / "log", "Say \u00e9\u2028 and {input}.\n" * 9_000
    server = {"name": "docs", "command": "/bin/docs", "args": ["-v"], "env": [{"name": "KEY", "value": "x"}]}
    remote: dict[str, Any] = {"type": "http", "name": "web", "url": "https://example.org/mcp", "headers": []}
    judgement, _ = await driven(
        "prompt", "--log", str(log), folder=tmp_path, prompt=prompt, mode="default", mcp_servers=(server, remote)
    )
    assert judgement.text == prompt
    messages = {message["method"]: message["params"] for message in got(log)}
    assert list(messages) == ["initialize", "session/new", "session/set_mode", "session/prompt"]
    assert messages["session/new"] == {"cwd": str(tmp_path), "mcpServers": [server, remote]}
    assert messages["session/set_mode"] == {"sessionId": "s1", "modeId": "default"}


CANNOT_BEGIN: list[tuple[tuple[str, ...], dict[str, Any], str]] = [
    ((), {"mode": "yolo"}, "no mode 'yolo'; it has auto, default"),
    ((), {"mcp_servers": ({"type": "sse", "name": "web", "url": "x", "headers": []},)}, "no MCP server over sse"),
    (("other_version",), {}, "speaks version 7 of the Agent Client Protocol"),
    (("silent",), {"start_s": 0.5}, "did not answer initialize within 0.5 s"),
    (("dies_at_once",), {}, "exit code 3 before it had answered initialize: cannot find my brain"),
]


@pytest.mark.parametrize(("does", "given", "says"), CANNOT_BEGIN)
async def test_an_agent_that_cannot_begin_has_not_started(
    tmp_path: Path, does: tuple[str, ...], given: dict[str, Any], says: str
) -> None:
    judgement, run = await driven(*does, folder=tmp_path, **given)
    code, message = failed(judgement)
    assert (code, says in message) == ("not_started", True), message
    assert not run.stream.productive


async def test_a_program_that_is_not_there_has_not_started(tmp_path: Path) -> None:
    judgement, _ = await driven(folder=tmp_path, command=["no-such-agent", "acp"])
    code, message = failed(judgement)
    assert code == "not_started"
    assert "cannot start 'no-such-agent': No such file" in message


async def test_an_agent_without_a_login_fails_as_such(tmp_path: Path) -> None:
    judgement, _ = await driven("no_login", folder=tmp_path)
    assert failed(judgement) == ("auth", "Authentication required")


# -- sessions ----------------------------------------------------------------------------------------------------------


async def test_an_earlier_session_goes_on_and_what_was_said_there_is_not_said_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    judgement, run = await driven("cost", "say=Now.", "--log", str(log), folder=tmp_path, session="s1")
    assert (judgement.text, judgement.run.session) == ("Now.", "s1")
    assert judgement.run.cost_usd is None, "it counts over the session"
    assert [one["method"] for one in got(log)] == ["initialize", "session/load", "session/prompt"]
    assert run.of_kind("session")[0]["resumed"] is True
    log.unlink()
    await driven("resumes", "say=Now.", "--log", str(log), folder=tmp_path, session="s1")
    assert [one["method"] for one in got(log)] == ["initialize", "session/resume", "session/prompt"]


@pytest.mark.parametrize(("does", "session"), [((), "another"), (("no_load",), "s1")])
async def test_a_session_that_cannot_go_on_is_gone(tmp_path: Path, does: tuple[str, ...], session: str) -> None:
    judgement, _ = await driven(*does, "say=Now.", folder=tmp_path, session=session)
    assert failed(judgement)[0] == "session_gone"


# -- permissions -------------------------------------------------------------------------------------------------------


async def test_the_configuration_answers_for_this_one_use_and_never_for_ever(tmp_path: Path) -> None:
    log = tmp_path / "log"
    judgement, run = await driven("ask", "say=Made it.", "--log", str(log), folder=tmp_path, permissions="allow")
    assert (judgement.status, judgement.run.denied) == ("completed", ())
    assert (tmp_path / "made").exists()
    assert [one["result"] for one in got(log) if "result" in one] == [
        {"outcome": {"outcome": "selected", "optionId": "once"}}
    ]
    (tmp_path / "made").unlink()
    judgement, run = await driven("ask", "say=I could not.", folder=tmp_path)
    assert (judgement.status, judgement.text) == ("completed", "I could not.")
    assert judgement.run.denied == (Denied("execute", "touch made"),)
    assert not (tmp_path / "made").exists()
    assert run.of_kind("permission")[0]["option"] == "no"


async def test_a_run_that_stops_at_a_denial_was_denied(tmp_path: Path) -> None:
    judgement, _ = await driven("say=Let me see.", "ask", folder=tmp_path)
    assert failed(judgement)[0] == "denied"
    judgement, _ = await driven("ask", "stop=cancelled", folder=tmp_path)
    assert failed(judgement)[0] == "denied"


@pytest.mark.parametrize("asks", ["ask_without_options", "ask_always_only"])
async def test_an_agent_that_offers_nothing_for_this_one_use_is_denied(tmp_path: Path, asks: str) -> None:
    judgement, run = await driven(asks, "say=Well.", folder=tmp_path, permissions="allow")
    [told] = run.of_kind("permission")
    assert (told["allowed"], told.get("option"), told["why"]) == (
        False, None, "the agent does not offer to allow this one use"
    )  # fmt: skip
    assert judgement.run.denied == (Denied("execute", "touch made"),)


async def test_two_requests_with_one_id_are_both_answered(tmp_path: Path) -> None:
    judgement, _ = await driven("ask_twice", folder=tmp_path, permissions="allow")
    assert judgement.text == "chosen: once, once"


# -- how it stops ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "becomes"),
    [("max_tokens", "truncated"), ("max_turn_requests", "turn_limit"), ("refusal", "refused"), ("cancelled", "exit")],
)
async def test_the_reason_of_a_stop_is_the_code_of_the_failure(tmp_path: Path, stop: str, becomes: str) -> None:
    judgement, _ = await driven("say=So far.", f"stop={stop}", folder=tmp_path)
    assert (failed(judgement)[0], judgement.text) == (becomes, "So far.")


async def test_a_reason_to_stop_that_is_not_known_is_an_end(tmp_path: Path) -> None:
    judgement, _ = await driven("say=Done.", "stop=something_new", folder=tmp_path)
    assert (judgement.status, judgement.text) == ("completed", "Done.")


async def test_no_answer_is_empty(tmp_path: Path) -> None:
    judgement, _ = await driven("think", folder=tmp_path)
    assert failed(judgement)[0] == "empty"


@pytest.mark.parametrize("session", [None, "s1"])
async def test_an_agent_that_dies_has_failed_with_what_it_said_last(tmp_path: Path, session: str | None) -> None:
    judgement, run = await driven("say=So far.", "die_while_asking", folder=tmp_path, session=session)
    code, message = failed(judgement)
    assert (code, message, judgement.text) == (
        "exit", "the agent ended with exit code 4 before it had answered the prompt", "So far."
    )  # fmt: skip
    assert run.process.returncode == 0


# -- agents that misbehave ---------------------------------------------------------------------------------------------


async def test_what_is_no_message_is_passed_over_and_noted(tmp_path: Path) -> None:
    async with driver("garbage", "unknown_notifications", "say=Done.", folder=tmp_path) as run:
        events: list[Any] = []
        run.stream.listen(events.append)
        judgement = await run.end()
    assert (judgement.status, judgement.text, judgement.run.format) == ("completed", "Done.", "acp")
    notes = [event.text for event in events if isinstance(event, Notice)]
    assert any("printed what is no message: Loading..." in note for note in notes)
    assert any("a line that is too long" in note for note in notes)
    assert max(len(json.dumps(line)) for line in run.lines) < 2_000


async def test_what_is_not_offered_is_refused(tmp_path: Path) -> None:
    judgement, run = await driven("files_and_terminal", folder=tmp_path)
    assert judgement.text == "refused with -32601 and -32601"
    assert [line["text"] for line in run.of_kind("notice")] == [
        "the agent asked for fs/read_text_file, which is not offered",
        "the agent asked for terminal/create, which is not offered",
    ]


async def test_an_answer_that_is_longer_than_a_pipe_holds_comes_whole(tmp_path: Path) -> None:
    judgement, _ = await driven("long_line", folder=tmp_path)
    assert judgement.text == "y" * 300_000


@pytest.mark.parametrize("megabytes", [pytest.param(3, id="3"), pytest.param(100, id="100", marks=pytest.mark.long)])
async def test_an_agent_that_streams_without_end_is_read_in_bounded_memory(tmp_path: Path, megabytes: int) -> None:
    async with driver(f"stream={1000 * megabytes}", folder=tmp_path) as run:
        assert run.process.stdout is not None
        size, last, used = 0, b"", 0
        async with asyncio.timeout(5 * BOUND_S):
            while chunk := await run.process.stdout.read(65_536):
                size += len(chunk)
                run.stream.feed(chunk)
                last = chunk
                used = max(used, peak_kib(run.process.pid))
        await run.process.wait()
    assert size > 1_000_000 * megabytes
    assert b'"acp":"end"' in last
    assert len(run.stream.report().to_json()) > 0
    assert used < 120_000, f"{used} KiB"
    assert used > 0 or sys.platform != "linux"


def peak_kib(pid: int) -> int:
    """The most memory that a process has had; 0 where the system does not tell, or once it has ended."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    except OSError:
        return 0
    return int(found[1]) if found else 0


@pytest.mark.parametrize("way", ["stays", "ignores_sigterm"])
async def test_an_agent_that_does_not_end_with_its_input_is_ended_and_holds_nothing_up_for_long(
    tmp_path: Path, way: str
) -> None:
    async with driver("stays", way, "say=Done.", folder=tmp_path) as run:
        judgement = await run.end()
        assert judgement.status == "completed"
        if way == "stays":
            await eventually(lambda: not _group_lives(run.process.pid), "nothing of it is left")
        else:
            assert _group_lives(run.process.pid), "a worker kills what is left"


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# -- runs that are to end ----------------------------------------------------------------------------------------------


async def test_sigterm_cancels_the_turn_first(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with driver("say=Hello.", "hang", "late", "--log", str(log), folder=tmp_path) as run:
        await run.until("update")
        run.process.send_signal(signal.SIGTERM)
        assert (await run.until("end"))["stop"] == "cancelled"
        await run.end()
    assert got(log)[-1]["method"] == "session/cancel"
    assert run.process.returncode == 128 + signal.SIGTERM
    assert run.stream.report().session == "s1"


async def test_an_answer_after_the_cancel_is_taken_for_what_it_is(tmp_path: Path) -> None:
    async with driver("say=Hello.", "hang", "late", "ends_after_cancel", folder=tmp_path) as run:
        await run.until("update")
        run.process.send_signal(signal.SIGTERM)
        await run.end()
    assert run.of_kind("end")[0]["stop"] == "end_turn"


async def test_a_second_sigterm_does_not_wait_for_an_agent_that_does_not_cancel(tmp_path: Path) -> None:
    async with driver("say=Hello.", "hang_hard", folder=tmp_path) as run:
        await run.until("update")
        run.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(BOUND_S):
            while run.process.returncode is None:
                await asyncio.sleep(0.1)
                if run.process.returncode is None:
                    run.process.send_signal(signal.SIGTERM)
        assert not run.of_kind("end")
        assert not _group_lives(run.process.pid)


async def test_sigterm_before_the_prompt_ends_it_at_once(tmp_path: Path) -> None:
    async with driver("garbage", "silent", folder=tmp_path) as run:
        await run.until("notice")
        run.process.send_signal(signal.SIGTERM)
        await run.end()
    assert run.process.returncode == 128 + signal.SIGTERM


async def test_a_driver_whose_lines_are_not_read_any_more_ends_with_its_agent(tmp_path: Path) -> None:
    """As those of a worker that was killed are not."""
    reading, writing = os.pipe()
    async with driver("stream=50000", "hang", folder=tmp_path, stdout=writing) as run:
        os.close(writing)
        assert await asyncio.to_thread(os.read, reading, 100)
        os.close(reading)
        async with asyncio.timeout(BOUND_S):
            await run.process.wait()
        await eventually(lambda: not _group_lives(run.process.pid), "nothing of it is left")

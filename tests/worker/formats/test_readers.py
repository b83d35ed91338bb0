"""The readers of formats: events, numbers of one run, and lines that no agent should print."""

import json
import random
from typing import Any

import pytest

from agentbus.protocol.outcomes.run_report import FALLBACK, Usage
from agentbus_worker.formats.events import Event, Notice, Question, Retry, Start, Text, Tool, ToolEnd
from agentbus_worker.formats.judgement import Ended, Judgement
from agentbus_worker.formats.readers import READERS
from agentbus_worker.formats.reading import Totals
from agentbus_worker.formats.stream import EventStream
from support.recorded_agents import recording

NOTHING = Totals()
DONE = Ended("exited", 0, "the command exited with status 0")


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def read(agent: str, *lines: bytes, ended: Ended = DONE, before: Totals | None = NOTHING) -> Judgement:
    reader = READERS[agent](before)
    for one in lines:
        reader.feed(one)
    return reader.outcome(ended)


def is_work(event: Event) -> bool:
    return isinstance(event, Text | Tool | ToolEnd)


def printed(agent: str, case: str = "ok") -> list[bytes]:
    return [one.encode() for one in recording(agent, case).stdout]


# -- events ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", READERS)
def test_the_events_of_a_run_have_one_form_whatever_agent_printed_them(agent: str) -> None:
    reader = READERS[agent]()
    events = [event for one in printed(agent, "tool") for event in reader.feed(one)]
    productive = [event for event in events if is_work(event)]
    tool = next(event for event in productive if isinstance(event, Tool))
    end = next(event for event in productive if isinstance(event, ToolEnd))
    assert isinstance(events[0], Start)
    assert "echo hello from the tool" in tool.summary
    assert (end.name, end.ok, end.summary) == (tool.name, True, "hello from the tool")
    answer = productive[productive.index(end) + 1 :]
    assert "".join(event.text for event in answer if isinstance(event, Text)) == "I ran it. The answer is 42."


def test_a_retry_tells_how_often_why_and_for_how_long() -> None:
    reader = READERS["claude"]()
    retries = [event for one in printed("claude", "auth") for event in reader.feed(one) if isinstance(event, Retry)]
    assert [(one.attempt, one.of, one.code, one.http_status) for one in retries] == [
        (1, 2, "auth", 401), (2, 2, "auth", 401)
    ]  # fmt: skip
    assert all(one.delay_s and one.retry_after_s is None for one in retries)
    reader = READERS["codex"]()
    retries = [event for one in printed("codex", "auth") for event in reader.feed(one) if isinstance(event, Retry)]
    assert [(one.attempt, one.of, one.code) for one in retries] == [(number, 5, "auth") for number in range(1, 6)]


@pytest.mark.parametrize(("agent", "case"), [("claude", "auth"), ("claude", "refusal"), ("qwen", "auth")])
def test_an_error_that_an_agent_prints_as_its_message_is_no_work(agent: str, case: str) -> None:
    reader = READERS[agent]()
    events = [event for one in printed(agent, case) for event in reader.feed(one)]
    assert [event for event in events if is_work(event) and event != Text("")] == []
    assert any(isinstance(event, Notice) for event in events)


def test_a_deferred_tool_of_claude_asks_with_the_exact_call() -> None:
    deferred = {"id": "toolu_1", "name": "Bash", "input": {"command": "git push origin main"}}
    judgement = read(
        "claude",
        line(type="result", subtype="success", is_error=False, result="", terminal_reason="tool_deferred",
             deferred_tool_use=deferred),
    )  # fmt: skip
    asked = judgement.question
    assert asked is not None
    assert (judgement.status, asked.tool, asked.summary) == ("needs_approval", "Bash", "git push origin main")
    assert (asked.arguments, asked.call) == (deferred["input"], "toolu_1")
    assert judgement.text == "The agent asks whether it may use Bash: git push origin main"
    again = line(type="result", subtype="success", result="", stop_reason="tool_deferred", deferred_tool_use=deferred)
    assert read("claude", again).status == "needs_approval", "a resumed run that defers again"
    gone_on = line(type="result", subtype="success", is_error=False, result="Well.", terminal_reason="completed")
    assert read("claude", again, gone_on).status == "completed", "it has given the call up"
    events = READERS["claude"]().feed(line(type="result", terminal_reason="tool_deferred", deferred_tool_use=deferred))
    assert Question("Bash", "git push origin main") in events


# -- numbers ---------------------------------------------------------------------------------------------------------


def test_the_cost_of_claude_is_that_of_the_run_and_not_of_its_session() -> None:
    run = read("claude", *printed("claude", "resumed")).run
    assert (run.cost_usd, run.usage.output_tokens) == (0.006, 57)
    old = line(type="result", subtype="success", is_error=False, result="x", total_cost_usd=0.018)
    assert read("claude", old, before=Totals(cost_usd=0.012)).run.cost_usd == 0.006
    assert read("claude", old, before=None).run.cost_usd is None, "a resumed session of which nothing is known"


def test_the_usage_of_codex_is_that_of_the_run_and_not_of_its_session() -> None:
    lines = printed("codex", "resumed")
    before = Totals(input_tokens=1200, cached_input_tokens=300, output_tokens=57)
    usage = read("codex", *lines, before=before).run.usage
    assert (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens) == (1200, 300, 57)
    assert read("codex", *lines, before=None).run.usage.input_tokens is None


@pytest.mark.parametrize("agent", READERS)
def test_the_numbers_of_a_resumed_run_are_those_of_a_first_run(agent: str) -> None:
    first = READERS[agent]()
    for one in printed(agent):
        first.feed(one)
    resumed = read(agent, *printed(agent, "resumed"), before=first.totals).run
    assert (resumed.usage, resumed.cost_usd) == (first.report().usage, first.report().cost_usd)
    assert resumed.usage.output_tokens


@pytest.mark.parametrize(
    ("agent", "command", "counted"),
    [
        ("claude", "claude -p --output-format stream-json", True),
        ("claude", "claude -p --continue", False),
        ("claude", "claude -p --resume=abc", False),
        ("claude", "/usr/bin/claude -p -c", False),
        ("claude", "sh -c claude", True),
        ("claude", "sh -c claude -p --resume abc", False),
        ("codex", "codex -c model=x exec --json -", True),
        ("codex", "codex exec --json resume --last -", False),
        ("qwen", "qwen --continue --output-format stream-json", False),
        ("opencode", "opencode run --continue --format json", True),
        ("gemini", "gemini --resume latest --output-format stream-json", True),
    ],
)
def test_a_command_that_goes_on_with_a_session_gives_no_numbers_that_count_earlier_runs(
    agent: str, command: str, counted: bool
) -> None:
    stream = EventStream(agent, command=command.split())
    stream.feed(b"\n".join(one for one in printed(agent, "resumed") if b"since_last_result" not in one))
    if agent == "claude":
        stream.feed(b"\n" + line(type="result", subtype="success", result="x", total_cost_usd=0.012))
        assert (stream.report().cost_usd is not None) is counted
    else:
        assert (stream.report().usage.output_tokens is not None) is counted


def test_the_last_line_is_counted_once_however_often_a_run_is_reported() -> None:
    stream = EventStream("opencode")
    stream.feed(b"\n".join(printed("opencode")).rstrip())
    assert [stream.report().usage.output_tokens for _ in range(2)] == [57, 57]
    assert stream.outcome(DONE).run.usage.output_tokens == 57


def test_a_session_that_counts_less_than_before_began_anew() -> None:
    assert read("codex", *printed("codex"), before=Totals(input_tokens=9_999)).run.usage.input_tokens == 1200


@pytest.mark.parametrize("value", [True, -1, 1e308, 2**63, "7", None, [], {}, 1.5])
def test_a_number_that_is_none_is_not_known_or_zero(value: Any) -> None:
    run = read("claude", line(type="result", result="x", num_turns=value, usage={"output_tokens": value})).run
    assert (run.turns, run.usage.output_tokens) == (None, 0)


# -- what was said last ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["codex", "gemini", "opencode"])
def test_what_is_said_before_a_tool_is_used_is_no_answer(agent: str) -> None:
    lines = printed(agent, "tool")
    said = [one for one in lines if b"The answer is 42" not in one]
    if agent == "opencode":
        assert b"Let me do that." in b"".join(said)
    judgement = read(agent, *said)
    assert judgement.failure is not None
    assert (judgement.failure.code, judgement.text) == ("empty", "")


@pytest.mark.parametrize(
    ("subtype", "reason", "code"),
    [
        ("error_max_turns", "max_turns", "turn_limit"),
        ("error_max_budget_usd", "budget_exhausted", "budget"),
        ("error_during_execution", "", "exit"),
        ("success", "prompt_too_long", "context"),
    ],
)
def test_an_error_of_claude_is_told_by_its_flag_and_its_reason(subtype: str, reason: str, code: str) -> None:
    ended = Ended("exited", 1, "the command exited with status 1")
    said = line(type="result", subtype=subtype, is_error=True, terminal_reason=reason, errors=["It went wrong."])
    failure = read("claude", said, ended=ended).failure
    assert failure is not None
    assert (failure.code, failure.message) == (code, "It went wrong.")


def test_the_answer_of_a_helper_that_claude_started_is_not_the_answer_of_the_run() -> None:
    helper = line(
        type="assistant", parent_tool_use_id="toolu_1", message={"content": [{"type": "text", "text": "sub"}]}
    )
    reader = READERS["claude"]()
    assert reader.feed(helper) == [Text("sub")]
    assert reader.outcome(Ended("timeout", -15, "timed out")).text == ""


def test_the_exit_code_of_gemini_is_an_http_status() -> None:
    begun = line(type="init", session_id="s", model="m")
    for exit_code, code in [(145, "auth"), (147, "forbidden"), (173, "rate_limit"), (244, "overloaded"), (41, "auth"),
                            (53, "turn_limit"), (1, "exit"), (-9, "signal")]:  # fmt: skip
        failure = read("gemini", begun, ended=Ended("exited", exit_code, "the command failed")).failure
        assert failure is not None
        assert failure.code == code


# -- what is not understood --------------------------------------------------------------------------------------------


ODD = [
    b"", b"\n", b"not JSON", b"{", b"}", b"{}", b"[]", b"null", b"7", b'"text"', b"\x00\xff\xfe{}", b"{" * 100_000,
    b'{"type":' + b"[" * 5_000 + b"]" * 5_000 + b"}", b'{"type":NaN}', b'{"type":"\\ud83d"}', b'{"a":1,"a":2}',
    b'{"type":"result","result":"\\ud83d half"}', line(type=7), line(type=None), line(type=["assistant"]),
    line(type="assistant", message=None), line(type="assistant", message={"content": "text"}),
    line(type="assistant", message={"content": [None, 7, {"type": "tool_use", "input": [], "name": 7}]}),
    line(type="user", message={"content": [{"type": "tool_result", "content": 7}]}),
    line(type="system", subtype="api_retry", attempt="x", error_status="y", retry_delay_ms=[]),
    line(type="result", permission_denials=7, usage=[], modelUsage="", errors={}, result=[]),
    line(type="result", model_usage_since_last_result={"m": 7, "n": {"costUSD": "x"}}, deferred_tool_use=7),
    line(type="item.completed", item=7), line(type="item.completed", item={"type": ["x"]}),
    line(type="turn.completed", usage=7), line(type="turn.failed", error="x"), line(type="error", message=7),
    line(type="error", sessionID="s", error=[]), line(type="error", sessionID="s", error={"data": 7}),
    line(type="step_finish", sessionID="s", part={"tokens": 7, "cost": "x"}), line(type="text", sessionID=7),
    line(type="tool_use", sessionID="s", part={"state": 7}), line(type="tool_result", tool_id=[], error=7),
    line(type="message", role="assistant", content=7, delta="x"), line(type="init", session_id=[], model={}),
]  # fmt: skip


@pytest.mark.parametrize("agent", READERS)
def test_no_line_is_an_error_and_the_run_goes_on_being_read(agent: str) -> None:
    reader = READERS[agent]()
    rest = printed(agent)
    for one in [*rest[:1], *ODD[:17], *rest[1:]]:
        reader.feed(one)
    judgement = reader.outcome(DONE)
    assert (judgement.status, judgement.text, judgement.run.format) == ("completed", "The answer is 42.", agent)
    for one in ODD:
        reader.feed(one)
    for ended in (DONE, Ended("exited", 1, "failed"), Ended("timeout", -15, "timed out"), Ended("stopped", -15, "x")):
        assert reader.outcome(ended).run.to_json()


@pytest.mark.parametrize("agent", READERS)
def test_recorded_lines_that_are_cut_mixed_and_altered_are_never_an_error(agent: str) -> None:
    chance = random.Random(agent)
    lines = [one for case in ("tool", "auth", "denied", "max_tokens") for of in READERS for one in printed(of, case)]
    for _ in range(40):
        reader = READERS[agent]()
        for one in chance.choices(lines, k=12):
            data = bytearray(one)
            for _ in range(chance.randrange(4)):
                at = chance.randrange(len(data))
                data[at : at + chance.randrange(20)] = bytes(chance.randrange(256) for _ in range(chance.randrange(9)))
            reader.feed(bytes(data))
        assert reader.outcome(Ended("exited", chance.choice([0, 1, -9]), "the command ended")).run.to_json()


@pytest.mark.parametrize("agent", READERS)
def test_a_run_of_which_nothing_is_understood_is_read_as_text(agent: str) -> None:
    ended = Ended("exited", 0, "", stdout="The answer is 42.\n")
    judgement = read(agent, b"The answer is 42.", ended=ended)
    assert (judgement.status, judgement.text) == ("completed", "The answer is 42.\n")
    assert judgement.run.format == FALLBACK == "text (fallback)"
    failed = read(agent, b"oops", ended=Ended("exited", 3, "the command exited with status 3", "oops\n"))
    assert failed.failure is not None
    assert (failed.failure.code, failed.failure.message) == ("exit", "the command exited with status 3: oops")


@pytest.mark.parametrize("agent", READERS)
def test_a_format_that_changes_in_the_middle_is_read_as_text(agent: str) -> None:
    lines = [*printed(agent)[:2], b'{"kind":"new","answer":"42"}']
    text = b"\n".join(lines).decode()
    judgement = read(agent, *lines, ended=Ended("exited", 0, "", stdout=text))
    assert (judgement.status, judgement.text, judgement.run.format) == ("completed", text, FALLBACK)


@pytest.mark.parametrize("agent", READERS)
def test_an_agent_that_prints_nothing_and_exits_with_zero_has_failed(agent: str) -> None:
    failure = read(agent).failure
    assert failure is not None
    assert failure.code == "empty"


@pytest.mark.parametrize("agent", READERS)
def test_a_reader_keeps_a_bounded_part_of_what_it_reads(agent: str) -> None:
    reader = READERS[agent]()
    long = "x" * 1_500_000
    for one in (
        line(type="assistant", message={"content": [{"type": "text", "text": long}]}),
        line(type="item.completed", item={"type": "agent_message", "text": long}),
        line(type="text", sessionID="s", part={"text": long}),
        line(type="message", role="assistant", content=long, delta=True),
        line(type="error", sessionID="s", message=long, error={"data": {"message": long}}),
        line(type="turn.failed", error={"message": long}),
        line(type="result", is_error=True, result=long),
        line(
            type="result",
            permission_denials=[{"tool_name": long[:9_999], "tool_input": {"command": long[:9_999]}}] * 30,
        ),
    ):
        reader.feed(one)
    judgement = reader.outcome(DONE)
    assert len(judgement.text) <= 1_048_576
    assert judgement.failure is None or len(judgement.failure.message) <= 4_000
    assert len(json.dumps(judgement.run.to_json())) < 20_000


def test_qwen_has_cut_an_answer_where_it_went_on_three_times_and_not_where_a_connection_was_cut() -> None:
    made_anew = {"type": "system", "subtype": "retry", "data": {"reason": "retry", "preserveText": False}}
    went_on = {"type": "system", "subtype": "retry", "data": {"reason": "retry", "preserveText": True}}
    refused = {"type": "system", "subtype": "retry", "data": {"reason": "retry", "attempt": 1, "delayMs": 1000}}
    tool = {"type": "assistant", "message": {"id": "m", "content": [{"type": "tool_use", "id": "c", "name": "x"}]}}
    end = {"type": "result", "subtype": "success", "is_error": False, "result": "The answer"}
    for lines, code in (
        ([made_anew, went_on, went_on, went_on], "truncated"),
        ([made_anew, went_on, went_on], None),
        ([went_on, went_on, went_on], None),
        ([made_anew, went_on, went_on, went_on, tool], None),
        ([made_anew, refused, went_on, went_on, went_on], None),
    ):
        reader = READERS["qwen"]()
        for line in [*lines, end]:
            reader.feed(json.dumps(line).encode())
        judged = reader.outcome(Ended("exited", 0, ""))
        assert (judged.failure.code if judged.failure else None) == code
        assert judged.text == "The answer"


def test_a_session_of_which_the_numbers_are_known_is_gone_on_with_whatever_the_command_looks_like() -> None:
    stream = EventStream("codex", command=["./my-codex", "s1"], before=Totals(0, 1200, 300, 57))
    usage = {"input_tokens": 2400, "cached_input_tokens": 600, "output_tokens": 114}
    stream.feed(line(type="turn.completed", usage=usage) + b"\n")
    assert stream.report().usage == Usage(1200, 300, 57)

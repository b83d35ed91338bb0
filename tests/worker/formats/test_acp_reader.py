"""Agents that speak the Agent Client Protocol, as the driver recorded them: each names things in its own way."""

import json
from typing import Any, Final

import pytest

from agentbus.protocol.outcomes.run_report import Denied, Usage
from agentbus_worker.acp.reader import AcpReader
from agentbus_worker.formats.events import Event, Notice, Retry, Text, Tool, ToolEnd
from agentbus_worker.formats.judgement import Ended, GivenUp, Judgement
from support.harness import ROOT

RECORDED: Final = ROOT / "tests" / "recorded" / "acp"
DONE: Final = Ended("exited", 0, "the command exited with status 0")
ASKED_FOR: Final = "touch ../made_by_the_tool"


def lines_of(name: str) -> list[bytes]:
    return (RECORDED / f"{name}.jsonl").read_bytes().splitlines()


def read(*lines: bytes | dict[str, Any], ended: Ended = DONE) -> tuple[Judgement, list[Event]]:
    reader = AcpReader()
    events = [event for line in lines for event in reader.feed(_line(line))]
    return reader.outcome(ended), events


def _line(line: bytes | dict[str, Any]) -> bytes:
    return line if isinstance(line, bytes) else json.dumps(line).encode()


def failed(judgement: Judgement) -> tuple[str, str]:
    assert judgement.failure is not None, judgement
    return judgement.failure.code, judgement.failure.message


@pytest.mark.parametrize("agent", ["claude", "codex", "gemini", "qwen"])
def test_a_refused_key_is_known_in_whatever_form_the_agent_tells_it(agent: str) -> None:
    judgement, events = read(*lines_of(f"{agent}_auth"))
    code, message = failed(judgement)
    assert code == "auth", message
    assert any(words in message.lower() for words in ("api key", "authentication"))
    assert not message.startswith(("Internal error", "{"))
    assert [event for event in events if isinstance(event, Text | Tool | ToolEnd)] == [], "it did nothing of the task"
    assert judgement.text.startswith("Warning: ") if agent == "codex" else judgement.text == ""


@pytest.mark.parametrize(
    ("agent", "said", "becomes"),
    [
        ("hermes-agent", "HTTP 401: Incorrect API key provided.", "auth"),
        ("hermes-agent", "⚠️ API call failed after 3 retries: HTTP 429 rate limit", "rate_limit"),
        ("hermes-agent", "HTTP 404 is what the server should answer here; I changed the handler.", None),
        ("hermes-agent", "The server answered HTTP 401, so I put the key right.", None),
        ("another", "HTTP 401: Incorrect API key provided.", None),
    ],
)
def test_an_error_that_hermes_says_as_its_answer_has_failed(agent: str, said: str, becomes: str | None) -> None:
    judgement, events = read(
        {"acp": "agent", "name": agent},
        {
            "acp": "update",
            "update": {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": said}},
        },
        {"acp": "end", "stop": "end_turn"},
    )
    if becomes is None:
        assert (judgement.status, judgement.text) == ("completed", said)
    else:
        assert failed(judgement) == (becomes, said)
        assert [event for event in events if isinstance(event, Text)] == []


@pytest.mark.parametrize(
    ("name", "becomes"),
    [("opencode_rate_limit", "rate_limit"), ("claude_refusal", "refused"), ("claude_max_tokens", "truncated"),
     ("gemini_refusal", "empty")],
)  # fmt: skip
def test_a_run_that_failed_is_judged_by_what_happened(name: str, becomes: str) -> None:
    judgement, _ = read(*lines_of(name))
    assert failed(judgement)[0] == becomes


@pytest.mark.parametrize(
    ("name", "denied"),
    [("gemini_denied", Denied("execute", ASKED_FOR)), ("claude_denied", Denied("Bash", ASKED_FOR)),
     ("gemini_allowed", None)],
)  # fmt: skip
def test_a_run_that_went_on_after_a_denial_is_completed_and_says_so(name: str, denied: Denied | None) -> None:
    judgement, events = read(*lines_of(name))
    assert (judgement.status, judgement.text) == ("completed", "I ran it. The answer is 42.")
    assert judgement.run.denied == ((denied,) if denied else ())
    assert (Tool("execute", ASKED_FOR) in events) == (name == "gemini_allowed")


@pytest.mark.parametrize(
    ("name", "kind", "model", "usage"),
    [
        ("codex_ok", "@agentclientprotocol/codex-acp", "model-of-the-test[medium]", Usage(1200, 300, 57)),
        ("gemini_allowed", "gemini-cli", "gemini-3.8-flash", Usage(2400, 0, 114)),
        ("claude_denied", "@agentclientprotocol/claude-agent-acp", "default", Usage(3000, 600, 114)),
        ("qwen_tool", "qwen-code", "$runtime|openai|model-of-the-test(openai)", Usage(2400, 0, 114)),
    ],
)
def test_what_a_run_used_is_read_as_each_agent_tells_it(name: str, kind: str, model: str, usage: Usage) -> None:
    judgement, _ = read(*lines_of(name))
    assert judgement.text.endswith("The answer is 42."), "and not the warning that Codex says first"
    assert (judgement.run.kind, judgement.run.model, judgement.run.usage) == (kind, model, usage)
    assert judgement.run.session


def test_a_tool_is_told_once_it_is_known_what_it_does() -> None:
    _, events = read(*lines_of("qwen_tool"))
    assert [event for event in events if isinstance(event, Tool)] == [
        Tool("run_shell_command", "echo hello from the tool")
    ]
    [end] = [event for event in events if isinstance(event, ToolEnd)]
    assert (end.name, end.ok) == ("run_shell_command", True)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ({"code": 401, "message": "x"}, "auth", "x"),
        ({"code": -32603, "message": "Internal error", "data": {"codex_error_info": "other"}}, "exit",
         "Internal error"),
        ({"code": -32603, "message": "Internal error", "data": "429 Too Many Requests"}, "rate_limit",
         "429 Too Many Requests"),
        ({"code": -32603, "message": "m", "data": {"statusCode": 529, "details": "d"}}, "overloaded", "m: d"),
        ({"code": -32602, "message": "Invalid params"}, "exit", "Invalid params"),
        ({"code": True, "message": "", "data": [1]}, "exit", "the agent gave no reason"),
    ],
)  # fmt: skip
def test_an_error_of_the_protocol_has_a_code_where_it_tells_one(error: dict[str, Any], code: str, message: str) -> None:
    judgement, events = read({"acp": "agent"}, {"acp": "error", "during": "prompt", **error})
    assert failed(judgement) == (code, message)
    assert any(isinstance(event, Notice) for event in events)


def test_a_run_that_is_ended_says_what_gemini_and_opencode_wait_for() -> None:
    for line in (b"Attempt 4 failed with status 429. Retrying with backoff... ApiError: exhausted",
                 b'level=ERROR message="stream error" small=false x error.error="429 Too Many Requests"'):  # fmt: skip
        reader = AcpReader()
        [event] = reader.feed_error(line)
        assert isinstance(event, Retry)
        assert event.code == "rate_limit"


def test_an_agent_that_was_killed_by_a_signal_is_told_so() -> None:
    judgement, _ = read({"acp": "agent"}, {"acp": "exit", "during": "prompt", "code": -9})
    assert failed(judgement) == ("signal", "the agent ended with exit code -9 before it had answered the prompt")
    judgement, _ = read({"acp": "exit", "during": "session", "code": None})
    assert failed(judgement) == ("not_started", "the agent closed its output before it had answered session")


@pytest.mark.parametrize("stop", ["cancelled", "end_turn"])
def test_a_run_that_was_given_up_has_not_succeeded_whatever_its_agent_says_of_the_cancelled_turn(stop: str) -> None:
    content = {"type": "text", "text": "So far."}
    given_up = GivenUp("stalled", "made no progress for 600 s", "stalled")
    judgement, _ = read(
        {"acp": "update", "update": {"sessionUpdate": "agent_message_chunk", "content": content}},
        {"acp": "end", "stop": stop, "cancelled": True},
        ended=Ended("stalled", 143, "made no progress for 600 s and was ended", given_up=given_up),
    )
    assert (failed(judgement), judgement.text) == (
        ("stalled", "made no progress for 600 s and was ended"), "So far."
    )  # fmt: skip


def test_values_of_other_types_are_never_an_error() -> None:
    odd: list[Any] = [None, 7, "x", [], [1], {}, {"a": [{}]}, True, 1e300]
    names = ("agent", "session", "update", "permission", "question", "notice", "end", "error", "exit", "new")
    fields = ("update", "stop", "usage", "meta", "code", "data", "message", "call", "arguments", "name", "during")
    for kind in names:
        for value in odd:
            judgement, _ = read({"acp": kind, **dict.fromkeys(fields, value)})
            assert judgement.run.to_json()
    updates = ("agent_message_chunk", "tool_call", "tool_call_update", "usage_update", "plan", "x")
    parts = ("content", "toolCallId", "rawInput", "rawOutput", "status", "cost", "_meta", "title", "kind")
    for kind in updates:
        for value in odd:
            update = {"sessionUpdate": kind, **dict.fromkeys(parts, value)}
            judgement, _ = read({"acp": "update", "update": update})
            assert judgement.run.to_json()


def test_an_answer_in_very_many_parts_is_read_in_time_and_bounded() -> None:
    reader = AcpReader()
    content = {"type": "text", "text": "ab"}
    part = _line({"acp": "update", "update": {"sessionUpdate": "agent_message_chunk", "content": content}})
    for _ in range(50_000):
        reader.feed(part)
    reader.feed(_line({"acp": "end", "stop": "end_turn"}))
    assert reader.outcome(DONE).text == "ab" * 50_000

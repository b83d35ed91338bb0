"""Whether a run gets on is told by what its agent does: waiting and trying again are nothing, whatever it prints."""

import json
from typing import Any

import pytest

from agentbus_worker.formats.events import Retry
from agentbus_worker.formats.judgement import Ended, GivenUp
from agentbus_worker.formats.readers import READERS
from agentbus_worker.formats.stall import StallWatch
from agentbus_worker.formats.stream import EventStream
from support.recorded_agents import recording

STALL_S = 600.0
LONG_S = 10_000.0


class Watched:
    """A run whose lines are fed by the test, with a clock that the test sets."""

    def __init__(self, agent: str, *, stall_s: float | None = STALL_S, tool_of_s: float | None = None) -> None:
        self.now = 1_000.0
        self.sooner = 0
        self.stream = EventStream(agent)
        self.watch = StallWatch(
            self.stream.reader,
            stall_s=stall_s,
            max_retry_after_s=120,
            time=lambda: self.now,
            tools_run=lambda age_s: tool_of_s is not None and tool_of_s < age_s,
        )
        self.stream.listen(self.watch.on_event)
        self.watch.on_sooner = self._sooner

    def _sooner(self) -> None:
        self.sooner += 1

    def out(self, *lines: str | dict[str, Any]) -> "Watched":
        for line in lines:
            self.stream.feed((line if isinstance(line, str) else json.dumps(line)).encode() + b"\n")
        return self

    def err(self, *lines: str) -> "Watched":
        for line in lines:
            self.stream.feed_error(line.encode() + b"\n")
        return self

    def after(self, seconds: float) -> GivenUp | None:
        """What is judged once so much more time has passed, if anything is due by then."""
        end = self.now + seconds
        while (due := self.watch.due) is not None and due <= end:
            self.now = max(self.now, due)
            if (given_up := self.watch.judge()) is not None:
                return given_up
        self.now = end
        return None


def played(agent: str, case: str, **keys: Any) -> Watched:
    """A run of which all lines that were recorded have just come."""
    run = recording(agent, case)
    return Watched(agent, **keys).out(*run.stdout).err(*run.stderr)


def until(agent: str, case: str, words: str) -> list[str]:
    """The recorded lines up to the first with the words, and that one."""
    lines = recording(agent, case).stdout
    return lines[: next(number for number, line in enumerate(lines) if words in line) + 1]


BEGINNING = {"claude": "init", "codex": "turn.started", "gemini": '"user"', "opencode": "step_start", "qwen": "init"}
IN_A_TOOL = {
    "claude": '"content":[{"type":"tool_use"',
    "codex": "item.started",
    "gemini": "tool_use",
    "opencode": '"text"',
    "qwen": '"content":[{"type":"tool_use"',
}


# -- a run that stands still -------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", READERS)
def test_a_run_that_is_silent_outside_a_tool_has_stalled(agent: str) -> None:
    for lines in ([], until(agent, "tool", BEGINNING[agent])):
        given_up = Watched(agent).out(*lines).after(LONG_S)
        assert given_up is not None
        assert (given_up.reason, given_up.code) == ("stalled", "stalled")
        assert "made no progress for 600 s" in given_up.how


@pytest.mark.parametrize("agent", READERS)
def test_the_time_is_not_counted_while_a_tool_runs_however_long_it_says_nothing(agent: str) -> None:
    run = Watched(agent, tool_of_s=5).out(*until(agent, "tool", IN_A_TOOL[agent]))
    assert run.after(LONG_S) is None
    rest = recording(agent, "tool").stdout[len(until(agent, "tool", IN_A_TOOL[agent])) :]
    run.out(rest[0])
    assert run.after(STALL_S - 1) is None, "the time begins anew where the tool ends"


@pytest.mark.parametrize("agent", ["claude", "codex", "gemini", "qwen"])
def test_it_is_counted_again_once_the_tool_has_ended(agent: str) -> None:
    begun = until(agent, "tool", IN_A_TOOL[agent])
    run = Watched(agent).out(*begun)
    run.after(LONG_S)
    # Behind the parts of the message that asked for the tool, its end is what comes next.
    run.out(next(line for line in recording(agent, "tool").stdout[len(begun) :] if '"stream_event"' not in line))
    given_up = run.after(STALL_S)
    assert given_up is not None
    assert given_up.reason == "stalled"


def test_an_agent_that_tells_of_tools_afterwards_runs_none_if_it_has_no_younger_process() -> None:
    begun = until("opencode", "tool", '"text"')
    for tool_of_s in (None, 10 * STALL_S):
        assert Watched("opencode", tool_of_s=tool_of_s).out(*begun).after(LONG_S) is not None
    tries_again = 'message="stream error" small=false error.error="AI_APICallError: Unable to connect"'
    assert Watched("opencode", tool_of_s=0).out(*begun).err(tries_again).after(LONG_S) is not None
    before_a_step = Watched("opencode", tool_of_s=0)
    assert before_a_step.after(LONG_S) is not None, "what it starts with itself is no tool"


@pytest.mark.parametrize(
    ("agent", "case", "words"),
    [
        ("claude", "no_connection", "try 2 of 2"),
        ("codex", "no_connection", "waiting for network"),
        ("gemini", "no_connection", "fetch failed"),
        ("gemini", "rate_limit", "429"),
        ("qwen", "rate_limit", "Rate limit reached"),
        ("qwen", "no_connection", ""),
        ("opencode", "no_connection", ""),
    ],
)
def test_a_run_that_only_tries_again_has_stalled_and_says_why(agent: str, case: str, words: str) -> None:
    run = Watched(agent)
    recorded = recording(agent, case)
    lines = [line for line in recorded.stdout if '"result"' not in line and "synthetic" not in line]
    given_up = None
    for _ in range(8):  # it prints something every two minutes, for ever
        given_up = given_up or run.out(*lines).err(*recorded.stderr).after(STALL_S / 5)
    assert given_up is not None
    assert (given_up.reason, given_up.code) == ("stalled", "stalled")
    judged = run.stream.outcome(
        Ended("stalled", -15, given_up.how, given_up=given_up, stderr="\n".join(recorded.stderr))
    )
    assert judged.failure is not None
    assert (judged.status, judged.failure.code) == ("failed", "stalled")
    assert words in judged.failure.message
    assert given_up.how in judged.failure.message


def test_what_is_printed_is_no_work_unless_it_may_be_an_event_that_is_not_known_yet() -> None:
    run = Watched("claude").out(*until("claude", "tool", "init"))
    for line in ("reconnecting", '{"type":"keep_alive"}', '{"type":"stream_event","event":{"type":"ping"}}'):
        run.after(STALL_S / 2)
        run.out(line)
        assert run.after(STALL_S / 2) is not None
        run.out({"type": "a_new_kind"})
        assert run.after(STALL_S - 1) is None


def test_a_run_without_a_line_of_its_format_is_judged_as_text_and_never_stalls() -> None:
    run = Watched("claude").out("I am at work,", "and print text.")
    assert run.after(LONG_S) is None
    silent = Watched("codex").after(STALL_S)
    assert silent is not None
    assert "printed no line of the format codex" in silent.how


def test_without_a_limit_a_silent_run_goes_on_and_one_without_hope_does_not() -> None:
    assert Watched("claude", stall_s=None).after(LONG_S) is None
    retries = [line for line in recording("claude", "auth").stdout if "api_retry" in line]
    assert Watched("claude", stall_s=None).out(*retries).after(LONG_S) is not None


# -- an answer that is being made ----------------------------------------------------------------------------------


def part_of_claude(kind: str) -> dict[str, Any]:
    return {"type": "stream_event", "event": {"type": kind, "delta": {"type": "text_delta", "text": "a "}}}


@pytest.mark.parametrize("agent", ["claude", "qwen"])
def test_each_part_of_an_answer_is_work(agent: str) -> None:
    run = Watched(agent)
    for kind in ["message_start", "content_block_start", *["content_block_delta"] * 20, "message_delta"]:
        assert run.out(part_of_claude(kind)).after(STALL_S - 1) is None
    assert run.after(1) is not None


def test_each_part_of_an_answer_that_gemini_prints_is_work() -> None:
    run = Watched("gemini")
    for _ in range(5):
        run.out({"type": "message", "role": "assistant", "content": "a ", "delta": True})
        assert run.after(STALL_S - 1) is None


CODEX_LOG = "2026-11-30T14:16:20.595748Z "


def test_the_log_of_codex_tells_that_an_answer_comes() -> None:
    run = Watched("codex").out(*until("codex", "tool", "turn.started"))
    part = (
        'INFO codex_otel.log_only: event.name="codex.sse_event" event.kind=response.output_text.delta duration_ms=991'
    )
    for _ in range(5):
        assert run.err(CODEX_LOG + part).after(STALL_S - 1) is None
    run.err(CODEX_LOG + 'INFO codex_otel.log_only: event.name="codex.user_prompt" prompt_length=50 prompt=[REDACTED]')
    assert run.after(1) is not None


def test_thoughts_are_work() -> None:
    thought: dict[str, Any] = {"type": "assistant", "message": {"content": [{"type": "thinking", "thinking": "hm"}]}}
    assert Watched("claude").out(thought).watch.due == 1_000 + STALL_S
    thoughts: dict[str, dict[str, Any]] = {
        "claude": thought,
        "codex": {"type": "item.completed", "item": {"type": "reasoning", "text": "hm"}},
        "opencode": {"type": "reasoning", "sessionID": "ses_1", "part": {}},
    }
    for agent, line in thoughts.items():
        run = Watched(agent)
        run.after(STALL_S / 2)
        assert run.out(line).after(STALL_S - 1) is None


def test_the_time_is_not_counted_while_a_question_is_open() -> None:
    deferred = {"id": "toolu_1", "name": "Bash", "input": {"command": "git push"}}
    run = Watched("claude").out({"type": "result", "terminal_reason": "tool_deferred", "deferred_tool_use": deferred})
    assert run.after(LONG_S) is None
    run.out({"type": "system", "subtype": "api_retry", "attempt": 1, "max_retries": 10, "error": "unknown"})
    assert run.after(STALL_S - 1) is None, "it begins anew where the agent goes on"
    assert run.after(1) is not None


def tries_again(run: Watched, line: str | dict[str, Any], *, every_s: float) -> GivenUp | None:
    """What is judged of a run that prints the line again and again."""
    for _ in range(int(10 * STALL_S / every_s)):
        if (given_up := run.out(line).after(every_s)) is not None:
            return given_up
    return None


def test_what_claude_has_put_into_the_background_is_waited_for_unless_the_agent_only_tries_again() -> None:
    started = {"type": "system", "subtype": "task_started", "task_id": "b1", "is_backgrounded": True}
    ended = {"type": "system", "subtype": "task_notification", "task_id": "b1", "status": "completed"}
    retry = {"type": "system", "subtype": "api_retry", "attempt": 1, "max_retries": 10, "error": "unknown"}
    assert Watched("claude").out(started).after(LONG_S) is None
    assert Watched("claude").out(started, retry).after(LONG_S) is None, "it has tried again once"
    assert tries_again(Watched("claude").out(started), retry, every_s=30) is not None
    assert Watched("claude").out(started, ended).after(LONG_S) is not None
    assert Watched("claude").out({**started, "is_backgrounded": False}).after(LONG_S) is not None


def test_a_tool_that_codex_has_left_running_does_not_hide_that_it_only_tries_again() -> None:
    begun = until("codex", "tool", "item.started")
    waits = next(line for line in recording("codex", "no_connection").stdout if "waiting for network" in line)
    given_up = tries_again(Watched("codex").out(*begun), waits, every_s=62)
    assert given_up is not None
    assert given_up.code == "stalled"
    assert Watched("codex").out(*begun, waits).after(LONG_S) is None, "a tool that runs is not ended for one such line"


# -- trying again in vain ------------------------------------------------------------------------------------------


def api_retry(**fields: Any) -> dict[str, Any]:
    return {"type": "system", "subtype": "api_retry", "max_retries": 10, "retry_delay_ms": 600, **fields}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ("authentication_failed", 401, "auth"),
        ("authentication_failed", None, "auth"),
        ("billing_error", None, "billing"),
        ("unknown", 402, "billing"),
        ("unknown", 403, "forbidden"),
        ("oauth_org_not_allowed", None, "forbidden"),
    ],
)
def test_what_is_refused_twice_for_a_reason_that_stays_ends_the_run_at_once(
    error: str, status: int | None, code: str
) -> None:
    run = Watched("claude").out(api_retry(attempt=1, error=error, error_status=status))
    assert run.after(1) is None
    given_up = run.out(api_retry(attempt=2, error=error, error_status=status)).after(0)
    assert given_up is not None
    assert (given_up.reason, given_up.code, given_up.http_status) == ("hopeless", code, status)
    assert given_up.retry_after_s is None, "its own delay is not what the server said"


def test_a_login_that_is_renewed_after_a_refusal_is_not_given_up() -> None:
    refused = api_retry(attempt=1, error="authentication_failed", error_status=401)
    assert Watched("claude").out(refused).after(15) is not None, "one that is not is, within seconds"
    run = Watched("claude").out(refused)
    run.after(3)
    assert run.out(part_of_claude("message_start")).after(STALL_S - 1) is None
    run.out(refused)
    assert run.after(5) is None, "and the next one is the first again"


def test_one_refusal_that_is_told_on_both_outputs_is_one() -> None:
    told = '{"type":"error","message":"Reconnecting... %d/5 (unexpected status 401 Unauthorized: no)"}'
    logged = (
        "WARN codex_core::responses_retry: stream disconnected - retrying sampling request (%d/5 in 192.5ms)... "
        "turn_id=1 retries=1 max_retries=5 sampling_error=unexpected status 401 Unauthorized: no"
    )
    run = Watched("codex").out(told % 1).err(CODEX_LOG + logged % 1)
    assert run.after(1) is None
    given_up = run.out(told % 2).after(0)
    assert given_up is not None
    assert (given_up.code, given_up.http_status) == ("auth", 401)


def test_other_errors_are_tried_again_for_as_long_as_nothing_stalls() -> None:
    run = Watched("claude")
    for attempt in range(1, 10):
        run.out(api_retry(attempt=attempt, error="overloaded", error_status=529))
        assert run.after(30) is None


HOUR_OF_CODEX = (
    "WARN codex_core::responses_retry: stream disconnected - retrying sampling request (1/5 in 3599.998236566s)... "
    "turn_id=1 retries=1 max_retries=5 sampling_error=exceeded retry limit, last status: 429 Too Many Requests"
)


@pytest.mark.parametrize(
    ("agent", "line", "code", "after_s"),
    [
        ("codex", HOUR_OF_CODEX, "quota", 3600),
        ("qwen", "Retrying in 3600s (attempt 1/10): [API Error: 429 Rate limit reached for requests.]", "quota", 3600),
        ("gemini", "Attempt 1 failed with status 429. Retrying with backoff... _ApiError: Please retry in 600s.",
         "quota", 600),
        ("gemini", "Attempt 1 failed with status 503. Retrying with backoff... _ApiError: Please retry in 600s.",
         "overloaded", 600),
    ],
)  # fmt: skip
def test_an_agent_that_waits_for_longer_than_is_allowed_is_given_up_at_once(
    agent: str, line: str, code: str, after_s: float
) -> None:
    run = Watched(agent)
    run.after(5)
    sooner = run.sooner
    given_up = run.err(line).after(0)
    assert run.sooner > sooner, "what waits for the limit is told"
    assert given_up is not None
    assert (given_up.reason, given_up.code) == ("hopeless", code)
    assert given_up.retry_after_s == pytest.approx(after_s, abs=1)
    judged = run.stream.outcome(Ended("hopeless", -15, given_up.how, given_up=given_up))
    assert judged.failure is not None
    assert (judged.failure.code, judged.failure.retry_after_s) == (code, given_up.retry_after_s)
    assert f"was to wait {after_s} s" in judged.failure.message


def test_a_wait_that_only_one_of_two_outputs_tells_is_known_whichever_is_read_first() -> None:
    told = '{"type":"error","message":"Reconnecting... 1/5 (exceeded retry limit, last status: 429 Too Many Requests)"}'
    for run in (Watched("codex").err(HOUR_OF_CODEX).out(told), Watched("codex").out(told).err(HOUR_OF_CODEX)):
        given_up = run.after(0)
        assert given_up is not None
        assert (given_up.code, given_up.http_status) == ("quota", 429)


def test_claude_waits_for_a_subscription_for_hours_and_is_given_up() -> None:
    given_up = Watched("claude").out(api_retry(attempt=1, retry_delay_ms=18_000_000, error="rate_limit")).after(0)
    assert given_up is not None
    assert (given_up.code, given_up.retry_after_s) == ("quota", 18_000)


def test_the_log_of_opencode_says_why_it_tries_again() -> None:
    line = (
        'timestamp=2026-11-30T14:17:55.860Z level=ERROR run=16b08d2a message="stream error" providerID=test '
        'modelID=m session.id=ses_1 small=%s agent=build mode=primary error.error="AI_APICallError: Overloaded"'
    )
    reader = READERS["opencode"]()
    [retry] = reader.feed_error((line % "false").encode())
    assert retry == Retry("AI_APICallError: Overloaded", code="overloaded")
    assert reader.feed_error((line % "true").encode()) == [], "the title of a session is no work of the task"
    assert reader.feed_error(b"level=INFO message=init") == []


def test_a_limit_after_which_nothing_is_tried_for_longer_than_it_may_be_waited_is_a_quota() -> None:
    line = 'level=ERROR message="stream error" small=false error.error="AI_APICallError: %s"'
    limited, broken = line % "429 rate limit reached", line % "Overloaded"
    for told, code in ((limited, "quota"), (broken, "stalled")):
        given_up = Watched("opencode").err(told).after(LONG_S)
        assert given_up is not None
        assert (given_up.reason, given_up.code) == ("stalled", code)
    again = Watched("opencode")
    for _ in range(int(STALL_S / 60)):
        assert again.err(limited).after(60 - 1) is None
        again.now += 1
    given_up = again.after(LONG_S)
    assert given_up is not None
    assert given_up.code == "stalled", "it tries again and again, so no time is too long for it"


# -- how it is judged --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", READERS)
def test_an_agent_that_has_answered_and_does_not_end_has_answered(agent: str) -> None:
    run = played(agent, "ok")
    given_up = run.after(LONG_S)
    assert given_up is not None
    judged = run.stream.outcome(Ended("stalled", -15, given_up.how, given_up=given_up))
    assert (judged.status, judged.text) == ("completed", "The answer is 42.")


def test_lines_of_the_log_are_not_why_codex_failed() -> None:
    reader = READERS["codex"]()
    reader.feed(b'{"type":"thread.started","thread_id":"t"}')
    log = CODEX_LOG + "INFO codex_otel.log_only: event.name=x 401 Unauthorized"
    failure = reader.outcome(Ended("exited", 3, "the command exited with status 3", stderr=f"no disk\n{log}")).failure
    assert failure is not None
    assert (failure.code, failure.message) == ("exit", "the command exited with status 3: no disk")


def test_more_tools_than_are_counted_cost_no_memory() -> None:
    run = Watched("codex")
    for number in range(10_000):
        run.out({"type": "item.started", "item": {"id": f"item_{number}", "type": "web_search"}})
    for number in range(10_000):
        run.out({"type": "item.completed", "item": {"id": f"item_{number}", "type": "web_search"}})
    assert run.after(STALL_S) is not None

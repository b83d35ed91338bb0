"""What the recorded runs of real agents are judged to be: no failed work is `completed`."""

from typing import Final

import pytest

from agentbus_worker.formats.readers import READERS
from support.recorded_agents import RECORDED_AGENTS, Recording, recording

SAME: Final = {
    "ok": "completed", "tool": "completed", "resumed": "completed", "approval": "needs_approval",
    "denied": "completed", "empty": "empty", "refusal": "refused", "max_tokens": "truncated", "cut": "network",
    "auth": "auth", "forbidden": "forbidden", "rate_limit": "rate_limit", "rate_limit_long": "rate_limit",
    "quota": "quota", "billing": "billing", "overloaded": "overloaded", "server_error": "overloaded",
    "context": "context", "model": "model", "no_connection": "network", "unknown_session": "session_gone",
    "hang": "timeout", "hang_before": "timeout", "keepalive": "timeout", "loop": "timeout",
}  # fmt: skip
"""The status of a run that has not failed, and the code of one that has."""
OTHER: Final[dict[tuple[str, str], str]] = {
    ("claude", "cut"): "completed",  # it asks again without a stream
    ("codex", "refusal"): "empty",  # it prints nothing else for a refusal
    ("qwen", "refusal"): "empty",
    ("opencode", "denied"): "denied",  # it stops
    ("acp", "denied"): "denied",  # OpenCode over the Agent Client Protocol
    ("acp", "max_tokens"): "completed",
    ("gemini", "rate_limit_long"): "quota",  # it names the hour
    # It tried again, or waited, until the run was ended.
    ("codex", "no_connection"): "timeout",
    ("codex", "rate_limit_long"): "timeout",
    **{("gemini", case): "timeout" for case in ("no_connection", "overloaded", "quota", "rate_limit", "server_error")},
    ("opencode", "rate_limit_long"): "timeout",
    **{("qwen", case): "timeout"
       for case in ("no_connection", "overloaded", "quota", "rate_limit", "rate_limit_long", "server_error")},
}  # fmt: skip
ALL: Final = sorted((path.parent.name, path.stem) for path in RECORDED_AGENTS.glob("*/*.jsonl"))


def judged(run: Recording) -> str:
    """Read a recorded run; returns its status, or the code of its failure."""
    reader = READERS[run.agent]()
    for line in run.stdout:
        reader.feed(line.encode())
    reader.feed_side_file(run.side)
    judgement = reader.outcome(run.end())
    assert judgement.run.format == run.agent, "it was understood"
    assert (judgement.failure is not None) == (judgement.status == "failed")
    return judgement.failure.code if judgement.failure else judgement.status


def test_each_agent_was_recorded_in_each_case() -> None:
    assert sorted((agent, case) for agent in READERS if agent != "acp" for case in SAME) == [
        one for one in ALL if one[0] != "acp"
    ]


@pytest.mark.parametrize(("agent", "case"), ALL)
def test_a_recorded_run_is_judged_by_what_happened(agent: str, case: str) -> None:
    assert judged(recording(agent, case)) == OTHER.get((agent, case), SAME[case])


@pytest.mark.parametrize(("agent", "case"), [one for one in ALL if one[1] in ("ok", "tool", "resumed")])
def test_the_result_of_a_run_is_the_last_message_and_nothing_else(agent: str, case: str) -> None:
    run = recording(agent, case)
    reader = READERS[agent]()
    for line in run.stdout:
        reader.feed(line.encode())
    assert reader.outcome(run.end()).text == ("I ran it. " if case == "tool" else "") + "The answer is 42."


@pytest.mark.parametrize(("agent", "case"), ALL)
def test_the_message_of_a_failure_says_what_the_model_s_server_said(agent: str, case: str) -> None:
    run = recording(agent, case)
    reader = READERS[agent]()
    for line in run.stdout:
        reader.feed(line.encode())
    failure = reader.outcome(run.end()).failure
    told = {"auth": ("api key", "api-key", "authentication"), "forbidden": ("permission", "not allowed"),
            "billing": ("billing", "credit"), "context": ("context", "prompt is too long", "token count")}  # fmt: skip
    if failure is not None and case in told:
        assert any(words in failure.message.lower() for words in told[case]), failure.message
    if failure is not None:
        assert "\x1b" not in failure.message
        assert failure.code in ("timeout", "idle") or len(failure.message) > 0


def test_a_run_that_is_ended_while_it_tries_again_says_what_it_waited_for() -> None:
    waited = {
        ("codex", "no_connection"): "waiting for network",
        ("codex", "rate_limit_long"): "429",
        ("gemini", "no_connection"): "fetch failed",
        ("gemini", "overloaded"): "overloaded",
        ("gemini", "quota"): "exceeded your current quota",
        ("gemini", "rate_limit"): "exhausted",
        ("qwen", "rate_limit"): "Rate limit reached",
    }
    for (agent, case), words in waited.items():
        run = recording(agent, case)
        reader = READERS[agent]()
        for line in run.stdout:
            reader.feed(line.encode())
        failure = reader.outcome(run.end()).failure
        assert failure is not None
        assert (failure.code, words in failure.message) == ("timeout", True), failure.message


@pytest.mark.parametrize("agent", READERS)
def test_session_and_numbers_of_a_run_are_reported(agent: str) -> None:
    run = recording(agent, "tool")
    reader = READERS[agent]()
    for line in run.stdout:
        reader.feed(line.encode())
    report = reader.report()
    assert report.session
    assert report.kind == ("OpenCode" if agent == "acp" else agent)
    assert report.usage.output_tokens
    assert report.usage.input_tokens
    assert report.usage.input_tokens >= (report.usage.cached_input_tokens or 0)
    assert (report.cost_usd is not None) == (agent in ("acp", "claude", "opencode"))
    assert (report.model is not None) == (agent in ("acp", "claude", "gemini", "qwen"))
    assert report.version == (run.version.split()[-1] if agent in ("acp", "claude", "qwen") else None)


@pytest.mark.parametrize("agent", ["claude", "codex", "opencode"])
def test_a_denied_tool_is_reported(agent: str) -> None:
    run = recording(agent, "denied")
    reader = READERS[agent]()
    for line in run.stdout:
        reader.feed(line.encode())
    [denied] = reader.report().denied
    assert "touch ../made_by_the_tool" in denied.summary

"""A shortened error still says why: those of real agents, and those that are long in another way."""

import json
import re
from typing import Final

import pytest

from agentbus_mcp.replies.reasons import shortened
from agentbus_worker.formats.readers import READERS
from support.recorded_agents import RECORDED_AGENTS, recording

REASONS: Final = {
    "auth": "key|authentication|401", "forbidden": "permission|not allowed|403", "billing": "billing|credit",
    "quota": "quota", "rate_limit": "rate limit|429|exhausted", "rate_limit_long": "rate limit|429|exceeded",
    "overloaded": "overloaded|529|demand", "server_error": "500|demand|internal (server )?error",
    "context": "too long|token count|room|context", "model": "model|not exist",
    "no_connection": "connect|network|fetch",
    "refusal": "safeguard|safety|filter|blocked|empty", "unknown_session": "session|thread|conversation",
    "empty": "without an answer|empty",
}  # fmt: skip
BARE: Final = {"timed out after 100 s and was ended", "the agent ended without an answer"}
"""What the worker says where the agent said nothing."""
ALL: Final = sorted((path.parent.name, path.stem) for path in RECORDED_AGENTS.glob("*/*.jsonl") if path.stem in REASONS)


@pytest.mark.parametrize(("agent", "case"), ALL)
def test_the_error_of_a_real_agent_says_why_in_seventy_characters(agent: str, case: str) -> None:
    run = recording(agent, case)
    reader = READERS[agent]()
    for line in run.stdout:
        reader.feed(line.encode())
    failure = reader.outcome(run.end()).failure
    assert failure is not None
    error = shortened(failure.message, 70)
    assert len(error) <= 70
    assert failure.message in BARE or re.search(REASONS[case], error.lower()), error


def nested(depth: int) -> str:
    text = json.dumps({"error": {"code": 429, "message": "the account has no requests left", "details": ["d" * 300]}})
    for _ in range(depth):
        text = json.dumps({"error": {"message": text, "status": "x" * 100}})
    return f"API Error: {text}"


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_reason_within_json_within_json_is_found(depth: int) -> None:
    assert shortened(nested(depth), 80) == "API Error: the account has no requests left"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("short", "short"),
        ("why it failed\n" + "x" * 500, "why it failed xx"),
        ("x" * 500 + "\nwhy it failed", "x why it failed"),
        ("failed: see https://example.com/" + "a" * 500, "failed: see"),
        ("https://example.com/" + "a" * 500, "aaaa"),
    ],
)
def test_the_beginning_and_the_end_of_a_long_error_are_kept(text: str, error: str) -> None:
    assert len(shortened(text, 60)) <= 60
    assert error in shortened(text, 60)


@pytest.mark.parametrize(
    "text", ["\\" * 1000, '\\"' * 500, '{"message":"' * 80, '"message":"\\', "{" * 1000, "\n" * 1000]
)
def test_an_error_that_is_no_json_is_shortened_all_the_same(text: str) -> None:
    assert 0 < len(shortened(text, 60)) <= 60

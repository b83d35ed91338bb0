"""Why an agent failed, from its words and the status of the model's server."""

import pytest

from agentbus_worker.formats.reasons import Reason, limit_of, reason_of


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("invalid x-api-key", 401, "auth"),
        ("Please run /login", None, "auth"),
        ("You are not allowed", 403, "forbidden"),
        ("Your credit balance is too low", 400, "billing"),
        ("requires billing to be enabled", 403, "billing"),
        ("You exceeded your current quota, please check your plan and billing details.", 429, "quota"),
        ("Resource has been exhausted (e.g. check quota).", 429, "rate_limit"),
        ("Overloaded", 529, "overloaded"),
        ("prompt is too long: 210000 tokens > 200000 maximum", 400, "context"),
        ("The model `x` does not exist", 404, "model"),
        ("connect ECONNREFUSED 127.0.0.1:1", None, "network"),
        ("unexpected status 503 Service Unavailable", None, "overloaded"),
        ("Loop detection halted the run (turn_tool_call_cap: the turn reached the limit).", None, "turn_limit"),
        ("something else", None, None),
        ("something else", 418, None),
        ("I read 500 requests of the log", None, None),
    ],
)
def test_the_words_come_before_the_status_where_vendors_use_one_status_for_several_reasons(
    text: str, status: int | None, code: str | None
) -> None:
    assert reason_of(text, status).code == code


@pytest.mark.parametrize(
    ("text", "after_s"),
    [
        ("Please try again in 2s.", 2.0),
        ("Please retry in 3600s.", 3600.0),
        ("Retrying in 60s (attempt 1/10)", 60.0),
        ("try again in 150ms", 0.15),
        ("try again in 20 minutes", 1200.0),
        ("limit resets in 2h", 7200.0),
        ("try again later", None),
    ],
)
def test_the_time_after_which_the_server_answers_again_is_read(text: str, after_s: float | None) -> None:
    assert reason_of(text).retry_after_s == after_s


def test_a_limit_on_the_rate_that_names_a_long_time_is_a_quota_and_a_quota_that_names_a_short_one_is_not() -> None:
    assert reason_of("rate limit; try again in 3600s", 429) == Reason("rate_limit", 429, 3600.0)
    assert reason_of("You exceeded your current quota. Please retry in 26.5s.", 429) == Reason("quota", 429, 26.5)
    for longest_wait_s in (20.0, 120.0):
        for code in ("quota", "rate_limit"):
            found = [limit_of(code, after_s, longest_wait_s=longest_wait_s) for after_s in (19, 100, 121)]
            assert found == ["rate_limit", "quota" if longest_wait_s == 20 else "rate_limit", "quota"]
            assert limit_of(code, None, longest_wait_s=longest_wait_s) == code
        assert limit_of("overloaded", 3600, longest_wait_s=longest_wait_s) == "overloaded"


def test_a_huge_text_is_searched_in_part() -> None:
    assert reason_of("x" * 10_000_000 + "overloaded").code is None

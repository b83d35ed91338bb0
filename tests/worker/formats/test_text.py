"""Commands that print text: what their end means, and what is quoted of it."""

import pytest

from agentbus.protocol.outcomes.run_report import Run
from agentbus_worker.formats.judgement import Ended, Judgement
from agentbus_worker.formats.text import last_lines, telling_line, text_outcome


def judged(code: int, stdout: str = "", stderr: str = "", *, reason: str = "exited") -> Judgement:
    assert reason in ("exited", "timeout", "idle")
    return text_outcome(Ended(reason, code, "it ended", stdout, "", stderr), Run("text"))


def test_exit_code_zero_is_success_even_without_output() -> None:
    assert judged(0, "done").status == judged(0).status == "completed"


def test_the_reason_is_the_end_of_standard_error_or_of_standard_output_where_that_is_empty() -> None:
    for reason, stdout, stderr, message in [
        ("exited", "half", "no disk\n", "it ended: no disk"),
        ("exited", "Invalid API key\n", "", "it ended: Invalid API key"),
        ("timeout", "half", "Attempt 7 failed\n", "it ended: Attempt 7 failed"),
        ("idle", "waiting\n", " \n", "it ended: waiting"),
        ("exited", "", "", "it ended"),
    ]:
        failure = judged(1, stdout, stderr, reason=reason).failure
        assert failure is not None
        assert failure.message == message


def test_colours_and_stack_traces_are_not_quoted() -> None:
    assert last_lines("\x1b[91m\x1b[1mError: \x1b[0mno\x1b]0;title\x07 model\n") == "Error: no model"
    stack = (
        "ApiError: overloaded\n    at throwIt (file:///x.js:1:2)\n    at async y {\n  status: 503\n}\n[object Object]\n"
    )
    assert last_lines(stack) == telling_line(stack) == "ApiError: overloaded"
    assert telling_line("Warning: no colours\n") == ""


def test_only_the_end_of_a_long_output_is_quoted() -> None:
    text = last_lines("x" * 5_000 + "the reason")
    assert (text[0], text.endswith("the reason"), len(text)) == ("…", True, 501)


@pytest.mark.parametrize(
    ("code", "stdout", "found"),
    [
        (0, "No reply: the model returned empty content\n", "empty"),
        (0, "⚠ No reply: the model returned empty content.", "empty"),
        (0, "  ⚠ scanner not available\r\n⚠\ufe0f No reply: the model returned empty content", "empty"),
        (1, "API call failed: HTTP 401: invalid key\n", "auth"),
        (1, "HTTP 429 too many requests", "rate_limit"),
        (1, "⚠ scanner off\nAPI call failed after 3 retries: Connection error.", "network"),
        (1, "⚠ scanner off\nContext length exceeded (19 tokens). Cannot compress further.\n", "context"),
        (1, "⚠️  The model declined to respond to this request (safety refusal).\n\nTry again.", "refused"),
        (1, "Session not found: 0\nUse a session ID from a previous CLI run.", "session_gone"),
        (1, "tests failed\n", "exit"),
        (-9, "", "signal"),
    ],
)
def test_the_known_phrases_of_hermes_are_judged(code: int, stdout: str, found: str) -> None:
    failure = judged(code, stdout).failure
    assert failure is not None
    assert failure.code == found


def test_the_session_that_hermes_prints_last_is_not_the_reason_of_its_failure() -> None:
    ended = Ended("exited", 1, "the command exited with status 1", "⚠ scanner off\nHTTP 403: not allowed\n", "",
                  "\nsession_id: 20261130_145548_de674c\n")  # fmt: skip
    failure = text_outcome(ended, Run("text")).failure
    assert failure is not None
    assert failure.code == "forbidden"
    assert failure.message.endswith("HTTP 403: not allowed")


def test_a_text_about_such_phrases_is_no_failure() -> None:
    assert judged(0, "A note.\nNo reply: the model returned empty content").status == "completed"
    assert judged(0, "The log says 'No reply: the model returned empty content'.").status == "completed"
    assert judged(0, "HTTP 401 is the status for a bad key").status == "completed"
    assert judged(0, "No reply: the model returned empty content" + "x" * 600).status == "completed"


@pytest.mark.parametrize("reason", ["timeout", "idle"])
def test_the_code_of_an_end_by_a_limit_is_that_limit(reason: str) -> None:
    failure = judged(-15, "HTTP 401", reason=reason).failure
    assert failure is not None
    assert failure.code == reason

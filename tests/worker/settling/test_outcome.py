"""Maps the end of a command to its outcome."""

import hashlib
from typing import Any, Literal

import pytest

from agentbus.protocol.json_codec import decode, encode
from agentbus.protocol.ledger_entry import CancelRequest
from agentbus.protocol.messages import Failure
from agentbus_worker.running.command import Exit, Output
from agentbus_worker.running.unended import Unended
from agentbus_worker.settling.outcome import Outcome, outcome_of_exit


def output(data: bytes = b"", *, head: bytes | None = None) -> Output:
    """What was read of a pipe that `data` went through; with `head`, only that much was kept."""
    return Output(data if head is None else head, data[-8192:], len(data), hashlib.sha256(data).hexdigest())


def ended(
    stdout: bytes | Output = b"",
    stderr: bytes = b"",
    *,
    code: int = 0,
    reason: Literal["exited", "timeout", "idle", "stopped"] = "exited",
) -> Outcome:
    out = output(stdout) if isinstance(stdout, bytes) else stdout
    return outcome_of_exit(Exit(reason, code, out, output(stderr), 1.23456), timeout_s=1800, idle_timeout_s=60)


# -- how it ended -----------------------------------------------------------------------------------------------


def test_a_command_that_exits_with_zero_has_completed():
    assert ended(b"done\n", b"some noise") == Outcome(
        "completed", "done\n", None, {"exit_code": 0, "duration_seconds": 1.235}
    )


def test_empty_output_is_a_result_too():
    assert (ended().status, ended().text) == ("completed", "")


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (1, "exited with status 1"),
        (255, "exited with status 255"),
        (-9, "was ended by signal 9"),
        (-15, "was ended by signal 15"),
    ],
)
def test_any_other_exit_is_a_failure_with_its_reason_and_the_output(code: int, how: str):
    outcome = ended(b"half of it", b"  it broke\n", code=code)
    assert (outcome.status, outcome.text, outcome.error) == ("failed", "half of it", f"the command {how}: it broke")
    assert outcome.extra["exit_code"] == code
    assert ended(code=code).error == f"the command {how}"


def test_the_reason_for_the_log_does_not_quote_the_agent():
    outcome = ended(b"hunter2", b"password: hunter2", code=1)
    assert outcome.reason == "the command exited with status 1"


@pytest.mark.parametrize("code", [-15, -9, 0, 7])
def test_a_timeout_is_a_failure_with_the_limit_whatever_the_exit_code(code: int):
    outcome = ended(b"so far", b"noise", code=code, reason="timeout")
    assert (outcome.status, outcome.text) == ("failed", "so far")
    assert outcome.reason == "timed out after 1800 s and was ended"
    assert outcome.error == "timed out after 1800 s and was ended: noise"
    assert outcome.failure == Failure("timeout", outcome.error)


@pytest.mark.parametrize(
    ("reason", "cancel", "said"),
    [
        ("timeout", None, "timed out after 1800 s"),
        ("idle", None, "printed nothing for 60 s"),
        ("stopped", CancelRequest(by="agent-main", reason="no need", at=""), "cancelled by agent-main: no need"),
        ("stopped", None, "the worker was stopped"),
    ],
)
def test_a_command_that_could_not_be_ended_has_failed_for_that_whatever_it_was_to_be_ended_for(
    reason: Literal["timeout", "idle", "stopped"], cancel: CancelRequest | None, said: str
):
    unended = Unended((7,), "runs as another user (root)")
    left = Exit(reason, None, output(b"so far"), output(b"noise"), 1.0, unended)
    outcome = outcome_of_exit(left, timeout_s=1800, idle_timeout_s=60, cancel=cancel)
    why = "the command could not be ended: it runs as another user (root)"
    assert (outcome.status, outcome.text, outcome.cause) == ("failed", "so far", "not_ended")
    assert outcome.failure == Failure("not_ended", why)
    assert outcome.error == outcome.reason == f"{said}, and {why}"
    assert "exit_code" not in outcome.extra


def test_an_idle_command_has_failed_with_the_limit():
    outcome = ended(b"so far", code=-15, reason="idle")
    assert (outcome.status, outcome.text) == ("failed", "so far")
    assert outcome.reason == "printed nothing for 60 s and was ended"
    assert outcome.error == "printed nothing for 60 s and was ended: so far"
    assert outcome.failure == Failure("idle", outcome.error)


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        (ended(code=-15, reason="timeout"), "timeout"),
        (ended(code=-15, reason="idle"), "idle"),
        (ended(code=75), "exit:75"),
        (ended(code=-9), "exit:-9"),
        (ended(code=0), ""),
        (ended(b"status=needs_approval"), ""),
    ],
)
def test_a_failure_has_the_cause_that_the_configuration_names_for_a_retry(outcome: Outcome, cause: str):
    assert outcome.cause == cause


def test_only_the_end_of_a_long_stderr_is_quoted():
    outcome = ended(b"", b"x" * 5000 + b"the reason", code=1)
    assert outcome.error is not None
    assert outcome.error.endswith("the reason")
    assert outcome.error.startswith("the command exited with status 1: …x")
    assert len(outcome.error) < 600


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"caf\xe9", "caf\N{REPLACEMENT CHARACTER}"),
        (b"\xff\xfe", "\N{REPLACEMENT CHARACTER}" * 2),
        (b"a\xe2\x82", "a\N{REPLACEMENT CHARACTER}"),
        (b"\xed\xa0\x80", "\N{REPLACEMENT CHARACTER}" * 3),
        ("é\N{GRINNING FACE}\0\x1b[1m".encode(), "é\N{GRINNING FACE}\0\x1b[1m"),
    ],
)
def test_output_that_is_not_utf8_becomes_text_with_replacement_characters(data: bytes, text: str):
    outcome = ended(data)
    assert outcome.text == text
    assert decode(encode(outcome.text)) == text
    failed = ended(b"", data, code=1)
    assert failed.error is not None
    assert text.strip("\0").replace("\x1b[1m", "") in failed.error, "without what acts on a terminal"


def test_truncated_output_has_its_size_and_digest_in_the_result():
    data = b"x" * 5000
    assert ended(output(data, head=data[:1024])).extra["output"] == {
        "truncated": True, "bytes": 5000, "kept": 1024, "sha256": hashlib.sha256(data).hexdigest(),
    }  # fmt: skip
    assert "output" not in ended(data).extra


# -- a request for approval -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "status=needs_approval",
        "status=needs_approval\n",
        "status=needs_approval\r\nmay I?\r\n",
        "I looked at it.\nstatus=needs_approval\ngit push --force",
        '{"status": "needs_approval"}',
        ' \n{"status":"needs_approval","operation":{"do":"rm"}}\n',
        '{"x": 1, "status": "needs\\u005fapproval"}',
        "status=needs_approval \t\n",
        "\x1b[1mstatus=needs_approval\x1b[0m\nrm -rf x\n",
        "done\n\x1b[38;5;208mstatus=\x1b[Kneeds_approval\x1b[m \r\nmay I?",
        "".join(f"\x1b[3{at % 7}m{char}" for at, char in enumerate("status=needs_approval")) + "\x1b[0m",
        "\x1b]0;title\x07status=needs_approval",
        "\x1b]8;;https://example.com\x1b\\status=needs_approval\x1b]8;;\x1b\\\n",
        "thinking…\r\x1b[2K\rstatus=needs_approval\n",
        "\ufeffstatus=needs_approval\n",
        "one\n\ufeffstatus=needs_approval\u200b\n",
        '\ufeff{"status": "needs_approval"}',
        '\x1b[32m{"status": \x1b[1m"needs_approval"}\x1b[0m\n',
    ],
)
def test_a_line_or_a_json_object_asks_for_an_approval(text: str):
    outcome = ended(text.encode())
    assert (outcome.status, outcome.text, outcome.error) == ("needs_approval", text, None)


@pytest.mark.parametrize(
    "text",
    [
        "status = needs_approval",
        " status=needs_approval",
        "\x1b[1m status=needs_approval\x1b[0m",
        "\x1b]0;status=needs_approval\n",
        "status=needs_approval.",
        "status=needs_approvals",
        "STATUS=NEEDS_APPROVAL",
        '"status=needs_approval"',
        "the line status=needs_approval is how one asks",
        "nostatus=needs_approval",
        '{"status": "completed"}',
        '{"status": ["needs_approval"]}',
        '{"state": "needs_approval"}',
        '{"deep": {"status": "needs_approval"}}',
        '[{"status": "needs_approval"}]',
        '"needs_approval"',
        '{"status": "needs_approval"} and more',
        'so: {"status": "needs_approval"}',
        '{"status": "needs_approval"',
        "{" * 100_000,
        '{"a":' * 100_000,
    ],
    ids=lambda text: text[:45],
)
def test_text_that_resembles_the_marker_does_not_ask_for_an_approval(text: str):
    assert ended(text.encode()).status == "completed"


LINE = b"status=needs_approval\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"x" * 20_000 + b"\n" + LINE, "needs_approval", id="at the end"),
        pytest.param(LINE + b"x" * 20_000, "needs_approval", id="at the beginning"),
        pytest.param(b"x\n" * 10_000 + LINE + b"why\n" * 1000, "needs_approval", id="before the last words"),
        pytest.param(b"x" * 20_000, "completed", id="nowhere"),
        pytest.param(b"x" * 20_000 + b" " + LINE + b"y" * (8192 - len(LINE)), "completed", id="half of a longer line"),
        pytest.param(b"x" * 20_000 + b'{"status": "needs_approval"}', "completed", id="the end of a longer line"),
        pytest.param(
            b"x" * 20_000 + b"{" + b" " * 8163 + b'"status": "needs_approval"}',
            "completed",
            id="half of a longer object",
        ),
    ],
)
def test_a_complete_line_in_the_tail_of_truncated_output_asks_for_an_approval(data: bytes, status: str):
    assert ended(output(data, head=data[:1024])).status == status


@pytest.mark.parametrize(("code", "reason"), [(1, "exited"), (-15, "timeout"), (-15, "idle")])
def test_a_failed_command_does_not_ask_for_an_approval(code: int, reason: Any):
    assert ended(b"status=needs_approval\n", code=code, reason=reason).status == "failed"

"""The report of a run in a result: written bounded, read from anything."""

from typing import Any

import pytest

from agentbus.protocol.json_codec import decode, encode
from agentbus.protocol.messages import Failure, decode_result, new_result
from agentbus.protocol.outcomes.run_report import Denied, Run, Usage, run_in

TASK = {"id": "t", "to": "code"}
WHOLE = Run(
    "claude", kind="claude", version="2.1", session="s", model="m", turns=3, usage=Usage(10, 4, 5), cost_usd=0.25,
    denied=(Denied("Bash", "git push"), Denied("Write")),
)  # fmt: skip


def test_what_is_written_is_read_again_and_older_readers_keep_it() -> None:
    failure = Failure("rate_limit", "later", 429, 2.5)
    result = new_result(TASK, result_id="r", status="failed", failure=failure, extra={"run": WHOLE.to_json()})
    found = decode_result(encode(result.to_json()))
    assert (found.run, found.failure) == (WHOLE, failure)
    assert decode(encode(found.to_json())) == result.to_json()


def test_what_is_not_known_is_absent() -> None:
    assert Run("text").to_json() == {"format": "text"}
    assert run_in({"run": {"format": "text"}}) == Run("text")
    assert run_in({}) is None
    assert Failure("exit", "m").to_json() == {"code": "exit", "message": "m"}


@pytest.mark.parametrize("value", [None, 7, "x", [], {}, {"format": 7}, {"format": ""}])
def test_another_value_is_no_report(value: Any) -> None:
    assert run_in({"run": value}) is None


def test_fields_of_other_types_are_not_known_and_long_ones_cut() -> None:
    odd = {"format": "x" * 999, "kind": 1, "session": [], "model": None, "turns": True, "usage": 7, "cost_usd": "1",
           "denied": [7, {}, {"tool": 1}, *[{"tool": "t" * 999, "summary": "s" * 999}] * 99]}  # fmt: skip
    run = run_in({"run": odd})
    assert run is not None
    assert run.to_json() == {
        "format": "x" * 200, "denied": [{"tool": "t" * 200, "summary": "s" * 300}] * 13
    }  # fmt: skip


@pytest.mark.parametrize("value", [-1, 1e300, True, "5", None, float("1e17")])
def test_numbers_out_of_bounds_are_not_known(value: Any) -> None:
    run = run_in({"run": {"format": "x", "turns": value, "cost_usd": value, "usage": {"input_tokens": value}}})
    assert run == Run("x")
    stored = {"status": "failed", "failure": {"code": "auth", "http_status": value, "retry_after_s": value}}
    found = decode_result(encode({"id": "r", "type": "task.result", "task": TASK, **stored})).failure
    assert found == Failure("auth", "")

"""Whatever an agent prints, its reader raises nothing, keeps little, and says what a result can hold."""

import json
import random
import tracemalloc
from typing import Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.protocol.json_codec import Json, decode, encode
from agentbus.protocol.outcomes.failure_codes import FAILURE_CODES
from agentbus.protocol.outcomes.run_report import run_in
from agentbus_worker.formats.judgement import Ended
from agentbus_worker.formats.lines import MAX_LINE_BYTES
from agentbus_worker.formats.readers import READERS
from agentbus_worker.formats.stream import EventStream
from support import examples
from support.recorded_agents import RECORDED_AGENTS, recording

assert examples.TIMES, "the profile of hypothesis is loaded"

CASES: Final = ("ok", "tool", "denied", "auth", "empty", "max_tokens", "overloaded", "rate_limit_long")
LINES: Final = {
    agent: [
        line
        for case in CASES
        if (RECORDED_AGENTS / agent / f"{case}.jsonl").exists()
        for line in recording(agent, case).stdout
        if line.startswith("{")
    ]
    for agent in READERS
}
MOST_BYTES: Final = 30_000
"""How much the report of a run takes at most: its longest names, and 16 denied calls with their summaries."""

# What stands where a reader expects something else; half a surrogate pair and NaN cannot come from our own encoder.
ODD: Final[list[Any]] = [
    None, True, False, 0, -1, 10**400, -(10**30), 2**53, 0.5, 1e308, float("inf"), float("nan"), "", "401", "\ud800",
    "x" * 3_000, "\x1b[2J\0", [], {}, [[]], [None, 7, "x"], {"text": []}, {"": {"": 0}}, [{"type": "text", "text": 7}],
]  # fmt: skip
JUNK: Final = [
    b"[" * 20_000,
    b'{"a":' * 20_000,
    b'{"type":' + b"9" * 5_000 + b"}",
    b"\xff\xfe{}",
    b"\r",
    b"{}",
    b"\0" * 99,
]


def altered(value: Any, chance: random.Random) -> Any:
    """The value with something else in one of its places."""
    if isinstance(value, dict) and value and chance.randrange(5):
        known = cast("dict[str, Any]", value)
        name = chance.choice(sorted(known))
        return {**known, name: altered(known[name], chance)}
    if isinstance(value, list) and value and chance.randrange(5):
        items = cast("list[Any]", value)
        at = chance.randrange(len(items))
        return [*items[:at], altered(items[at], chance), *items[at + 1 :]]
    return chance.choice(ODD)


def output_of(agent: str, chance: random.Random) -> bytes:
    """An output of lines of agents: whole, doubled, cut, with other values, and with bytes between them."""
    lines: list[bytes] = []
    for line in chance.choices(LINES[agent], k=chance.randrange(9)):
        match chance.choice(["whole", "whole", "doubled", "altered", "altered", "altered", "cut", "foreign", "junk"]):
            case "doubled":
                lines += [line.encode()] * 2
            case "altered":
                lines.append(json.dumps(altered(altered(json.loads(line), chance), chance)).encode())
            case "cut":
                lines.append(line.encode()[: chance.randrange(len(line))])
            case "foreign":
                lines.append(chance.choice(LINES[chance.choice(sorted(READERS))]).encode())
            case "junk":
                lines.append(chance.choice([*JUNK, chance.randbytes(40)]))
            case _:
                lines.append(line.encode())
    return b"\n".join(lines) + chance.choice([b"", b"\n"])


@given(
    agent=st.sampled_from(sorted(READERS)),
    seed=st.integers(0, 2**63),
    reason=st.sampled_from(["exited", "exited", "timeout", "stopped"]),
    code=st.sampled_from([0, 0, 1, 145, -9]),
)
def test_no_output_is_an_error_and_each_is_judged(agent: str, seed: int, reason: Any, code: int) -> None:
    chance = random.Random(seed)
    output, size = output_of(agent, chance), chance.choice([37, 1_000, 65_536])
    stream = EventStream(agent)
    for start in range(0, len(output), size):
        stream.feed(output[start : start + size])
        stream.feed_error(output[start : start + size])
    text = output.decode(errors="replace")
    judgement = stream.outcome(Ended(reason, code, "the command ended", text, "", text[-8_192:]))
    assert judgement.status in ("completed", "failed", "needs_approval")
    assert (judgement.failure is not None) == (judgement.status == "failed")
    if judgement.failure is not None:
        assert judgement.failure.code in FAILURE_CODES
    if judgement.status == "completed" and judgement.run.format == agent:
        assert judgement.text.strip(), "an empty answer is a failure"
    report = encode(judgement.run.to_json())
    assert len(report) < MOST_BYTES
    told: dict[str, Json] = {"run": decode(report)}
    read = run_in(told)
    assert read is not None
    assert read.format == judgement.run.format


@pytest.mark.parametrize("agent", sorted(READERS))
def test_a_line_of_ten_megabytes_is_passed_over_in_bounded_memory(agent: str) -> None:
    stream = EventStream(agent)
    first, *rest = [line.encode() + b"\n" for line in recording(agent, "ok").stdout if line.startswith("{")]
    stream.feed(first)
    tracemalloc.start()
    try:
        stream.feed(b'{"type":"')
        for _ in range(160):
            stream.feed(b"x" * 65_536)
        stream.feed(b'"}\n')
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * MAX_LINE_BYTES
    for line in rest:
        stream.feed(line)
    judgement = stream.outcome(Ended("exited", 0, ""))
    assert (judgement.status, judgement.text) == ("completed", "The answer is 42.")

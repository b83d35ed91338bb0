"""The benchmarks run and print what they measured. `make bench`, on an idle machine, tells which targets are met."""

import json
import sys

import pytest

from support.harness import BOUND_S, ROOT, Ran, run_python

IN_GATE = ("throughput", "publish")
NAMES = (
    "throughput",
    "backlog",
    "overhead",
    "latency",
    "publish",
    "many",
    "watch",
    "inbox",
    "idle",
    "leases",
    "startup",
    "handshake",
    "http",
    "work",
    "page",
)

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="runs a worker and /bin/true"),
    pytest.mark.posix("measures workers"),
]


async def bench(*arguments: str) -> Ran:
    env = {"PYTHONPATH": str(ROOT / "tests")}
    return await run_python(
        "-m", "benchmarks", "--size", "tiny", *arguments, env=env, cwd=ROOT, timeout_s=3 * BOUND_S
    )  # they start dozens of processes


@pytest.mark.parametrize(
    "name",
    [  # "handshake" is in test_mcp_startup.py
        name if name in IN_GATE else pytest.param(name, marks=pytest.mark.long) for name in NAMES if name != "handshake"
    ],
)
async def test_a_benchmark_prints_a_line_for_each_ratio(name: str):
    ran = await bench(name)
    assert ran.out, ran.err
    rows = [json.loads(line) for line in ran.out.splitlines()]
    for row in rows:
        assert row["benchmark"] == name
        assert row["low"] <= row["ratio"] <= row["high"]
        assert row["limit"] is None or row["limit"] > 0
        assert (row["target"] == "") == (row["verdict"] == "")
    assert len({row["what"] for row in rows}) == len(rows)
    missed = any(row["verdict"] == "missed" for row in rows)
    assert ran.code == int(missed), ran.err


@pytest.mark.long
async def test_how_costs_grow_is_measured_and_many_at_once_meet_no_error():
    env = {"PYTHONPATH": str(ROOT / "tests")}
    ran = await run_python("-m", "benchmarks.scale", "--size", "tiny", env=env, cwd=ROOT, timeout_s=6 * BOUND_S)
    rows = {row["what"]: row for row in map(json.loads, ran.out.splitlines())}
    assert len(rows) == 23, ran.err
    # Times are the business of `make scale`, on an idle machine; what may not fail may not fail here either.
    errors = [row["ours"] for what, row in rows.items() if what.endswith("errors")]
    assert errors == [0, 0, 0], ran.err


async def test_the_table_names_the_targets():
    ran = await bench("idle", "--format", "table")
    assert "resident memory of a worker" in ran.out
    assert "<= 60" in ran.out


async def test_a_benchmark_that_does_not_exist_is_refused_with_the_names_of_those_that_do():
    ran = await bench("nonsense")
    assert ran.code == 2
    assert all(name in ran.err for name in NAMES)


async def test_every_benchmark_is_in_the_documentation():
    text = (ROOT / "docs" / "explanation" / "benchmarks.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in NAMES)

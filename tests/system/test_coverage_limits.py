"""The limits of `make coverage` count lines and branches of each folder, and name what is below."""

from typing import Any

import coverage_limits
from support.harness import ROOT


def file(statements: int, covered: int, branches: int = 0, covered_branches: int = 0) -> dict[str, Any]:
    return {
        "summary": {
            "num_statements": statements,
            "covered_lines": covered,
            "num_branches": branches,
            "covered_branches": covered_branches,
        }
    }


def report(**below: dict[str, Any]) -> dict[str, Any]:
    whole = {f"{folder}/module.py": file(100, 100) for folder in coverage_limits.LIMITS}
    return {"files": {**whole, **below}}


def test_limits_that_are_met_are_printed_and_pass() -> None:
    lines, broken = coverage_limits.table(report())
    assert broken == []
    assert any(line.startswith("agentbus/tasks ") and line.endswith("100.00%    97%") for line in lines)
    assert lines[-1].endswith("100.00%    95%")


def test_branches_count_like_lines_and_a_sub_folder_counts_for_the_folder_with_the_limit() -> None:
    below = {"agentbus/bus/inner/more.py": file(60, 60, 40, 30)}
    _, broken = coverage_limits.table(report(**below))
    assert broken == ["agentbus/bus: 95.00 % is reached; the limit is 97 %"]


def test_a_total_below_its_limit_and_a_missing_folder_are_named() -> None:
    found = report(**{"agentbus/cli/more.py": file(1000, 700)})
    del found["files"]["agentbus/tasks/module.py"]
    _, broken = coverage_limits.table(found)
    assert broken == [
        "in all: 75.00 % is reached; the limit is 95 %",
        "agentbus/tasks: not in the report, though it has a limit",
    ]


def test_each_folder_with_a_limit_exists() -> None:
    assert [folder for folder in coverage_limits.LIMITS if not (ROOT / folder).is_dir()] == []

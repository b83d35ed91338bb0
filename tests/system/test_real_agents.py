"""The table of `make real-agents`: what it runs is what users run, and it fails where a cell is wrong."""

from typing import Final

import pytest

from agentbus.protocol.json_codec import Json
from agentbus.protocol.outcomes.failure_codes import FAILURE_CODES
from agentbus.provision.agent_presets import PRESETS
from real_agents.__main__ import ALL_CASES, table
from real_agents.agents import ALL_AGENTS, cases_of
from real_agents.judging import expected, judged, of_agent

RUN: Final = ALL_AGENTS
STATUSES: Final = ("completed", "needs_approval", "cancelled")
REFUSED: Final[dict[str, Json]] = {
    "status": "failed", "failure": {"code": "auth", "message": "401: a bad key"}, "duration_seconds": 30.5,
}  # fmt: skip


def test_each_preset_is_run_with_its_own_command_in_the_version_that_it_names():
    assert {name: preset.command for name, preset in PRESETS.items()} == {
        name: one.command for name, one in RUN.items()
    }
    assert {name: preset.version for name, preset in PRESETS.items()} == {
        name: one.version for name, one in RUN.items()
    }


def test_each_cell_of_the_table_expects_a_status_or_a_code():
    rows = expected()
    assert sorted(rows) == sorted(ALL_CASES)
    found = [
        str(of_agent(agent, row["became"])).split(" or ")
        for agent in RUN
        for case, row in rows.items()
        if case in cases_of(agent)
    ]
    assert {one for each in found for one in each} <= {*STATUSES, *FAILURE_CODES}


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ({"became": "auth", "says": "Bad Key", "within_s": 20}, ""),
        ({"became": {"claude": "auth", "all": "empty"}}, ""),
        ({"became": "empty or auth"}, ""),
        ({"became": "empty"}, "expected empty"),
        ({"became": {"codex": "auth", "all": "completed"}}, "expected completed"),
        ({"became": "auth", "says": "quota"}, "does not say 'quota'"),
        ({"became": "auth", "within_s": 10}, "took longer than 10 s and twice as long as a run takes"),
        ({}, "expected None"),
    ],
)
def test_a_cell_is_wrong_where_code_words_or_time_are_others(row: dict[str, Json], wrong: str):
    cell = judged("claude", "auth", REFUSED, 8.0, row)
    assert (cell.became, cell.wrong) == ("auth", wrong)
    assert ("WRONG" in table([cell])) == bool(wrong)
    assert "| auth | " in table([cell])


def test_a_run_that_came_to_its_end_without_its_session_its_usage_or_its_transcript_is_wrong():
    result: dict[str, Json] = {"status": "completed", "result": "x", "duration_seconds": 1, "run": {"format": "claude",
                               "kind": "claude", "usage": {"input_tokens": 1}}}  # fmt: skip
    assert judged("claude", "ok", result, 1.0, {"became": "completed"}).wrong == "lacks session; lacks the transcript"

"""The numbers of docs/how-to/growing.md are those of the code: limits, shares, what is kept how long, tasks a day."""

import re

import pytest

from agentbus.bus.bounds.fill import NEARLY_FULL, WARNED_FROM
from agentbus.bus.topology import MAX_ACK_PENDING, Wanted, wanted_files, wanted_streams
from agentbus.bus.wanted.retention import DUPLICATE_WINDOW_DAYS, LEAST_RESULTS_DAYS
from agentbus.protocol.audit import names as audit
from agentbus.provision.bus_folder.accounts_conf import MAX_CONNECTIONS
from agentbus.provision.bus_folder.server_folder import DEFAULT_CONNECTIONS
from support.documentation import table
from support.harness import ROOT

pytestmark = pytest.mark.posix("the documentation is checked on one system")

GROWING = ROOT / "docs" / "how-to" / "growing.md"
GIB = 1 << 30
STREAMS = {one.name: one for one in wanted_streams(attested=True)}
ROWS = {
    "tasks that wait": ("AGENT_TASKS",),
    "results": ("AGENT_RESULTS",),
    "the ledger": ("KV_AGENT_STATE",),
    "dead letters": ("AGENT_DEAD",),
    "the registry": ("KV_AGENT_REGISTRY",),
    "the audit": audit.STREAMS,
}


def text() -> str:
    return GROWING.read_text(encoding="utf-8")


def number(cell: str) -> int:
    found = re.search(r"\d[\d,]*", cell)
    assert found, cell
    return int(found.group().replace(",", ""))


def age(stream: Wanted) -> str:
    seconds = stream.config["max_age"] // 10**9
    return f"{seconds} seconds" if seconds < 86_400 else f"{seconds // 86_400} days"


def test_the_limits_are_those_of_the_code() -> None:
    limits = {row[0]: number(row[1]) for row in table(GROWING, "Limits") if re.search(r"\d", row[1])}
    made = {name: stream.bounded(int(10 * GIB * stream.share)) for name, stream in STREAMS.items()}
    assert limits["connections of one agent"] == MAX_CONNECTIONS
    assert limits["connections in all"] == DEFAULT_CONNECTIONS
    assert limits["tasks of one agent in work"] == MAX_ACK_PENDING
    assert limits["ledger, results, tasks, dead letters"] == round(100 * NEARLY_FULL)
    assert limits["readers of one stream"] == STREAMS["AGENT_RESULTS"].config["max_consumers"]
    of_results = limits["results of one agent in one inbox"]
    assert of_results == made["AGENT_RESULTS"]["max_msgs_per_subject"]
    assert f"{of_results:,} results in 30 days, {of_results // 300 * 10:,} a day" in text()
    of_dead = limits["dead letters of one agent from one publisher"]
    assert of_dead == made["AGENT_DEAD"]["max_msgs_per_subject"]


def test_the_shares_of_the_storage_and_what_is_kept_how_long_are_those_of_set_up() -> None:
    listed = {row[0]: row for row in table(GROWING, "Disk") if len(row) == 4}
    for what, names in ROWS.items():
        streams = [STREAMS[name] for name in names]
        assert listed[what][1].startswith(age(streams[0])), what
        assert number(listed[what][3]) == round(100 * sum(one.share for one in streams)), what
    files = listed["files of large outputs"]
    assert files[1] == age(wanted_files("code"))
    assert number(files[3]) == round(100 * (1 - sum(one.share for one in STREAMS.values())))


def test_the_tasks_a_day_follow_from_the_shares() -> None:
    ledger, results = STREAMS["KV_AGENT_STATE"], STREAMS["AGENT_RESULTS"]
    for one, days, around in ((ledger, 38, "1.2"), (results, 30, "0.7")):
        assert f"`{NEARLY_FULL} * {one.share} * max_file / {days} / (s + {around} KB)`" in text().replace("\u00d7", "*")
    rows = [row for row in table(GROWING, "Disk") if len(row) == 3]
    assert len(rows) == 3
    for size_cell, of_one_gib, of_ten in rows:
        size = number(size_cell) * 1000
        per_day = NEARLY_FULL * min(
            ledger.share * GIB / 38 / (size + 1_200),
            results.share * GIB / 30 / (size + 700),
        )
        assert number(of_one_gib) == pytest.approx(per_day, rel=0.04)
        assert number(of_ten) == 10 * number(of_one_gib)


def test_the_marks_and_the_least_ages_are_those_of_the_code() -> None:
    assert f"From {WARNED_FROM:.0%} on".replace("%", " %") in text()
    assert f"From {NEARLY_FULL:.0%} of the ledger".replace("%", " %") in text()
    assert f"`--keep-results`: at least {LEAST_RESULTS_DAYS} days" in text()
    assert f"At least {DUPLICATE_WINDOW_DAYS} days longer than results" in text()

"""The table of permissions, and what is made from it. UPDATE_SNAPSHOTS=1 writes the sample and the page anew."""

import itertools
import os
import re
from pathlib import Path

import pytest

from agentbus.protocol import subjects
from agentbus.protocol.permissions import Party, administrator, coordinator, tasking, trusting_worker, worker
from agentbus.provision.bus_folder.accounts_conf import permission_lists
from support.harness import ROOT
from support.overlapping import meet

CONF = ROOT / "config" / "nats-server.conf"
PAGE = ROOT / "docs" / "explanation" / "security.md"
AGENTS = ("code", "doc")
SAMPLE = {
    "ADMIN": administrator(),
    "MAIN": coordinator("main", "operator", AGENTS),
    **{agent.upper(): trusting_worker(agent) for agent in AGENTS},
}
PARTIES = [
    administrator(),
    coordinator("main", "operator", AGENTS),
    coordinator("carol", "operator", AGENTS),
    coordinator("alice", "member", AGENTS),
    coordinator("bob", "viewer", AGENTS),
    worker("code"),
    worker("doc"),
    worker("code", ["doc", "ops"]),
]
_BEGIN, _END = "<!-- permissions: begin -->\n", "<!-- permissions: end -->\n"


def compared(path: Path, old: str, new: str) -> None:
    """Compare a piece of a file with what it should be, or write it there."""
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    else:
        assert old == new, (
            f"{path.name} differs from the table: UPDATE_SNAPSHOTS=1 pytest tests/protocol/test_permissions.py"
        )


@pytest.mark.parametrize("name", SAMPLE)
def test_the_sample_grants_what_the_table_says(name: str) -> None:
    found = re.search(rf"^{name}: (\{{\n.*?^\}})$", CONF.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    compared(CONF, found[0], f"{name}: {permission_lists(SAMPLE[name])}")


def test_the_sample_names_what_an_agent_needs_to_give_tasks_to_another() -> None:
    text = CONF.read_text(encoding="utf-8").partition("To let it give tasks to the agent `doc`")[2]
    named = re.findall(r'^#   "(.*)"$', text.partition("\nCODE:")[0], re.MULTILINE)
    wanted = [subject for grant in tasking("doc") for subject in grant.subjects]
    assert named == wanted


def rows(party: Party, who: str) -> list[str]:
    return [
        f"| {who} | {grant.purpose} | {grant.how} | {' '.join(f'`{subject}`' for subject in grant.subjects)} |"
        for grant in party.grants
    ]


def test_the_page_on_security_shows_the_table() -> None:
    with_doc = worker("<id>", ["<other>"])
    more = Party("<id>", tuple(grant for grant in with_doc.grants if grant not in worker("<id>").grants))
    lines = [
        "| who | what for | how | subjects |",
        "|---|---|---|---|",
        *rows(administrator(), "administrator"),
        *rows(coordinator("main", "operator", ["<id>"]), "operator `main`"),
        *rows(coordinator("<me>", "member", ["<id>"]), "member `<me>`"),
        *rows(coordinator("<me>", "viewer", ["<id>"]), "viewer `<me>`"),
        *rows(worker("<id>"), "worker of `<id>`"),
        *rows(more, "the same, with `--may-task <other>`"),
    ]
    text = PAGE.read_text(encoding="utf-8")
    assert _BEGIN in text
    old = text.partition(_BEGIN)[2].partition(_END)[0]
    compared(PAGE, _BEGIN + old, _BEGIN + "\n".join(lines) + "\n")


# -- properties that the accounts rely on -----------------------------------------------------------------------


@pytest.mark.parametrize("party", PARTIES, ids=lambda party: f"{party.id}-{len(party.grants)}")
def test_no_two_subjects_of_a_party_meet(party: Party) -> None:
    # Each is imported by itself: what two imports matched, the bus would get twice.
    for one, other in itertools.combinations(party.publish, 2):
        assert not meet(one, other), f"{one} and {other}"


def test_a_worker_is_granted_nothing_that_another_agents_worker_is_but_the_inboxes() -> None:
    common = {
        (one, other)
        for one, other in itertools.product(worker("code").publish, worker("doc").publish)
        if meet(one, other)
    }
    assert common == {(subjects.RESULT_SUBJECTS, subjects.RESULT_SUBJECTS)}


@pytest.mark.parametrize("party", PARTIES[1:], ids=lambda party: f"{party.id}-{len(party.grants)}")
@pytest.mark.parametrize("verb", ["STREAM.CREATE", "STREAM.UPDATE", "STREAM.DELETE", "STREAM.PURGE", "CONSUMER.DELETE"])
def test_only_the_administrator_makes_and_deletes(party: Party, verb: str) -> None:
    assert not [subject for subject in party.publish if meet(subject, f"$JS.API.{verb}.>")]


def test_giving_tasks_to_another_agent_adds_nothing_else_about_it() -> None:
    added = set(worker("code", ["doc"]).publish) - set(worker("code").publish)
    about_doc = {subject for subject in added if "doc" in subject}
    assert added - about_doc == {
        "$JS.API.STREAM.INFO.AGENT_TASKS",
        "$JS.API.CONSUMER.MSG.NEXT.KV_AGENT_STATE.*",
        "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.*.agent.code.>",
        "$JS.API.CONSUMER.MSG.NEXT.AGENT_RESULTS.*",
    }
    assert not [subject for subject in about_doc if "agent-doc" in subject or "results" in subject]


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("agent.*.heartbeat", "agent.code.heartbeat", True),
        ("agent.*.progress.>", "agent.code.progress.>", True),
        ("agent.code.progress.>", "agent.*.progress.>", False),
        ("agent.>", "agent.code.tasks", True),
        ("agent.>", "agent", False),
        ("agent.*", "agent.code.tasks", False),
        ("agent.*.tasks", "agent.>", False),
        ("agent.*.tasks", "agent.*.tasks", True),
        ("agent.code.tasks", "agent.*.tasks", False),
        ("agent.code.tasks", "agent.code", False),
    ],
)
def test_one_subject_covers_another(wide: str, narrow: str, covered: bool) -> None:
    assert subjects.covers(wide, narrow) is covered

"""The table of permissions, and what is made from it. UPDATE_SNAPSHOTS=1 writes the sample and the page anew."""

import itertools
import os
import re
from pathlib import Path

import pytest

from agentbus.protocol import subjects
from agentbus.protocol.accounts import LAYOUT_WITH_WHOLE_LEDGER, covers
from agentbus.protocol.audit import names as audit
from agentbus.protocol.parties.party import Party
from agentbus.protocol.permissions import administrator, coordinator, trusting_worker, worker
from agentbus.provision.bus_folder.accounts_conf import permission_lists
from support.harness import ROOT
from support.overlapping import meet

CONF = ROOT / "config" / "nats-server.conf"
PAGE = ROOT / "docs" / "explanation" / "security.md"
AGENTS = ("code", "doc")
ONE_LEDGER = LAYOUT_WITH_WHOLE_LEDGER
"""The sample has one account for all, and one ledger."""
SAMPLE = {
    "ADMIN": administrator(),
    "MAIN": coordinator("main", "operator", AGENTS, layout=ONE_LEDGER),
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


COMMENTED = {
    "# alone. It subscribes to": coordinator("alice", "member", ["code"], layout=ONE_LEDGER).publish,
    "# To let it give tasks to the agent `doc`": tuple(
        subject
        for subject in worker("code", ["doc"], layout=ONE_LEDGER).publish
        if subject not in trusting_worker("code").publish
    ),
}


@pytest.mark.parametrize("begin", COMMENTED)
def test_the_sample_names_what_members_need(begin: str) -> None:
    found = re.search(re.escape(begin) + r".*\n((?:#   \".*\"\n)+)", CONF.read_text(encoding="utf-8"))
    assert found
    wanted = "".join(f'#   "{subject}"\n' for subject in COMMENTED[begin])
    compared(CONF, found[0], found[0].replace(found[1], wanted))


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
    met = [pair for pair in itertools.combinations(party.publish, 2) if meet(*pair)]
    assert met == []


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
    assert about_doc == {
        "agent.doc.tasks.code",
        "agent.doc.control",
        "$KV.AGENT_STATE.doc.~code.>",
        "$JS.API.STREAM.INFO.KV_AGENT_STATE_doc",
        "$JS.API.DIRECT.GET.KV_AGENT_STATE.$KV.AGENT_STATE.doc.~code.>",
        "$JS.API.CONSUMER.CREATE.KV_AGENT_STATE_doc.*.$KV.AGENT_STATE.doc.~code.>",
        "$JS.API.CONSUMER.MSG.NEXT.KV_AGENT_STATE_doc.*",
        "$JS.API.DIRECT.GET.OBJ_AGENT_FILES_doc.$O.AGENT_FILES_doc.M.~code.>",
        "$JS.API.CONSUMER.CREATE.OBJ_AGENT_FILES_doc.*.$O.AGENT_FILES_doc.C.~code.>",
        "$JS.API.CONSUMER.MSG.NEXT.OBJ_AGENT_FILES_doc.*",
        "$JS.API.DIRECT.GET.AGENT_PROGRESS_doc.agent.doc.progress.~code.>",
        "$JS.API.CONSUMER.CREATE.AGENT_PROGRESS_doc.*.agent.doc.progress.~code.>",
        "$JS.API.CONSUMER.MSG.NEXT.AGENT_PROGRESS_doc.*",
        "$O.AGENT_INPUTS_doc.C.~code.>",
        "$O.AGENT_INPUTS_doc.M.~code.>",
    }
    of_every_member = {subject for subject in coordinator("code", "member", []).publish if "$KV.AGENT_STATE" in subject}
    assert added - about_doc <= set(coordinator("code", "member", []).publish)
    # What it wrote and read as a worker covers the records of MCP tasks.
    assert of_every_member - added == {
        "$KV.AGENT_STATE.code.*",
        "$JS.API.DIRECT.GET.KV_AGENT_STATE.$KV.AGENT_STATE.code.*",
    }


def test_every_grant_of_a_member_that_could_reach_another_owner_bears_its_name() -> None:
    common = {*coordinator("alice", "member", AGENTS).publish} & {*coordinator("dave", "member", AGENTS).publish}
    assert {subject for subject in common if "MSG.NEXT" not in subject} == {
        *(f"agent.{agent}.control" for agent in AGENTS),  # a request that is in no ledger is not obeyed
        "$JS.API.STREAM.INFO.AGENT_TASKS",
        "$JS.API.STREAM.INFO.AGENT_RESULTS",
        "$JS.API.STREAM.LIST",  # shows which streams there are, and how full
        *(f"$JS.API.STREAM.INFO.KV_AGENT_STATE_{agent}" for agent in AGENTS),  # which tasks there are, and nothing more
        "$JS.API.CONSUMER.LIST.AGENT_TASKS",
        "$JS.API.CONSUMER.CREATE.KV_AGENT_REGISTRY.*.$KV.AGENT_REGISTRY.>",
        "$JS.API.CONSUMER.CREATE.KV_AGENT_CONTROL.*.$KV.AGENT_CONTROL.>",  # shows which agents are paused
        *audit.SAID,  # stored under the id of the party
    }


def test_a_viewer_may_only_ask() -> None:
    granted = coordinator("bob", "viewer", AGENTS)
    asking = ("DIRECT.GET.", "CONSUMER.CREATE.", "CONSUMER.MSG.NEXT.", "CONSUMER.LIST.", "STREAM.INFO.", "STREAM.LIST")
    assert [subject for subject in granted.publish if not subject.startswith(tuple(map(subjects.api, asking)))] == []
    assert granted.of("tell") == ()


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
    assert covers(wide, narrow) is covered

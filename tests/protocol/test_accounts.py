"""Which account of a bus a subject lies in, and that the imports of no party meet across the two."""

import itertools

import pytest

from agentbus.protocol import accounts, subjects
from agentbus.protocol.parties.party import Party
from agentbus.protocol.permissions import administrator, coordinator, within, worker
from support.overlapping import meet

AGENTS = ("code", "AGENT_TASKS")
PARTIES = [
    coordinator("main", "operator", AGENTS),
    coordinator("ann", "operator", AGENTS),
    coordinator("alice", "member", AGENTS),
    coordinator("AGENT_TASKS", "viewer", AGENTS),
    worker("code"),
    worker("AGENT_TASKS", ["code"]),
]


@pytest.mark.parametrize(
    "subject",
    [
        "agent.code.tasks",
        "agent.*.tasks",
        "agent.*.tasks.main",
        "agent.code.tasks.alice",
        "$JS.API.STREAM.INFO.AGENT_TASKS",
        "$JS.API.STREAM.MSG.GET.AGENT_TASKS",
        "$JS.API.STREAM.CREATE.AGENT_TASKS",
        "$JS.API.STREAM.RESTORE.AGENT_TASKS",
        "$JS.API.CONSUMER.LIST.AGENT_TASKS",
        "$JS.API.CONSUMER.INFO.AGENT_TASKS.agent-code",
        "$JS.API.CONSUMER.CREATE.AGENT_TASKS.agent-code.agent.code.tasks",
        "$JS.API.CONSUMER.MSG.NEXT.AGENT_TASKS.tasks-code",
        "$JS.API.DIRECT.GET.AGENT_TASKS.agent.code.tasks",
        "$JS.ACK.AGENT_TASKS.agent-code.1.2.3.4.5",
        "$JS.ACK._.hash.AGENT_TASKS.agent-code.1.2.3.4.5.x",
        "$JS.SNAPSHOT.ACK.AGENT_TASKS.x",
    ],
)
def test_what_concerns_the_queue_lies_in_its_account(subject: str) -> None:
    assert accounts.account_of(subject) == accounts.TASKS


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.INFO.AGENT_TASKS_2",
        "$JS.API.CONSUMER.MSG.NEXT.AGENT_RESULTS.AGENT_TASKS",
        "$JS.API.DIRECT.GET.KV_AGENT_STATE.$KV.AGENT_STATE.AGENT_TASKS.job",
        "$KV.AGENT_STATE.AGENT_TASKS.tasks",
        "agent.tasks.results",
        "agent.code.dead.tasks",
        "agent.code.results.tasks",
        "$JS.ACK.KV_AGENT_STATE.AGENT_TASKS.1.2.3.4.5",
        "agent.code.tasks.alice.more",
        "_INBOX_admin.AGENT_TASKS",
    ],
)
def test_everything_else_lies_in_the_other_one(subject: str) -> None:
    assert accounts.account_of(subject) == accounts.BUS


@pytest.mark.parametrize("party", PARTIES, ids=lambda party: f"{party.id}-{len(party.grants)}")
def test_no_subject_that_a_party_imports_lies_in_both_accounts(party: Party) -> None:
    # With one that did, both accounts would answer, and the first answer would count.
    sent = (*party.of("send"), *party.of("pull"))
    for one, other in itertools.combinations(sent, 2):
        if accounts.account_of(one) != accounts.account_of(other):
            assert not meet(one, other), f"{one} and {other}"


@pytest.mark.parametrize("party", PARTIES, ids=lambda party: f"{party.id}-{len(party.grants)}")
def test_no_party_may_make_a_consumer_in_the_account_of_the_queue(party: Party) -> None:
    made = subjects.create_consumer(subjects.TASKS_STREAM, "*", ">")
    assert not [subject for subject in party.publish if meet(subject, made)]


def test_the_administrator_requeues_in_the_account_of_the_queue_alone() -> None:
    of_queue = within(administrator(), accounts.TASKS)
    of_rest = within(administrator(), accounts.BUS)
    assert of_queue == administrator()
    assert set(of_queue.publish) - set(of_rest.publish) == {"agent.*.tasks", "agent.*.tasks.*"}
    assert of_rest.subscribe == of_queue.subscribe

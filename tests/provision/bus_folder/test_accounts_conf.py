"""The accounts of a bus: how long it takes to write them, and which core messages pass between them."""

import re
import time

import pytest

from agentbus.protocol import permissions
from agentbus.provision.bus_folder.accounts_conf import Login, StreamsAccount, accounts_block

NKEY = "U" * 56


def block(*parties: permissions.Party) -> str:
    administrator = Login(permissions.administrator(), nkey=NKEY)
    streams = [
        StreamsAccount("TASKS", administrator, "256MB", "10GB"),
        StreamsAccount("BUS", administrator, "256MB", "10GB"),
    ]
    return accounts_block(streams, [Login(party, nkey=NKEY) for party in parties])


def bus_of(agents: int) -> list[permissions.Party]:
    names = [f"a{number}" for number in range(agents)]
    return [permissions.coordinator("main", "operator", names), *(permissions.worker(name) for name in names)]


def seconds(parties: list[permissions.Party]) -> float:
    """The processor time of the fastest of three."""
    times: list[float] = []
    for _ in range(3):
        start = time.process_time()
        block(*parties)
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.long
def test_four_times_the_agents_take_about_four_times_as_long():
    few, many = seconds(bus_of(150)), seconds(bus_of(600))
    # Comparing each pair of parties would take sixteen times as long.
    assert many < 8 * few, f"150 agents: {few:.3f} s, 600 agents: {many:.3f} s"


def part(text: str, account: str, name: str) -> str:
    """The imports or exports of one account."""
    found = re.search(rf'^  "?{account}"?: \{{\n.*?^  \}}', text, re.MULTILINE | re.DOTALL)
    assert found is not None
    inner = re.search(rf"^    {name}: \[(.*?)^    \]", found[0], re.MULTILINE | re.DOTALL)
    assert inner is not None
    return inner[1]


def test_a_member_is_told_of_life_by_every_agent_and_tells_only_its_own_to_cancel():
    text = block(
        permissions.coordinator("alice", "member", ["doc"]), permissions.worker("code"), permissions.worker("doc")
    )
    told = part(text, "agent-alice", "exports")
    assert "agent.doc.control" in told
    assert "agent.code" not in told
    assert "agent.code.heartbeat" in part(text, "agent-code", "exports")
    assert "agent.doc.control" in part(text, "agent-doc", "imports")
    assert "agent.doc.control" not in part(text, "agent-code", "imports")


def test_a_worker_that_may_give_tasks_to_another_agent_hears_it_and_not_itself():
    text = block(permissions.worker("code", ["doc"]), permissions.worker("doc"))
    heard = part(text, "agent-code", "imports")
    assert 'account: "agent-doc"' in heard
    assert 'account: "agent-code"' not in heard

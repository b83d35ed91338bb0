"""Named coordinators in a bus folder: added with a role, listed, rotated and removed, by the commands too."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from agentbus.errors import ConfigError
from agentbus.provision.bus_folder.folder import BusFolder, Kind
from agentbus.provision.bus_folder.manifest import NEWEST_LAYOUT
from agentbus.provision.bus_folder.new_bus import create
from agentbus.provision.nats_server import find_binary
from support.harness import Ran, run_cli
from support.installation import PLAN

pytestmark = pytest.mark.posix("not tried on Windows")


@pytest.fixture
def bus(tmp_path: Path) -> BusFolder:
    return create(tmp_path / "bus", PLAN, ["code", "doc"])


def accounts(bus: BusFolder) -> str:
    return (bus.path / "accounts.conf").read_text(encoding="utf-8")


def account(bus: BusFolder, name: str) -> str:
    """The account of one party."""
    return accounts(bus).partition(f'\n  "agent-{name}": {{')[2].partition("\n  }")[0]


def test_coordinators_are_stored_with_their_roles_and_agents(bus: BusFolder) -> None:
    bus.add_coordinator("alice", agents=["doc", "code", "doc"])
    bus.add_coordinator("bob", "viewer")
    bus.add_coordinator("carol", "operator")
    bus.add_coordinator("dave")
    again = BusFolder(bus.path)
    assert again.agents == ("code", "doc")
    assert [(name, again.role(name), again.agents_of(name)) for name in again.coordinators] == [
        ("main", "operator", None),
        ("alice", "member", ("doc", "code")),
        ("bob", "viewer", ()),
        ("carol", "operator", None),
        ("dave", "member", None),
    ]
    text = (bus.path / "bus.toml").read_text(encoding="utf-8")
    assert 'role = "member"\nagents = ["doc", "code"]' in text
    assert "role" not in text.partition("[party.main]")[2].partition("[")[0]
    checked = subprocess.run(
        [find_binary(), "-t", "-c", bus.servers[0].configuration], check=False, capture_output=True
    )
    assert checked.returncode == 0, checked.stderr


def test_a_member_of_all_agents_gets_those_that_are_added_later_and_no_other_member_does(bus: BusFolder) -> None:
    bus.add_coordinator("alice", agents=["code"])
    bus.add_coordinator("dave")
    bus.add("review")
    assert '"agent.review.tasks.dave"' in account(bus, "dave")
    assert {one for one in re.findall('"([^"]+)"', account(bus, "alice")) if "review" in one} == SEEN_OF_REVIEW
    assert '"agent.code.tasks.alice"' in account(bus, "alice")


SEEN_OF_REVIEW = {
    "agent-review",
    "agent.review.heartbeat",
    "$JS.API.DIRECT.GET.KV_AGENT_STATE.$KV.AGENT_STATE.review.~alice.>",
    "$JS.API.DIRECT.GET.KV_AGENT_STATE_review.$KV.AGENT_STATE.review.~alice.>",
    "$JS.API.CONSUMER.CREATE.KV_AGENT_STATE_review.*.$KV.AGENT_STATE.review.~alice.>",
    "$JS.API.CONSUMER.MSG.NEXT.KV_AGENT_STATE_review.*",
}
"""What a member has of an agent that it may give no tasks to: also the states of those that it gave to it before."""


def test_a_member_whose_last_agent_was_removed_has_none_and_not_all(bus: BusFolder) -> None:
    bus.add_coordinator("alice", agents=["code"])
    bus.remove("code")
    again = BusFolder(bus.path)
    assert again.agents_of("alice") == ()
    assert ".tasks" not in account(again, "alice")
    assert again.bundle("alice", "coordinator").agents == ()


def test_a_new_credential_keeps_role_and_agents(bus: BusFolder) -> None:
    bus.add_coordinator("alice", agents=["code"])
    secret, before = bus.secret_file("alice").read_text(encoding="utf-8"), account(bus, "alice")
    key = before.partition("nkey: ")[2].partition(",")[0]
    bus.rotate("alice", "coordinator")
    assert bus.secret_file("alice").read_text(encoding="utf-8") != secret
    assert key not in account(bus, "alice")
    assert (bus.role("alice"), bus.agents_of("alice")) == ("member", ("code",))


def test_a_removed_coordinator_leaves_no_credential_and_no_right(bus: BusFolder) -> None:
    before = accounts(bus)
    bus.add_coordinator("alice")
    bus.remove("alice", "coordinator")
    assert BusFolder(bus.path).coordinators == ("main",)
    assert not bus.secret_file("alice").exists()
    assert accounts(bus) == before


def test_accounts_have_the_connections_of_their_roles(bus: BusFolder) -> None:
    bus.add_coordinator("alice")
    bus.add_coordinator("bob", "viewer")
    assert "max_connections: 64, max_subscriptions: 256 " in account(bus, "alice")
    assert "max_connections: 16, max_subscriptions: 256 " in account(bus, "bob")
    path = bus.path / "bus.toml"
    for wanted in (8, 500):
        text = "".join(
            line for line in path.read_text(encoding="utf-8").splitlines(True) if "max_connections" not in line
        )
        path.write_text(text.replace("[bus]\n", f"[bus]\nmax_connections = {wanted}\n"), encoding="utf-8")
        changed = BusFolder(bus.path)
        changed.rotate("bob", "coordinator")
        assert f"max_connections: {wanted}, " in account(changed, "alice")
        assert f"max_connections: {min(wanted, 16)}, " in account(changed, "bob")


@pytest.mark.parametrize(
    ("name", "role", "agents", "reason"),
    [
        (
            "alice",
            "member",
            None,
            "the coordinator alice has credentials already; new ones: agentbus coordinator rotate",
        ),
        ("code", "member", None, "this bus has the agent code; give the coordinator another id"),
        ("main", "operator", None, "no coordinator can be called main: that is a party of every bus"),
        ("admin", "operator", None, "no coordinator can be called admin"),
        ("Alice", "member", None, "Alice and alice differ only in case"),
        ("Code", "viewer", None, "Code and code differ only in case"),
        ("ADMIN", "viewer", None, "ADMIN and admin differ only in case"),
        ("bob", "member", ("absent",), "there is no agent absent that bob could give tasks to"),
        ("bob", "member", ("alice",), "there is no agent alice that bob could give tasks to"),
        ("bob", "viewer", ("code",), "only members have a list of agents: leave out --agent, or the role viewer"),
        ("bob", "operator", (), "only members have a list of agents"),
    ],
)
def test_a_coordinator_that_cannot_be_added_is_refused(
    bus: BusFolder, name: str, role: str, agents: tuple[str, ...] | None, reason: str
) -> None:
    bus.add_coordinator("alice")
    before = accounts(bus)
    with pytest.raises(ConfigError, match=reason):
        bus.add_coordinator(name, role, agents)  # pyright: ignore[reportArgumentType]
    assert accounts(bus) == before
    assert BusFolder(bus.path).coordinators == ("main", "alice")


def test_an_agent_cannot_have_the_id_of_a_coordinator_or_give_it_tasks(bus: BusFolder) -> None:
    bus.add_coordinator("alice")
    with pytest.raises(ConfigError, match="this bus has the coordinator alice; give the agent another id"):
        bus.add("alice")
    with pytest.raises(ConfigError, match="ALICE and alice differ only in case"):
        bus.add("ALICE")
    with pytest.raises(ConfigError, match="there is no agent alice that lead could give tasks to"):
        bus.add("lead", ["alice"])


def test_a_bus_of_an_older_layout_gets_no_named_coordinator(bus: BusFolder) -> None:
    path = bus.path / "bus.toml"
    lines = (
        path.read_text(encoding="utf-8").replace(f"version = {NEWEST_LAYOUT}", "version = 1").splitlines(keepends=True)
    )
    path.write_text("".join(line for line in lines if not line.startswith("tasks_")), encoding="utf-8")
    older = BusFolder(bus.path)
    older.add("lead", ["code"])
    with pytest.raises(ConfigError, match=r"is older than named coordinators; agentbus init --upgrade"):
        older.add_coordinator("alice")
    # An agent gives tasks there as it did before, without its name in the subject.
    assert '"agent.code.tasks"' in account(older, "lead")
    assert "~lead" not in account(older, "lead")


@pytest.mark.parametrize("verb", ["rotate", "remove", "bundle"])
@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("agent", "alice", "alice is no agent of this bus; use: agentbus coordinator {verb} alice"),
        ("coordinator", "code", "code is no coordinator of this bus; use: agentbus agent {verb} code"),
        ("coordinator", "bob", r"there is no coordinator bob on this bus \(there are: main, alice\); add it first"),
        ("agent", "bob", r"there is no agent bob on this bus \(there are: code, doc\); add it first"),
    ],
)
def test_a_command_for_the_other_kind_of_party_is_refused_with_the_right_one(
    bus: BusFolder, verb: str, kind: Kind, name: str, reason: str
) -> None:
    bus.add_coordinator("alice")
    before = accounts(bus)
    with pytest.raises(ConfigError, match=reason.format(verb=verb)):
        getattr(bus, verb)(name, kind)
    assert accounts(bus) == before


def test_main_can_be_rotated_and_bundled_as_a_coordinator_and_the_administrator_cannot(bus: BusFolder) -> None:
    bus.rotate("main", "coordinator")
    assert bus.bundle("main", "coordinator").role == "coordinator"
    with pytest.raises(
        ConfigError, match=r"main is a party of every bus and stays; .* agentbus coordinator rotate main"
    ):
        bus.remove("main", "coordinator")
    with pytest.raises(ConfigError, match="admin is no coordinator of this bus; use: agentbus agent rotate admin"):
        bus.rotate("admin", "coordinator")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('role = "member"', 'role = "king"'),
        ('role = "member"', 'role = "viewer"'),
        ('role = "member"', ""),
        ('role = "member"', 'role = "member"\nmay_task = ["doc"]'),
        ("[party.main]", '[party.main]\nrole = "viewer"'),
        ("[party.admin]", '[party.admin]\nrole = "member"'),
    ],
)
def test_a_list_of_parties_with_a_role_that_cannot_be_is_refused(bus: BusFolder, old: str, new: str) -> None:
    bus.add_coordinator("alice", agents=["code"])
    path = bus.path / "bus.toml"
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bus.toml is damaged"):
        BusFolder(bus.path)


# -- the commands -----------------------------------------------------------------------------------------------


async def coordinator(bus: BusFolder, *words: str) -> Ran:
    return await run_cli("coordinator", *words, "--bus", str(bus.path))


async def test_adding_a_coordinator_says_to_reload_twice_and_how_to_make_its_file(bus: BusFolder) -> None:
    ran = await coordinator(bus, "add", "alice", "--agent", "code")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("added alice as member; reload the server, twice:\n")
    assert ran.out.count("--signal") == 2
    assert f"agentbus coordinator bundle alice --bus {bus.path}" in ran.out
    assert f"then make its ledger:\n  agentbus setup --config {bus.administrator}\n" in ran.out
    viewer = await coordinator(bus, "add", "bob", "--role", "viewer")
    assert (viewer.code, "setup" in viewer.out) == (0, False)
    assert BusFolder(bus.path).agents_of("alice") == ("code",)


async def test_changes_of_a_coordinator_say_to_reload_once(bus: BusFolder) -> None:
    bus.add_coordinator("alice")
    for verb in ("rotate", "remove"):
        ran = await coordinator(bus, verb, "alice")
        assert ran.code == 0, ran.err
        assert ran.out.count("--signal") == 1
        assert (f"agentbus coordinator bundle alice --bus {bus.path}" in ran.out) == (verb == "rotate")
    assert BusFolder(bus.path).coordinators == ("main",)


async def test_the_list_shows_roles_and_agents(bus: BusFolder) -> None:
    bus.add_coordinator("alice", agents=["code"])
    bus.add_coordinator("bob", "viewer")
    ran = await coordinator(bus, "list")
    assert list(map(json.loads, ran.out.splitlines())) == [
        {"coordinator": "main", "role": "operator", "agents": None},
        {"coordinator": "alice", "role": "member", "agents": ["code"]},
        {"coordinator": "bob", "role": "viewer", "agents": []},
    ]


async def test_a_bundle_that_a_command_wrote_makes_the_configuration_of_its_coordinator(
    bus: BusFolder, tmp_path: Path
) -> None:
    bus.add_coordinator("alice", agents=["code"])
    path = tmp_path / "alice.bundle"
    ran = await coordinator(bus, "bundle", "alice", "--output", str(path))
    assert (ran.code, f"agentbus coordinator init --bundle {path.name}" in ran.out) == (0, True), ran
    assert "# What the coordinator alice (member) needs to join the bus." in path.read_text(encoding="utf-8")
    ran = await run_cli("coordinator", "init", "--bundle", str(path), "--folder", str(tmp_path / "here"))
    assert ran.code == 0, ran.err
    made = (tmp_path / "here" / "coordinator.toml").read_text(encoding="utf-8")
    assert made.endswith('[coordinator]\nid = "alice"\nrole = "member"\nagents = ["code"]\n')
    ran = await run_cli(
        "worker", "init", "--bundle", str(path), "--folder", str(tmp_path / "here"), "--preset", "claude"
    )
    assert (ran.code, "this bundle is for the coordinator alice" in ran.err) == (1, True), ran.err

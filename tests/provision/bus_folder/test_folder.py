"""Changes of the parties of a bus: added, rotated and removed."""

from pathlib import Path

import pytest

from agentbus.errors import ConfigError
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.new_bus import create
from support.installation import PLAN

pytestmark = pytest.mark.posix("not tried on Windows")


@pytest.fixture
def bus(tmp_path: Path) -> BusFolder:
    return create(tmp_path / "bus", PLAN, ["code", "doc"])


@pytest.mark.parametrize(
    ("agent", "may_task", "reason"),
    [
        ("code", (), "has credentials already; new ones: agentbus agent rotate code"),
        ("main", (), "no agent can be called main"),
        ("admin", (), "no agent can be called admin"),
        ("Code", (), "differ only in case"),
        ("lead", ("absent",), "there is no agent absent that lead could give tasks to"),
        ("lead", ("lead",), "there is no agent lead that lead could give tasks to"),
    ],
)
def test_an_agent_that_cannot_be_added_is_refused(
    bus: BusFolder, agent: str, may_task: tuple[str, ...], reason: str
) -> None:
    before = (bus.path / "accounts.conf").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=reason):
        bus.add(agent, may_task)
    assert (bus.path / "accounts.conf").read_text(encoding="utf-8") == before


def test_changes_of_the_parties_are_stored_in_the_folder(bus: BusFolder) -> None:
    bus.add("lead", ["doc", "code", "doc"])
    again = BusFolder(bus.path)
    assert (again.agents, again.may_task("lead")) == (("code", "doc", "lead"), ("doc", "code"))
    again.remove("doc")
    last = BusFolder(bus.path)
    assert (last.agents, last.may_task("lead")) == (("code", "lead"), ("code",))
    assert not last.secret_file("doc").exists()
    assert "agent-doc" not in (bus.path / "accounts.conf").read_text(encoding="utf-8")


def test_an_agent_whose_credential_cannot_be_deleted_is_removed_and_the_file_is_named(bus: BusFolder) -> None:
    secret = bus.secret_file("doc")
    secret.unlink()
    secret.mkdir()
    with pytest.raises(ConfigError, match=f"doc is removed, but {secret} cannot be deleted: .*; delete it"):
        bus.remove("doc")
    assert BusFolder(bus.path).agents == ("code",)


@pytest.mark.parametrize("name", ["absent", "doc.x"])
def test_a_change_of_an_unknown_party_is_an_error_that_names_it(bus: BusFolder, name: str) -> None:
    for change in (bus.remove, bus.rotate, bus.bundle):
        with pytest.raises(ConfigError, match=f"there is no agent {name} on this bus"):
            change(name)


@pytest.mark.parametrize("name", ["main", "admin"])
def test_the_coordinator_and_the_administrator_can_be_rotated_and_not_removed(bus: BusFolder, name: str) -> None:
    files = [bus.secret_file(name), *([bus.tasks_secret_file] if name == "admin" and bus.tasks_secret_file else [])]
    old = [file.read_text(encoding="utf-8") for file in files]
    assert len(set(old)) == (2 if name == "admin" else 1)
    bus.rotate(name)
    assert not set(old) & {file.read_text(encoding="utf-8") for file in files}
    with pytest.raises(ConfigError, match="is a party of every bus and stays"):
        bus.remove(name)

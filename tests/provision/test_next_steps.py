"""The commands that an operator is told to run next: they work as they are printed."""

import shlex
from pathlib import Path

import pytest

from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.new_bus import create
from agentbus.provision.join import join_as_coordinator, join_as_worker
from support.in_process import run_here
from support.installation import FAKE, PLAN

pytestmark = pytest.mark.posix("not tried on Windows")


def commands(printed: str, beginning: str) -> list[list[str]]:
    """The printed commands that begin like this, in words."""
    lines = [line.strip() for line in printed.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith(beginning)]


@pytest.mark.parametrize(("kind", "name"), [("agent", "code"), ("agent", "main"), ("coordinator", "alice")])
def test_what_rotate_prints_works_where_the_first_bundle_lies_there_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    bus = create(tmp_path / "bus", PLAN, ["code"])
    bus.add_coordinator("alice")
    first = run_here(kind, "bundle", name, "--bus", str(bus.path))
    assert "then delete it, here and there" in first.out
    party = "coordinator" if kind == "coordinator" else "agent"
    if name == "code":
        join_as_worker(bus.bundle(name), tmp_path / "there", FAKE)
    else:
        join_as_coordinator(bus.bundle(name, party), tmp_path / "there")
    again = run_here(kind, "bundle", name, "--bus", str(bus.path))
    assert f"{name}.bundle exists already" in str(again.error)
    assert f"--output {name}-2.bundle" in str(again.error)

    rotated = run_here(kind, "rotate", name, "--bus", str(bus.path))
    [bundle] = commands(rotated.out, f"agentbus {kind} bundle {name} ")
    assert run_here(*bundle).error is None
    [join] = commands(rotated.out, "agentbus worker init" if name == "code" else "agentbus coordinator init")
    ran = run_here(*join, "--folder", str(tmp_path / "there"))
    assert ran.error is None, ran
    secret = (tmp_path / "there" / f"{name}.nk").read_text(encoding="utf-8")
    assert secret.strip() == BusFolder(bus.path).secret_file(name).read_text(encoding="utf-8").strip()

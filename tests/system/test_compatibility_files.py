"""A bus folder, a bundle and the streams that one version made are used by the commands and workers of the other.

But an earlier version refuses a folder and an administrator's configuration of a newer layout, which it would damage.
"""

import json
import shlex
import sys
from pathlib import Path

import pytest

from agentbus import connect
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.join import COORDINATOR_FILE, WORKER_FILE
from agentbus.provision.nats_server import run_server
from support.free_ports import free_port
from support.harness import FAKE_AGENT, run_cli, worker
from support.jobs import outcome, text
from support.old_version import OldVersion

pytestmark = pytest.mark.posix("a worker needs process groups and signals")

Env = dict[str, str]


async def run(env: Env, *args: str) -> str:
    ran = await run_cli(*args, env=env)
    assert ran.code == 0, ran
    return ran.out


async def test_an_earlier_version_refuses_the_bundle_of_a_named_coordinator_by_its_role_and_uses_all_others(
    tmp_path: Path, old: OldVersion
) -> None:
    folder = tmp_path / "bus"
    await run({}, "init", str(folder), "--agent", "code", "--port", str(free_port()), "--monitoring-port", "0")
    await run({}, "coordinator", "add", "alice", "--agent", "code", "--bus", str(folder))
    joining = {name: ["coordinator", "init"] for name in ("alice", "main")} | {"code": ["worker", "init"]}
    for name, words in joining.items():
        kind = "coordinator" if name == "alice" else "agent"
        made = str(tmp_path / f"{name}.bundle")
        await run({}, kind, "bundle", name, "--bus", str(folder), "--output", made)
        preset = ["--preset", "claude"] if name == "code" else []
        ran = await old.cli(*words, "--bundle", made, "--folder", str(tmp_path / "here"), *preset)
        if name == "alice":
            assert (ran.code, ran.out) == (1, "")
            assert ran.err.endswith("is not a bundle that this version of agentbus can use: look at agents, role\n")
        else:
            assert ran.code == 0, ran.err


@pytest.mark.parametrize("maker", ["old", "new"])
async def test_each_version_uses_the_files_and_streams_of_the_other(
    tmp_path: Path, old: OldVersion, maker: str
) -> None:
    first, second = (old.env, {}) if maker == "old" else ({}, old.env)
    folder, here = tmp_path / "bus", tmp_path / "here"
    bus = ("--bus", str(folder))
    code, main = str(tmp_path / "code.bundle"), str(tmp_path / "main.bundle")
    port = str(free_port())
    await run(first, "init", str(folder), "--agent", "code", "--port", port, "--monitoring-port", "0")
    await run(first, "agent", "bundle", "code", *bus, "--output", code)
    await run({}, "agent", "add", "doc", "--may-task", "code", *bus)
    await run({}, "agent", "bundle", "main", *bus, "--output", main)
    command = shlex.join([sys.executable, str(FAKE_AGENT), "{input}"])
    await run(second, "worker", "init", "--bundle", code, "--folder", str(here), "--command", command)
    await run(first, "coordinator", "init", "--bundle", main, "--folder", str(here))
    found = BusFolder(folder)
    assert (found.agents, found.may_task("doc")) == (("code", "doc"), ("code",))
    async with run_server(store=tmp_path / "nats", config=found.servers[0].configuration):
        await run(first, "setup", "--config", str(folder / "admin.toml"), "--agent", "code")
        again = await run({}, "setup", "--config", str(folder / "admin.toml"), "--agent", "code")
        # Each tells of the limits that came since, and goes on; `setup --update` of the newer brings them.
        differences = {
            text.split()[0] for line in again.splitlines() for text in json.loads(line).get("differences", [])
        }
        newer = {
            "consumer_limits",
            "max_consumers",
            "duplicate_window",
            "subjects",
            "republish",
            "max_msgs_per_subject",
        }
        assert differences == (newer if maker == "old" else set[str]())
        async with worker(here / WORKER_FILE, env=second), connect(config=here / COORDINATOR_FILE) as coordinator:
            status = await outcome(coordinator, "say:done")
            told = await run_cli("doctor", "--config", str(here / COORDINATOR_FILE), "--json", env=second)
        assert (status.state, text(status)) == ("completed", "done\n")
    findings = [json.loads(line) for line in told.out.splitlines()]
    assert "ok" in {one["verdict"] for one in findings}
    failed = [one for one in findings if one["verdict"] == "failed"]
    if maker == "old":
        assert failed == []
    else:  # an earlier version does not know the ledgers of the agents, see `test_compatibility_ledgers`
        assert [one["check"] for one in failed] == ["permissions"]
        missing = failed[0]["text"].removeprefix("this user may not use ").split(", ")
        assert [one for one in missing if "AGENT_STATE" not in one] == []


async def test_an_earlier_version_leaves_a_folder_of_the_newer_layout_alone(tmp_path: Path, old: OldVersion) -> None:
    folder = tmp_path / "bus"
    await run({}, "init", str(folder), "--agent", "code", "--port", str(free_port()), "--monitoring-port", "0")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    added = await old.cli("agent", "add", "doc", "--bus", str(folder))
    assert (added.code, "bus.toml is damaged; take it from a backup" in added.err) == (1, True), added
    asked = await old.cli("setup", "--config", str(folder / "admin.toml"))
    assert (asked.code, "[nats] has no key 'tasks_nkey_file'" in asked.err) == (1, True), asked
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

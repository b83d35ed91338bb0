"""Joining a bus from a bundle: the files that it writes, and what it refuses."""

import stat
from pathlib import Path
from typing import Any

import pytest

from agentbus.config import nkeys
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.errors import ConfigError
from agentbus.provision.bundle import Bundle, bundle_text
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.new_bus import create
from agentbus.provision.join import AgentCommand, join_as_coordinator, join_as_worker, preset_command, renew
from support.harness import run_cli
from support.installation import FAKE, PLAN

pytestmark = pytest.mark.posix("not tried on Windows")


@pytest.fixture
def bus(tmp_path: Path) -> BusFolder:
    return create(tmp_path / "bus", PLAN, ["code", "doc"])


def code_bundle() -> Bundle:
    seed = nkeys.new_seed()
    return Bundle(role="worker", id="code", url="tls://bus.example.com:7422", auth="nkey", secret=seed, ca="PEM\n")


def test_joining_writes_the_same_text_as_earlier_versions(tmp_path: Path) -> None:
    party: dict[str, Any] = {"role": "worker", "id": "code", "may_task": ("doc",), "auth": "password"}
    made = Bundle(**party, url="tls://a:1,tls://[::1]:2", secret='s\\e"cret', ca="a certificate\n")
    command = AgentCommand(("my-agent", 'say "{input}"', "grün"), "argv", "What it may do.")
    worker_file = join_as_worker(made, tmp_path, command)
    coordinator_file = join_as_coordinator(made, tmp_path)
    assert worker_file.read_text(encoding="utf-8").replace(str(tmp_path), "FOLDER") == WORKER_TEXT
    assert coordinator_file.read_text(encoding="utf-8").replace(str(tmp_path), "FOLDER") == COORDINATOR_TEXT


WORKER_TEXT = """\
# Configuration of `agentbus worker run`. All keys: config/agentbus.worker.example.toml.

[agent]
id = "code"
# What it may do.
chat_cmd = ["my-agent", "say \\"{input}\\"", "grün"]
prompt_via = "argv"

[nats]
url = "tls://a:1,tls://[::1]:2"
user = "agent-code"
password_file = "FOLDER/code.password"
ca_file = "FOLDER/code.ca.pem"
"""
COORDINATOR_TEXT = """\
# Configuration of the coordinator: the `agentbus` commands and the MCP server.

[nats]
url = "tls://a:1,tls://[::1]:2"
user = "agent-code"
password_file = "FOLDER/code.password"
ca_file = "FOLDER/code.ca.pem"
inbox_prefix = "_INBOX_code"

[coordinator]
id = "code"
"""


@pytest.mark.parametrize(
    ("preset", "says"),
    [("claude", 'ask_before = ["Bash(git push*)"]'), ("opencode-acp", 'permissions = "ask"'), ("codex", None)],
)
def test_the_configuration_of_an_agent_that_can_ask_says_how(tmp_path: Path, preset: str, says: str | None) -> None:
    text = join_as_worker(code_bundle(), tmp_path, preset_command(preset)).read_text(encoding="utf-8")
    before, _, _ = text.partition("\noutput = ")
    assert before.rpartition("\n")[2].startswith("# ") == (says is not None)
    assert says is None or says in before.rpartition("\n")[2]


def test_joining_overwrites_no_existing_file(tmp_path: Path) -> None:
    path = join_as_worker(code_bundle(), tmp_path, FAKE)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r"exists already and was left as it is; .* --renew"):
        join_as_worker(code_bundle(), tmp_path, FAKE)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert path == tmp_path / "config.toml"


def test_renewing_replaces_only_the_credential(tmp_path: Path) -> None:
    path = join_as_worker(code_bundle(), tmp_path, FAKE)
    path.write_text(path.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    fresh = code_bundle()
    renew(fresh, tmp_path)
    assert (tmp_path / "code.nk").read_text(encoding="utf-8").strip() == fresh.secret
    assert path.read_text(encoding="utf-8").endswith("# mine\n")
    with pytest.raises(ConfigError, match="code has not joined from"):
        renew(fresh, tmp_path / "elsewhere")


def test_a_bundle_of_another_role_is_refused(bus: BusFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this bundle is for the coordinator"):
        join_as_worker(bus.bundle("main"), tmp_path / "a", FAKE)
    with pytest.raises(ConfigError, match="the agent code may not give tasks to others"):
        join_as_coordinator(bus.bundle("code"), tmp_path / "b")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_an_agent_that_may_give_tasks_is_a_coordinator_under_its_own_id(bus: BusFolder, tmp_path: Path) -> None:
    bus.add("lead", ["code"])
    config, warnings = load_coordinator(path=join_as_coordinator(bus.bundle("lead"), tmp_path / "lead"))
    settings = connection_settings(config.nats, agent=config.coordinator.id, name="test")
    assert (config.coordinator.id, settings.inbox_prefix, warnings) == ("lead", "_INBOX_lead", [])
    config, _ = load_coordinator(path=join_as_coordinator(bus.bundle("admin"), tmp_path / "admin"))
    settings = connection_settings(config.nats, agent=config.coordinator.id, name="test")
    assert (config.coordinator.id, settings.inbox_prefix) == ("main", "_INBOX_admin")


@pytest.mark.posix("permission bits")
def test_only_the_owner_can_read_the_files_that_joining_writes(tmp_path: Path) -> None:
    path = join_as_worker(code_bundle(), tmp_path / "there", FAKE)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--preset", "claude", "--command", "x {input}"], "--command and --preset claude exclude each other"),
        (["--preset", "custom"], "--preset custom needs --command"),
        (["--command", "'open"], "the command cannot be split into words"),
        ([], "which agent? Installed here: none of those that are known"),
    ],
)
async def test_a_missing_or_ambiguous_agent_command_is_refused(tmp_path: Path, words: list[str], reason: str) -> None:
    path = tmp_path / "one.bundle"
    path.write_text(bundle_text(code_bundle()), encoding="utf-8")
    ran = await run_cli(
        "worker", "init", "--bundle", str(path), "--folder", str(tmp_path / "f"), *words, env={"PATH": str(tmp_path)}
    )
    assert (ran.code, reason in ran.err, ran.out) == (1, True, ""), ran.err
    assert not (tmp_path / "f").exists()

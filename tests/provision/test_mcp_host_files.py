"""`agentbus mcp config`: writes the documented entry of each host into its file, and keeps the rest of the file."""

import json
import os
import stat
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters, stdio_client

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.errors import HostError
from agentbus.provision import mcp_host_files
from agentbus.provision.mcp_host_files import HOSTS
from agentbus.provision.nats_server import NatsServer
from support.file_faults import dies_before_replacing, read_only
from support.harness import run_cli
from support.in_process import RanHere, run_here
from support.mcp_harness import data_of

pytestmark = pytest.mark.posix("not tried on Windows")

PROGRAM = str(Path(sys.executable).with_name("agentbus-mcp"))
FILES = {
    "claude-code": ".claude.json",
    "codex": ".codex/config.toml",
    "vscode": ".config/Code/User/mcp.json",
    "claude-desktop": ".config/Claude/claude_desktop_config.json",
    "cursor": ".cursor/mcp.json",
}
PROJECT_FILES = {
    "claude-code": ".mcp.json",
    "codex": ".codex/config.toml",
    "vscode": ".vscode/mcp.json",
    "cursor": ".cursor/mcp.json",
}
KEYS = {
    "claude-code": "mcpServers",
    "codex": "mcp_servers",
    "vscode": "servers",
    "claude-desktop": "mcpServers",
    "cursor": "mcpServers",
}
MORE: dict[str, dict[str, Any]] = {
    "claude-code": {"type": "stdio"},
    "codex": {"startup_timeout_sec": 30, "required": True},
    "vscode": {"type": "stdio"},
    "claude-desktop": {},
    "cursor": {"type": "stdio"},
}
each_host = pytest.mark.parametrize("host", FILES)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the files are elsewhere")


def parsed(host: str, text: str) -> dict[str, Any]:
    return tomllib.loads(text) if host == "codex" else json.loads(text)


def config(host: str, *args: str) -> RanHere:
    ran = run_here("mcp", "config", "--host", host, *args)
    assert ran.code == 0, ran
    return ran


def refused(host: str, *args: str, usage: bool = False) -> str:
    ran = run_here("mcp", "config", "--host", host, *args)
    assert (ran.code, ran.out) == (2 if usage else 1, "")
    return ran.err if usage else str(ran.error)


def test_every_host_is_tested() -> None:
    assert set(HOSTS) == set(FILES) == set(KEYS) == set(MORE)
    assert {name for name, host in HOSTS.items() if host.project} == set(PROJECT_FILES)


@linux_only
@each_host
def test_the_entry_is_printed_in_the_format_of_the_host_with_its_file(host: str, home: Path) -> None:
    ran = config(host)
    assert parsed(host, ran.out) == {KEYS[host]: {"agentbus": {"command": PROGRAM, "args": [], **MORE[host]}}}
    assert ran.err == f"this belongs into {home / FILES[host]}; --write puts it there\n"
    assert not (home / FILES[host]).exists()


@linux_only
@each_host
def test_the_written_entry_is_the_printed_one(host: str, home: Path) -> None:
    printed = config(host, "--nats-url", "nats://10.8.0.1:7422")
    first = config(host, "--nats-url", "nats://10.8.0.1:7422", "--write")
    file = home / FILES[host]
    assert first.err == f"{file}: made\n"
    assert first.out == ""
    assert file.read_text(encoding="utf-8") == printed.out
    entry = parsed(host, printed.out)[KEYS[host]]["agentbus"]
    assert entry["env"] == {"AGENTBUS_NATS_URL": "nats://10.8.0.1:7422"}
    again = config(host, "--nats-url", "nats://10.8.0.1:7422", "--write")
    assert again.err == f"{file}: up to date\n"
    assert [path.name for path in file.parent.iterdir() if path.name.endswith(".part")] == []


@pytest.mark.parametrize("host", PROJECT_FILES)
def test_an_entry_for_a_project_has_no_path_of_this_machine(host: str, tmp_path: Path) -> None:
    config(host, "--project", str(tmp_path), "--write")
    entry = parsed(host, (tmp_path / PROJECT_FILES[host]).read_text(encoding="utf-8"))[KEYS[host]]["agentbus"]
    assert entry == {"command": "uvx", "args": ["agentbus-mcp"], **MORE[host]}


def test_claude_desktop_has_no_projects(tmp_path: Path) -> None:
    assert "leave out --project" in refused("claude-desktop", "--project", str(tmp_path), usage=True)


@pytest.mark.parametrize("host", [host for host in FILES if host != "codex"])
def test_json_keeps_everything_else_and_its_order(host: str) -> None:
    there = {
        "zuerst": [1, 2.5, None, "ü"],
        KEYS[host]: {
            "other": {"command": "x", "args": ["y"]},
            "agentbus": {
                "command": "old",
                "args": ["--http"],
                "env": {"A": "1", "AGENTBUS_NATS_URL": "old"},
                "timeout": 9,
            },
        },
        "inputs": [],
    }
    made = mcp_host_files.entry(HOSTS[host], ["new"], nats_url="nats://h:1")
    text = mcp_host_files.with_entry(HOSTS[host], json.dumps(there, indent=4, ensure_ascii=False), made)
    content = json.loads(text)
    assert list(content) == list(there)
    assert content["zuerst"] == there["zuerst"]
    assert content[KEYS[host]]["other"] == {"command": "x", "args": ["y"]}
    entry = content[KEYS[host]]["agentbus"]
    assert (entry["command"], entry["args"], entry["timeout"]) == ("new", [], 9)
    assert entry["env"] == {"A": "1", "AGENTBUS_NATS_URL": "nats://h:1"}
    assert '\n    "zuerst"' in text
    assert "ü" in text
    assert not text.endswith("\n")


def test_toml_keeps_comments_order_and_other_servers() -> None:
    there = """\
# mine
model = "o5"   # the good one

[mcp_servers.other]
command = "x"

[mcp_servers.agentbus]
command = "old"  # from before
args = ["--http"]
tool_timeout_sec = 290

[mcp_servers.agentbus.env]
A = "1"

[profiles.fast]
model = "o5-mini"
"""
    made = mcp_host_files.entry(HOSTS["codex"], ["new", "word"], nats_url="nats://h:1")
    text = mcp_host_files.with_entry(HOSTS["codex"], there, made)
    content = tomllib.loads(text)
    assert content["mcp_servers"]["agentbus"] == {
        "command": "new",
        "args": ["word"],
        "tool_timeout_sec": 290,
        "env": {"A": "1", "AGENTBUS_NATS_URL": "nats://h:1"},
        "startup_timeout_sec": 30,
        "required": True,
    }
    assert content["mcp_servers"]["other"] == {"command": "x"}
    assert content["profiles"] == {"fast": {"model": "o5-mini"}}
    assert text.startswith('# mine\nmodel = "o5"   # the good one\n')
    assert mcp_host_files.with_entry(HOSTS["codex"], text, made) == text


@pytest.mark.parametrize(
    "there",
    [
        "",
        'model = "x"\n',
        "[mcp_servers]\n",
        'mcp_servers.other.command = "x"\n',
        'mcp_servers = { other = { command = "x" } }\n',
        '[mcp_servers.agentbus]\nurl = "http://h/mcp"\n',
        "[[projects]]\nname = 1\n",
    ],
)
def test_the_entry_fits_into_every_form_of_toml(there: str) -> None:
    made = mcp_host_files.entry(HOSTS["codex"], ["new"])
    before = tomllib.loads(there)
    content = tomllib.loads(mcp_host_files.with_entry(HOSTS["codex"], there, made))
    assert content["mcp_servers"].pop("agentbus") == made
    before.get("mcp_servers", {}).pop("agentbus", None)
    assert content == {"mcp_servers": {}, **before}


@pytest.mark.parametrize(
    ("host", "there", "said"),
    [
        ("vscode", '{\n  // my servers\n  "servers": {}\n}', "it is not plain JSON"),
        ("cursor", '{"mcpServers": {"a": NaN}}', "it is not plain JSON"),
        ("cursor", "[]", "it is not a JSON object"),
        ("cursor", '{"mcpServers": []}', "its mcpServers is not an object"),
        ("codex", "[mcp_servers", "it is not valid TOML"),
        ("codex", "mcp_servers = 1\n", "its mcp_servers is not a table"),
    ],
)
@linux_only
def test_a_file_that_cannot_be_preserved_is_left_unchanged(host: str, there: str, said: str, home: Path) -> None:
    file = home / FILES[host]
    file.parent.mkdir(parents=True)
    file.write_text(there, encoding="utf-8")
    error = refused(host, "--write")
    assert error.startswith(f"{file}: {said}")
    assert "add the entry by hand" in error
    assert file.read_text(encoding="utf-8") == there
    assert list(file.parent.iterdir()) == [file]


@linux_only
def test_the_mode_of_the_file_and_a_link_to_it_are_kept(home: Path) -> None:
    kept = home / "dotfiles" / "claude.json"
    kept.parent.mkdir()
    kept.write_text('{"projects": {}}\n', encoding="utf-8")
    kept.chmod(0o600)
    (home / ".claude.json").symlink_to(kept)
    ran = config("claude-code", "--write")
    assert ran.err.endswith(": updated\n")
    assert (home / ".claude.json").is_symlink()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert set(json.loads(kept.read_text(encoding="utf-8"))) == {"projects", "mcpServers"}


def test_the_owner_of_the_file_stays_when_root_writes_it(home: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root writes the files of others")
    file = home / ".claude.json"
    file.write_text("{}", encoding="utf-8")
    os.chown(file, 12345, 23456)
    file.chmod(0o664)
    assert config("claude-code", "--write").err.endswith(": updated\n")
    found = file.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 23456, 0o664)


@each_host
def test_a_process_that_dies_while_it_writes_leaves_the_file_of_the_host_whole(host: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    there = mcp_host_files.alone(HOSTS[host], mcp_host_files.entry(HOSTS[host], ["old"]))
    file.write_text(there, encoding="utf-8")
    writes = (
        "from agentbus.provision.mcp_host_files import HOSTS, entry, write_entry; import sys\n"
        "host = HOSTS[sys.argv[2]]; write_entry(Path(sys.argv[1]), host, entry(host, ['new']))"
    )
    dies_before_replacing(writes, file, host)
    assert file.read_text(encoding="utf-8") == there


@each_host
def test_a_file_that_cannot_be_written_stays_as_it_was_and_is_named_with_the_fix(host: str) -> None:
    made = mcp_host_files.entry(HOSTS[host], ["new"])
    with read_only("there") as folder:
        (folder / "there").read_text(encoding="utf-8")
        for name in ("new", "below/new"):
            with pytest.raises(HostError) as caught:
                mcp_host_files.write_entry(folder / name, HOSTS[host], made)
            assert str(caught.value) == (
                f"{folder / name} cannot be written: Permission denied; make its folder writable for this user; "
                "or add the entry by hand"
            )
        assert [path.name for path in folder.iterdir()] == ["there"]


def test_codex_home_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEX_HOME", str(tmp_path))
    config("codex", "--write")
    assert "agentbus" in tomllib.loads((tmp_path / "config.toml").read_text(encoding="utf-8"))["mcp_servers"]


@linux_only
@each_host
@pytest.mark.parametrize("url", ["nats://main:secret@h:1", "nats://secret@h:1", "nats://a:1,nats://main:secret@h:1"])
def test_no_secret_is_written_into_an_entry(host: str, url: str, home: Path) -> None:
    error = refused(host, "--nats-url", url, "--write")
    assert "an entry must not" in error
    assert "--config" in error
    assert "secret" not in error
    assert not (home / FILES[host]).exists()


def test_an_entry_has_the_absolute_path_of_a_valid_configuration(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "team.toml"
    file.write_text(
        '[nats]\nurl = "tls://bus.example.com:7422"\nuser = "agent-main"\npassword_file = "~/.p"\n', encoding="utf-8"
    )
    (home / ".p").write_text("secret\n", encoding="utf-8")
    (home / ".p").chmod(0o600)
    ran = config("cursor", "--config", "team.toml")
    assert json.loads(ran.out)["mcpServers"]["agentbus"]["args"] == ["--config", str(file)]
    assert "secret" not in ran.out
    file.write_text('[nats]\nurll = "x"\n', encoding="utf-8")
    assert "urll" in refused("cursor", "--config", "team.toml")
    both = refused("cursor", "--config", "team.toml", "--nats-url", "nats://h:1", usage=True)
    assert "exclude each other" in both


async def test_an_error_of_the_command_is_one_line() -> None:
    ran = await run_cli("mcp", "config", "--host", "cursor", "--nats-url", "nats://main:secret@h:1")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: --nats-url holds a password")
    assert ran.err.count("\n") == 1
    assert "secret" not in ran.err


async def test_the_command_of_an_entry_starts_a_server_on_that_bus(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await set_up(coordinator.bus, ["code"])
    ran = config("claude-desktop", "--nats-url", server.url)
    entry = json.loads(ran.out)["mcpServers"]["agentbus"]
    # A host that was started from a desktop passes almost no environment variables to its servers.
    few = {name: os.environ[name] for name in ("HOME", "TEST_PROCESS_MARK")}
    parameters = StdioServerParameters(command=entry["command"], args=entry["args"], env={**few, **entry["env"]})
    with (tmp_path / "mcp.log").open("w", encoding="utf-8") as log:
        async with Client(stdio_client(parameters, errlog=log)) as client:
            data = data_of(await client.call_tool("list_agents", {}))
    assert [agent["agent"] for agent in data["agents"]] == ["code"]

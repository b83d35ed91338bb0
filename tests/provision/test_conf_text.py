"""A real nats-server reads what `conf_text` writes: paths with every kind of character that a file name may have."""

import asyncio
import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agentbus.bus.jetstream import connect
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.errors import ConfigError
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.new_bus import create
from agentbus.provision.conf_text import quoted, quoted_list
from agentbus.provision.nats_server import find_binary, run_server
from support.free_ports import free_port
from support.harness import eventually, process, run_cli
from support.installation import PLAN, make_certificates

pytestmark = pytest.mark.posix("Windows takes few of these names")

NAMES = (
    "ö ü", 'quo"te', "apo'strophe", "back\\slash", "$HOME", "a$b", "new\nline", "tab\tbell\a", "# no comment",
    "; // {[(", "%s {store}", "日本", "😀", "\u00a0\u2028", "\\u00f6 \\x41", "-x", "*?",
)  # fmt: skip
"""None of them is refused by the file system; each has broken a program."""
NOT_UTF8 = os.fsdecode(b"caf\xe9")


def strange(folder: Path, *more: str) -> Path:
    """Make a path of all names in NAMES."""
    return folder.joinpath(*NAMES, *more)


def test_only_the_escapes_that_nats_server_knows_are_used() -> None:
    assert quoted('ö $x "y" \\ \n\x7f') == '"ö $x \\"y\\" \\\\ \\x0a\\x7f"'
    assert quoted(Path(NOT_UTF8)) == '"caf\\xe9"'
    assert quoted("") == '""'
    assert quoted_list(["a", "b"]) == '["a", "b"]'
    assert quoted_list([]) == "[]"


@pytest.mark.parametrize("names", [NAMES, (NOT_UTF8,)], ids=["printable and not", "not UTF-8"])
async def test_up_keeps_its_store_in_a_folder_of_any_name(tmp_path: Path, names: tuple[str, ...]) -> None:
    store, log = tmp_path.joinpath(*names), tmp_path / "up.log"
    argv = [sys.executable, "-m", "agentbus", "up", "--port", "0", "--store", str(store), "--agent", "code"]
    with process(argv, log) as up:
        line = await eventually(
            lambda: log.read_text(encoding="utf-8", errors="replace").strip(), "it says where it is"
        )
        assert line.startswith("{"), line
        url = json.loads(line)["url"]
        sent = await run_cli("task", "publish", "--nats-url", url, "--to", "code", "--task-type", "x", "hi")
        assert sent.code == 0, sent.err
        assert (store / "jetstream").is_dir()
        up.terminate()
        assert await up.exit_code() == 0


async def test_init_makes_a_bus_in_a_folder_of_any_name_and_its_commands_work_there(tmp_path: Path) -> None:
    path, store = strange(tmp_path, "bus"), strange(tmp_path, "store")
    made = await run_cli(
        "init", str(path), "--port", str(free_port()), "--monitoring-port", "0", "--store", str(store)
    )  # fmt: skip
    assert made.code == 0, made.err
    bus = BusFolder(path)
    async with run_server(store=tmp_path / "server", config=bus.servers[0].configuration) as server:
        done = await run_cli("setup", "--config", str(bus.administrator), "--agent", "code")
        assert done.code == 0, done.err
        assert (store / "jetstream").is_dir()
        added = await run_cli("agent", "add", "doc", "--bus", str(path))
        assert added.code == 0, added.err
        signal = [str(find_binary()), "--signal", f"reload={bus.servers[0].pid_file}"]
        assert shlex.join(signal[1:]) in added.out
        reload = await asyncio.create_subprocess_exec(*signal)
        assert await reload.wait() == 0
        await eventually(
            lambda: "Reloaded server configuration" in server.log.read_text(encoding="utf-8"), "it has read it again"
        )
        renewed = await run_cli("init", str(path), "--renew-certificate")
        assert renewed.code == 0, renewed.err


async def test_certificates_of_the_operator_may_be_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = strange(tmp_path, "tls")
    folder.mkdir(parents=True)
    own = make_certificates(folder)
    plan = replace(PLAN, port=free_port(), certificate=own.cert, key=own.key, ca=own.ca)
    bus = create(tmp_path / "bus", plan)
    async with run_server(store=tmp_path / "server", config=bus.servers[0].configuration):
        config, _ = load_coordinator(path=bus.administrator)
        async with connect(connection_settings(config.nats, agent="admin", name="test")) as connected:
            assert await connected.api("INFO")


@pytest.mark.parametrize(
    ("name", "reason"), [(NOT_UTF8, "is not UTF-8"), ("a=b", "has a '=' in it")], ids=["not UTF-8", "="]
)
def test_init_refuses_a_folder_that_its_files_or_nats_server_cannot_name(
    tmp_path: Path, name: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"{reason}.*choose another folder"):
        create(tmp_path / name, PLAN)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("address", ["::1", "[::1]", "127.0.0.1", "localhost"])
def test_init_accepts_an_ipv6_listen_address_with_and_without_brackets(tmp_path: Path, address: str) -> None:
    bus = create(tmp_path / "bus", replace(PLAN, listen=address, port=7433))
    shown = "[::1]" if "::" in address else address
    assert f'\nlisten: "{shown}:7433"\n' in bus.servers[0].configuration.read_text(encoding="utf-8")


@pytest.mark.parametrize("address", ['0.0.0.0"\nhttp: "0.0.0.0', "$HOST", "a b", "127.0.0.1:4222"])
def test_init_refuses_an_invalid_listen_address(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="neither the name nor the address of a host"):
        create(tmp_path / "bus", replace(PLAN, listen=address))

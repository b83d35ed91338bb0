"""The folders of the servers of a cluster, and the members that make one."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from agentbus.errors import ConfigError
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.new_bus import Plan, create
from agentbus.provision.bus_folder.server_folder import Member, read_member
from support.installation import PLAN
from support.operator_commands import Operator, secrets_in

pytestmark = pytest.mark.posix("not tried on Windows")

MEMBERS = tuple(Member(f"10.0.0.{number}") for number in (5, 6, 7))


def test_each_server_of_a_cluster_has_a_folder_without_secrets_of_the_parties(tmp_path: Path) -> None:
    bus = create(tmp_path / "bus", replace(PLAN, members=MEMBERS), ["code"])
    assert bus.url == "tls://10.0.0.5:7422,tls://10.0.0.6:7422,tls://10.0.0.7:7422"
    assert bus.bundle("code").url == bus.url
    secrets = secrets_in(bus) | {(bus.path / "tls" / "ca-key.pem").read_text(encoding="utf-8")}
    for number, server in enumerate(bus.servers, 1):
        files = {path.name: path.read_text(encoding="utf-8") for path in server.path.iterdir()}
        assert set(files) == {"nats-server.conf", "accounts.conf", "ca.pem", "server.pem", "server-key.pem"}
        assert f'server_name: "agentbus-{number}"' in files["nats-server.conf"]
        assert files["nats-server.conf"].count("tls://10.0.0.") == 2, "routes to the two others"
        assert str(tmp_path) not in files["nats-server.conf"], "its paths are good on another machine"
        assert not any(secret in text for secret in secrets for text in files.values())


def test_a_change_of_the_parties_is_written_to_the_folder_of_every_server(tmp_path: Path) -> None:
    bus = create(tmp_path / "bus", replace(PLAN, members=MEMBERS), ["code"])
    BusFolder(bus.path).add("doc")
    texts = {server.accounts.read_text(encoding="utf-8") for server in bus.servers}
    assert len(texts) == 1
    assert '"agent-doc"' in texts.pop()


async def test_the_commands_for_a_cluster_say_which_files_to_copy_to_which_machine(tmp_path: Path) -> None:
    operator, folder = Operator(), tmp_path / "bus"
    members = [word for one in MEMBERS for word in ("--member", one.host)]
    made = await operator.run("init", folder, *members, "--host", "bus.example.com", "--agent", "code")
    for number, one in enumerate(MEMBERS, 1):
        assert f"{folder / 'servers' / f'agentbus-{number}'}  to {one.host}" in made.out
    assert "--replicas 3 --agent code" in made.out
    added = await operator.run("agent", "add", "doc", "--bus", folder)
    assert f"copy accounts.conf from each folder in {folder / 'servers'} to its machine" in added.out
    before = {server.path: (server.path / "server.pem").read_bytes() for server in BusFolder(folder).servers}
    await operator.run("init", folder, "--renew-certificate", "--host", "bus.example.com")
    assert all((path / "server.pem").read_bytes() != old for path, old in before.items())


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (replace(PLAN, members=MEMBERS[:2]), "three members or five, not 2"),
        (replace(PLAN, members=(*MEMBERS[:2], MEMBERS[0])), "two servers cannot both have 10.0.0.5:7422"),
        (replace(PLAN, members=MEMBERS, certificate=Path("a"), key=Path("b")), "leave out --cert, --key and --ca"),
    ],
)
def test_members_that_do_not_make_a_cluster_are_refused(tmp_path: Path, plan: Plan, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        create(tmp_path / "bus", plan)
    assert not (tmp_path / "bus" / "bus.toml").exists()


@pytest.mark.parametrize(
    ("text", "member"),
    [
        ("10.0.0.5", Member("10.0.0.5")),
        ("Bus.Example.com:4222", Member("bus.example.com", 4222)),
        ("fd00::5", Member("fd00::5")),
        ("[fd00::5]:4222:6333", Member("fd00::5", 4222, 6333)),
    ],
)
def test_a_member_is_parsed_as_it_is_formatted(text: str, member: Member) -> None:
    assert read_member(text) == member
    assert read_member(str(member)) == member


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the host is missing"),
        ("a b", "no spaces"),
        ("a_b", "neither the name nor the address of a host"),
        ("host:0", "a number from 1 to 65535"),
        ("host:99999", "a number from 1 to 65535"),
        ("host:\N{ARABIC-INDIC DIGIT FOUR}", "a number from 1 to 65535"),
        ("host:x", "a number from 1 to 65535"),
        ("host:1:0", "a number from 1 to 65535"),
        ("host:1:", "a number from 1 to 65535"),
        ("host:1:2:3", "must stand in brackets"),
        ("fd00::5x:1:2", "must stand in brackets"),
        ("[10.0.0.5]:1", "only an IPv6 address stands in brackets"),
        ("[fe80::1%eth0]:1", "a zone id means something on one machine only"),
        ("fe80::1%eth0", "a zone id means something on one machine only"),
    ],
)
def test_a_text_that_is_not_a_member_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"no member of a cluster: .*{reason}.*write it as HOST or HOST:PORT:CLUSTER"):
        read_member(text)

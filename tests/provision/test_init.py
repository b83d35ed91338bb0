"""A bus in a folder, as an operator makes it: init, bundles, joining, and changing who may use it."""

import os
import re
import stat
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.jetstream import connect
from agentbus.bus.setup import set_up
from agentbus.config import nkeys
from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.errors import AuthenticationError, ConfigError
from agentbus.provision.bundle import Bundle, bundle_text, read_bundle
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.new_bus import Plan, create
from agentbus.provision.bus_folder.server_folder import Member, read_member
from agentbus.provision.join import AgentCommand, join_as_coordinator, join_as_worker, renew
from agentbus.provision.nats_server import NatsServer, run_server
from support.harness import BOUND_S, FAKE_AGENT, Ran, eventually, run_cli, worker
from support.installation import PLAN, free_port, make_certificates

pytestmark = pytest.mark.posix("not tried on Windows")

FAKE = AgentCommand((sys.executable, str(FAKE_AGENT), "{input}"), "argv")


@pytest.fixture
def folder(tmp_path: Path) -> BusFolder:
    return create(tmp_path / "bus", PLAN, ["code", "doc"])


def secrets_in(bus: BusFolder) -> set[str]:
    return {path.read_text(encoding="utf-8").strip() for path in (bus.path / "credentials").iterdir()}


# -- the whole set-up -------------------------------------------------------------------------------------------


class Operator:
    """Types commands, and keeps everything that they printed."""

    def __init__(self) -> None:
        self.printed = ""

    async def types(self, *words: str | Path) -> Ran:
        ran = await run_cli(*map(str, words))
        self.printed += ran.out + ran.err
        assert ran.code == 0, ran.err
        return ran


class SetUp:
    """What an operator has set up by typing: a bus, a worker of `code` and the coordinator, each in a folder."""

    def __init__(self, path: Path, server: NatsServer, person: Operator) -> None:
        self.path, self.server, self.person = path, server, person
        self.bus, self.here, self.there = path / "bus", path / "here", path / "there"

    async def bundle(self, name: str) -> Path:
        made = self.path / f"{name}-{os.urandom(3).hex()}.bundle"
        await self.person.types("agent", "bundle", name, "--bus", self.bus, "--output", made)
        return made

    async def reload(self, times: int = 1) -> None:
        """Have the server read its configuration again, as the commands say."""
        for _ in range(times):
            before = self.server.log.read_text(encoding="utf-8").count("Reloaded server configuration")
            self.server.reload()
            await eventually(
                lambda seen=before: (
                    self.server.log.read_text(encoding="utf-8").count("Reloaded server configuration") > seen
                ),
                "the server has read its configuration again",
            )

    @asynccontextmanager
    async def coordinator(self) -> AsyncGenerator[Coordinator]:
        async with connect(self.settings("main", self.here)) as connected:
            yield Coordinator(connected)

    def settings(self, name: str, folder: Path) -> ConnectionSettings:
        config, _ = load_coordinator(path=folder / "coordinator.toml")
        return connection_settings(config.nats, agent=name, name="test")


@pytest.fixture
async def typed(tmp_path: Path) -> AsyncGenerator[SetUp]:
    person, bus = Operator(), tmp_path / "bus"
    await person.types("init", bus, "--port", str(free_port()), "--monitoring-port", "0", "--agent", "code")
    async with run_server(store=tmp_path / "nats", config=bus / "nats-server.conf") as server:
        made = SetUp(tmp_path, server, person)
        await person.types("setup", "--config", bus / "admin.toml", "--agent", "code")
        command = ("--command", f"{sys.executable} {FAKE_AGENT} {{input}}")
        await person.types("worker", "init", "--bundle", await made.bundle("code"), "--folder", made.there, *command)
        await person.types("coordinator", "init", "--bundle", await made.bundle("main"), "--folder", made.here)
        yield made
        assert [line for line in server.log.read_text(encoding="utf-8").splitlines() if "Violation" in line] == []
    assert [secret for secret in secrets_in(BusFolder(bus)) if secret in person.printed] == []


async def test_an_agent_joins_a_running_bus_and_is_shut_out_again_and_nobody_else_notices(typed: SetUp) -> None:
    person, other = typed.person, typed.path / "other"
    async with typed.coordinator() as main, worker(typed.there / "config.toml") as process:
        assert await outcome(main, "code") == "completed"
        await person.types("agent", "add", "doc", "--may-task", "code", "--bus", typed.bus)
        await typed.reload(times=2)
        await person.types("setup", "--config", typed.bus / "admin.toml", "--agent", "doc")
        bundle = read_bundle(await typed.bundle("doc"))
        join_as_worker(bundle, other, FAKE)
        join_as_coordinator(bundle, other)
        async with worker(other / "config.toml"):
            assert await outcome(main, "doc") == "completed"
        async with connect(typed.settings("doc", other)) as connected:
            doc = Coordinator(connected, "doc")
            task = await doc.publish("code", "say:done", task_type="test")
            assert (await doc.wait([task.id], timeout_s=BOUND_S, agent="code")).settled[task.id].state == "completed"

        await person.types("agent", "remove", "doc", "--bus", typed.bus)
        await typed.reload()
        with pytest.raises(AuthenticationError):
            async with connect(typed.settings("doc", other)):
                pass
        assert await outcome(main, "code") == "completed"
        assert main.bus.seconds_since_reconnect == float("inf")
        assert not process.said("connection lost")


async def test_a_rotated_credential_ends_the_worker_with_the_reason_and_a_new_bundle_brings_it_back(
    typed: SetUp,
) -> None:
    old = BusFolder(typed.bus).secret_file("code").read_text(encoding="utf-8").strip()
    config = typed.there / "config.toml"
    async with typed.coordinator() as main:
        async with worker(config) as process:
            assert await outcome(main, "code") == "completed"
            await typed.person.types("agent", "rotate", "code", "--bus", typed.bus)
            await typed.reload()
            assert await process.exit_code() == 1
            assert process.said("refused the credentials")
        async with worker(config, ready=False) as late:
            assert await late.exit_code() == 1
            assert late.said("refused the credentials")
        fresh = await typed.bundle("code")
        await typed.person.types("worker", "init", "--bundle", fresh, "--folder", typed.there, "--renew")
        async with worker(config):
            assert await outcome(main, "code") == "completed"
        assert main.bus.seconds_since_reconnect == float("inf")
    assert old not in typed.person.printed


async def outcome(main: Coordinator, agent: str) -> str:
    task = await main.publish(agent, "say:done", task_type="test")
    return (await main.wait([task.id], timeout_s=BOUND_S)).settled[task.id].state


# -- the folder -------------------------------------------------------------------------------------------------


@pytest.mark.posix("permission bits")
def test_nobody_else_can_read_what_is_in_the_folder(folder: BusFolder) -> None:
    for path in (folder.path, *folder.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_configuration_of_the_server_holds_no_secret(folder: BusFolder) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in folder.path.iterdir() if path.is_file())
    assert [secret for secret in secrets_in(folder) if secret in text] == []


def test_each_party_has_an_account_and_only_the_administrator_is_in_that_of_the_streams(folder: BusFolder) -> None:
    text = (folder.path / "accounts.conf").read_text(encoding="utf-8")
    bus = text.partition('\n  "agent-')[0]
    assert bus.count("nkey:") == 1
    assert "jetstream" in bus
    assert "jetstream" not in text.removeprefix(bus)
    for name in ("code", "doc", "main"):
        assert text.count(f'\n  "agent-{name}": {{') == 1


async def test_passwords_in_place_of_nkeys_are_kept_as_hashes_by_the_server(tmp_path: Path) -> None:
    pytest.importorskip("bcrypt")
    bus = create(tmp_path / "bus", replace(PLAN, port=free_port(), auth="password"), ["code"])
    text = (bus.path / "accounts.conf").read_text(encoding="utf-8")
    assert text.count('password: "$2b$11$') == 3
    assert not [secret for secret in secrets_in(bus) if secret in text]
    async with run_server(store=tmp_path / "nats", config=bus.servers[0].configuration):
        admin, _ = load_coordinator(path=bus.administrator)
        async with connect(connection_settings(admin.nats, agent="admin", name="test")) as connected:
            await set_up(connected, bus.agents)
        join_as_worker(bus.bundle("code"), tmp_path / "there", FAKE)
        config, _ = load_coordinator(path=join_as_coordinator(bus.bundle("main"), tmp_path / "here"))
        async with (
            connect(connection_settings(config.nats, agent="main", name="test")) as connected,
            worker(tmp_path / "there" / "config.toml"),
        ):
            assert await outcome(Coordinator(connected), "code") == "completed"


async def test_a_certificate_that_exists_is_used_and_its_ca_goes_into_the_bundle(tmp_path: Path) -> None:
    given = make_certificates(tmp_path)
    plan = replace(PLAN, port=free_port(), certificate=given.cert, key=given.key, ca=given.ca)
    bus = create(tmp_path / "bus", plan)
    assert not (bus.path / "tls").exists()
    assert bus.bundle("main").ca == given.ca.read_text(encoding="utf-8")
    async with run_server(store=tmp_path / "nats", config=bus.servers[0].configuration):
        config, _ = load_coordinator(path=join_as_coordinator(bus.bundle("main"), tmp_path / "here"))
        async with connect(connection_settings(config.nats, agent="main", name="test")) as connected:
            assert connected.connected


async def test_a_new_certificate_is_taken_up_without_a_restart(tmp_path: Path) -> None:
    bus = create(tmp_path / "bus", replace(PLAN, port=free_port()))
    old = (bus.path / "tls" / "server.pem").read_bytes()
    config, _ = load_coordinator(path=join_as_coordinator(bus.bundle("main"), tmp_path / "here"))
    settings = connection_settings(config.nats, agent="main", name="test")
    async with (
        run_server(store=tmp_path / "nats", config=bus.servers[0].configuration) as server,
        connect(settings) as connected,
    ):
        ran = await run_cli("init", str(bus.path), "--host", "bus.example.com", "--renew-certificate")
        assert (ran.code, "--signal" in ran.out) == (0, True), ran.err
        assert (bus.path / "tls" / "server.pem").read_bytes() != old
        server.reload()
        await eventually(
            lambda: "Reloaded server configuration" in server.log.read_text(encoding="utf-8"), "the server has read it"
        )
        async with connect(settings) as again:
            assert again.connected
        assert connected.seconds_since_reconnect == float("inf")


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (replace(PLAN, hosts=("no such host",)), "neither the name nor the address of a host"),
        (replace(PLAN, max_file="a lot"), "no amount of storage; write it as 512MiB or 10GiB"),
        (replace(PLAN, certificate=Path("cert.pem")), "--cert and --key go together"),
        (replace(PLAN, ca=Path("ca.pem")), "--cert and --key go together"),
        (replace(PLAN, certificate=Path("missing.pem"), key=Path("missing.pem")), "missing.pem does not exist"),
    ],
)
def test_a_bus_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path, plan: Plan, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        create(tmp_path / "bus", plan)
    assert not (tmp_path / "bus" / "bus.toml").exists()


def test_a_bus_that_is_there_is_not_made_again(folder: BusFolder) -> None:
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"there is a bus in .* already; it was left as it is"):
        create(folder.path, PLAN)
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_a_folder_without_a_bus_is_named_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no bus in .*; make one with: agentbus init"):
        BusFolder(tmp_path)
    (tmp_path / "bus.toml").write_text("[bus]\nversion = 9\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is damaged; take it from a backup"):
        BusFolder(tmp_path)


def test_the_url_names_the_first_host_and_the_server_listens_for_others_only_then(tmp_path: Path) -> None:
    here = create(tmp_path / "here", PLAN)
    assert here.url == "tls://127.0.0.1:7422"
    assert 'listen: "127.0.0.1:7422"' in here.servers[0].configuration.read_text(encoding="utf-8")
    there = create(tmp_path / "there", replace(PLAN, hosts=("Bus.example.com", "10.0.0.5")))
    assert there.url == "tls://bus.example.com:7422"
    assert 'listen: "0.0.0.0:7422"' in there.servers[0].configuration.read_text(encoding="utf-8")
    assert create(tmp_path / "six", replace(PLAN, hosts=("::1",))).url == "tls://[::1]:7422"


# -- who may use it ---------------------------------------------------------------------------------------------


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
    folder: BusFolder, agent: str, may_task: tuple[str, ...], reason: str
) -> None:
    before = (folder.path / "accounts.conf").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=reason):
        folder.add(agent, may_task)
    assert (folder.path / "accounts.conf").read_text(encoding="utf-8") == before


def test_changes_are_kept_in_the_folder(folder: BusFolder) -> None:
    folder.add("lead", ["doc", "code", "doc"])
    again = BusFolder(folder.path)
    assert (again.agents, again.may_task("lead")) == (("code", "doc", "lead"), ("doc", "code"))
    again.remove("doc")
    last = BusFolder(folder.path)
    assert (last.agents, last.may_task("lead")) == (("code", "lead"), ("code",))
    assert not last.secret_file("doc").exists()
    assert "agent-doc" not in (folder.path / "accounts.conf").read_text(encoding="utf-8")


def test_an_agent_whose_credential_cannot_be_deleted_is_removed_and_the_file_is_named(folder: BusFolder) -> None:
    secret = folder.secret_file("doc")
    secret.unlink()
    secret.mkdir()
    with pytest.raises(ConfigError, match=f"doc is removed, but {secret} cannot be deleted: .*; delete it"):
        folder.remove("doc")
    assert BusFolder(folder.path).agents == ("code",)


@pytest.mark.parametrize("name", ["absent", "doc.x"])
def test_somebody_who_is_not_there_is_named(folder: BusFolder, name: str) -> None:
    for change in (folder.remove, folder.rotate, folder.bundle):
        with pytest.raises(ConfigError, match=f"there is no agent {name} on this bus"):
            change(name)


@pytest.mark.parametrize("name", ["main", "admin"])
def test_the_parties_of_every_bus_can_be_rotated_and_not_removed(folder: BusFolder, name: str) -> None:
    old = folder.secret_file(name).read_text(encoding="utf-8")
    folder.rotate(name)
    assert folder.secret_file(name).read_text(encoding="utf-8") != old
    with pytest.raises(ConfigError, match="is a party of every bus and stays"):
        folder.remove(name)


# -- bundles ----------------------------------------------------------------------------------------------------


def test_a_bundle_survives_being_written_and_read(folder: BusFolder, tmp_path: Path) -> None:
    folder.add("lead", ["code"])
    for name in ("main", "admin", "code", "lead"):
        made = folder.bundle(name)
        path = tmp_path / "one.bundle"
        path.write_text(bundle_text(made), encoding="utf-8")
        assert read_bundle(path) == made
        assert made.secret not in repr(made)


def test_the_configurations_that_are_made_from_a_bundle_have_the_text_that_they_have_always_had(tmp_path: Path) -> None:
    party: dict[str, Any] = {"role": "worker", "id": "code", "may_task": ("doc",), "auth": "password"}
    made = Bundle(**party, url="tls://a:1,tls://[::1]:2", secret='s\\e"cret', ca="a certificate\n")
    command = AgentCommand(("my-agent", 'say "{input}"', "grün"), "argv", "What it may do.")
    worker_file = join_as_worker(made, tmp_path, command)
    coordinator_file = join_as_coordinator(made, tmp_path)
    assert worker_file.read_text(encoding="utf-8").replace(str(tmp_path), "FOLDER") == WORKER_FILE
    assert coordinator_file.read_text(encoding="utf-8").replace(str(tmp_path), "FOLDER") == COORDINATOR_FILE


WORKER_FILE = """\
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
COORDINATOR_FILE = """\
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
    ("old", "new"),
    [
        ("[bundle]", "[bundel]"),
        ("version = 1", "version = 2"),
        ('id = "code"', 'id = "agent-code"'),
        ('id = "code"', 'id = "../code"'),
        ('role = "worker"', 'role = "king"'),
        ('url = "tls://', 'url = "http://'),
        ('url = "tls://', 'url = "tls://user:password@'),
        ('secret = "SU', 'secret = "XX'),
        ('secret = "SU', 'secret = "\\nSU'),
        ('auth = "nkey"', 'auth = "none"'),
        ("[bundle]", "[bundle]\nmore = 1"),
        ("[bundle]", "[[bundle]]"),
        ("[bundle]", ""),
        ("\n", "\x00"),
    ],
)
def test_a_damaged_bundle_is_refused_without_a_word_of_its_content(
    folder: BusFolder, tmp_path: Path, old: str, new: str
) -> None:
    text = bundle_text(folder.bundle("code"))
    assert old in text
    path = tmp_path / "one.bundle"
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_bundle(path)
    assert str(path) in str(caught.value)
    assert folder.bundle("code").secret[3:20] not in str(caught.value)
    assert "password@" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"a = 1\n" * 200_000, b"bundle = 1"])
def test_what_is_no_bundle_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "one.bundle"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not a bundle"):
        read_bundle(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_bundle(tmp_path / "missing")


# -- joining ----------------------------------------------------------------------------------------------------


def code_bundle() -> Bundle:
    seed = nkeys.new_seed()
    return Bundle(role="worker", id="code", url="tls://bus.example.com:7422", auth="nkey", secret=seed, ca="PEM\n")


def test_nothing_that_is_there_is_overwritten(tmp_path: Path) -> None:
    path = join_as_worker(code_bundle(), tmp_path, FAKE)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r"exists already and was left as it is; .* --renew"):
        join_as_worker(code_bundle(), tmp_path, FAKE)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert path == tmp_path / "config.toml"


def test_renewing_replaces_the_credential_and_nothing_else(tmp_path: Path) -> None:
    path = join_as_worker(code_bundle(), tmp_path, FAKE)
    path.write_text(path.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    fresh = code_bundle()
    renew(fresh, tmp_path)
    assert (tmp_path / "code.nk").read_text(encoding="utf-8").strip() == fresh.secret
    assert path.read_text(encoding="utf-8").endswith("# mine\n")
    with pytest.raises(ConfigError, match="code has not joined from"):
        renew(fresh, tmp_path / "elsewhere")


def test_a_bundle_is_for_its_own_kind_of_party(folder: BusFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this bundle is for the coordinator"):
        join_as_worker(folder.bundle("main"), tmp_path / "a", FAKE)
    with pytest.raises(ConfigError, match="the agent code may not give tasks to others"):
        join_as_coordinator(folder.bundle("code"), tmp_path / "b")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_an_agent_that_may_give_tasks_gives_them_in_its_own_name(folder: BusFolder, tmp_path: Path) -> None:
    folder.add("lead", ["code"])
    config, warnings = load_coordinator(path=join_as_coordinator(folder.bundle("lead"), tmp_path / "lead"))
    settings = connection_settings(config.nats, agent=config.coordinator.id, name="test")
    assert (config.coordinator.id, settings.inbox_prefix, warnings) == ("lead", "_INBOX_lead", [])
    config, _ = load_coordinator(path=join_as_coordinator(folder.bundle("admin"), tmp_path / "admin"))
    settings = connection_settings(config.nats, agent=config.coordinator.id, name="test")
    assert (config.coordinator.id, settings.inbox_prefix) == ("main", "_INBOX_admin")


@pytest.mark.posix("permission bits")
def test_what_joining_writes_is_for_its_owner_alone(tmp_path: Path) -> None:
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
async def test_an_agent_command_that_is_not_clear_is_asked_for(tmp_path: Path, words: list[str], reason: str) -> None:
    path = tmp_path / "one.bundle"
    path.write_text(bundle_text(code_bundle()), encoding="utf-8")
    ran = await run_cli(
        "worker", "init", "--bundle", str(path), "--folder", str(tmp_path / "f"), *words, env={"PATH": str(tmp_path)}
    )
    assert (ran.code, reason in ran.err, ran.out) == (1, True, ""), ran.err
    assert not (tmp_path / "f").exists()


# -- a cluster --------------------------------------------------------------------------------------------------

MEMBERS = tuple(Member(f"10.0.0.{number}") for number in (5, 6, 7))


def test_each_server_of_a_cluster_has_a_folder_to_carry_without_a_secret_of_a_party(tmp_path: Path) -> None:
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


def test_a_change_of_the_parties_reaches_the_folder_of_every_server(tmp_path: Path) -> None:
    bus = create(tmp_path / "bus", replace(PLAN, members=MEMBERS), ["code"])
    BusFolder(bus.path).add("doc")
    texts = {server.accounts.read_text(encoding="utf-8") for server in bus.servers}
    assert len(texts) == 1
    assert '"agent-doc"' in texts.pop()


async def test_the_commands_of_a_cluster_say_what_to_carry_where(tmp_path: Path) -> None:
    person, folder = Operator(), tmp_path / "bus"
    members = [word for one in MEMBERS for word in ("--member", one.host)]
    made = await person.types("init", folder, *members, "--host", "bus.example.com", "--agent", "code")
    for number, one in enumerate(MEMBERS, 1):
        assert f"{folder / 'servers' / f'agentbus-{number}'}  to {one.host}" in made.out
    assert "--replicas 3 --agent code" in made.out
    added = await person.types("agent", "add", "doc", "--bus", folder)
    assert f"copy accounts.conf from each folder in {folder / 'servers'} to its machine" in added.out
    before = {server.path: (server.path / "server.pem").read_bytes() for server in BusFolder(folder).servers}
    await person.types("init", folder, "--renew-certificate", "--host", "bus.example.com")
    assert all((path / "server.pem").read_bytes() != old for path, old in before.items())


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (replace(PLAN, members=MEMBERS[:2]), "three members or five, not 2"),
        (replace(PLAN, members=(*MEMBERS[:2], MEMBERS[0])), "two servers cannot both have 10.0.0.5:7422"),
        (replace(PLAN, members=MEMBERS, certificate=Path("a"), key=Path("b")), "leave out --cert, --key and --ca"),
    ],
)
def test_a_cluster_that_cannot_be_made_is_refused(tmp_path: Path, plan: Plan, reason: str) -> None:
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
def test_a_member_is_read_as_it_is_written(text: str, member: Member) -> None:
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
def test_what_is_no_member_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"no member of a cluster: .*{reason}.*write it as HOST or HOST:PORT:CLUSTER"):
        read_member(text)

"""`agentbus init`: what a new bus folder holds, and which settings are refused."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.jetstream import connect
from agentbus.bus.setup import set_up
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.errors import BusUnavailableError, ConfigError
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.new_bus import Plan, create
from agentbus.provision.join import join_as_coordinator, join_as_worker
from agentbus.provision.nats_server import run_server
from support.free_ports import free_port
from support.harness import eventually, worker
from support.installation import FAKE, PLAN, make_certificates, outcome_of
from support.operator_commands import Operator, secrets_in

pytestmark = pytest.mark.posix("not tried on Windows")

RELOADED = "Reloaded server configuration"


@pytest.fixture
def bus(tmp_path: Path) -> BusFolder:
    return create(tmp_path / "bus", PLAN, ["code", "doc"])


@pytest.mark.posix("permission bits")
def test_only_the_owner_can_read_the_bus_folder(bus: BusFolder) -> None:
    for path in (bus.path, *bus.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_configuration_of_the_server_holds_no_secret(bus: BusFolder) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in bus.path.iterdir() if path.is_file())
    assert [secret for secret in secrets_in(bus) if secret in text] == []


def test_each_party_has_an_account_and_only_the_administrator_uses_those_of_the_streams(bus: BusFolder) -> None:
    text = (bus.path / "accounts.conf").read_text(encoding="utf-8")
    streams = text.partition('\n  "agent-')[0]
    assert (streams.count("\n  TASKS: {"), streams.count("\n  BUS: {")) == (1, 1)
    assert streams.count("nkey:") == 2
    assert "jetstream" in streams
    assert "jetstream" not in text.removeprefix(streams)
    for name in ("code", "doc", "main"):
        assert text.count(f'\n  "agent-{name}": {{') == 1


async def test_a_bus_with_passwords_gives_the_server_only_their_hashes(tmp_path: Path) -> None:
    pytest.importorskip("bcrypt")
    bus = create(tmp_path / "bus", replace(PLAN, port=free_port(), auth="password"), ["code"])
    text = (bus.path / "accounts.conf").read_text(encoding="utf-8")
    assert text.count('password: "$2b$11$') == 4  # of the administrator, two
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
            assert await outcome_of(Coordinator(connected), "code") == "completed"


async def test_a_certificate_of_the_operator_is_used_and_its_ca_is_in_the_bundle(tmp_path: Path) -> None:
    given = make_certificates(tmp_path)
    plan = replace(PLAN, port=free_port(), certificate=given.cert, key=given.key, ca=given.ca)
    bus = create(tmp_path / "bus", plan)
    assert not (bus.path / "tls").exists()
    assert bus.bundle("main").ca == given.ca.read_text(encoding="utf-8")
    async with run_server(store=tmp_path / "nats", config=bus.servers[0].configuration):
        config, _ = load_coordinator(path=join_as_coordinator(bus.bundle("main"), tmp_path / "here"))
        async with connect(connection_settings(config.nats, agent="main", name="test")) as connected:
            assert connected.connected


def test_the_url_has_the_first_host_and_the_server_listens_on_all_addresses_only_if_there_is_one(
    tmp_path: Path,
) -> None:
    here = create(tmp_path / "here", PLAN)
    assert here.url == "tls://127.0.0.1:7422"
    assert 'listen: "127.0.0.1:7422"' in here.servers[0].configuration.read_text(encoding="utf-8")
    there = create(tmp_path / "there", replace(PLAN, hosts=("Bus.example.com", "10.0.0.5")))
    assert there.url == "tls://bus.example.com:7422"
    assert 'listen: "0.0.0.0:7422"' in there.servers[0].configuration.read_text(encoding="utf-8")
    assert create(tmp_path / "six", replace(PLAN, hosts=("::1",))).url == "tls://[::1]:7422"


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (replace(PLAN, hosts=("no such host",)), "neither the name nor the address of a host"),
        (replace(PLAN, max_file="a lot"), "no amount of storage; write it as 512MiB or 10GiB"),
        (replace(PLAN, certificate=Path("cert.pem")), "--cert and --key go together"),
        (replace(PLAN, ca=Path("ca.pem")), "--cert and --key go together"),
        (replace(PLAN, certificate=Path("missing.pem"), key=Path("missing.pem")), "missing.pem does not exist"),
        (replace(PLAN, connections=10), "--connections-of-agent 64 is more than the 10 of the server"),
    ],
)
def test_contradictory_settings_are_refused_in_one_line(tmp_path: Path, plan: Plan, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        create(tmp_path / "bus", plan)
    assert not (tmp_path / "bus" / "bus.toml").exists()


async def test_the_bounds_of_connections_are_options_and_agents_that_are_added_later_get_them_too(
    tmp_path: Path,
) -> None:
    operator, folder = Operator(), tmp_path / "bus"
    options = ("--connections", "9000", "--connections-of-agent", "300", "--monitoring-port", "0")
    await operator.run("init", folder, "--agent", "code", "--port", str(free_port()), *options)
    await operator.run("agent", "add", "doc", "--bus", folder)
    assert "\nmax_connections: 9000\n" in (folder / "nats-server.conf").read_text(encoding="utf-8")
    accounts = (folder / "accounts.conf").read_text(encoding="utf-8")
    assert accounts.count("max_connections: 300, ") == 3, "of main, code and doc"
    config, _ = load_coordinator(path=join_as_coordinator(BusFolder(folder).bundle("main"), tmp_path / "here"))
    settings = connection_settings(config.nats, agent="main", name="test")
    async with run_server(store=tmp_path / "nats", config=folder / "nats-server.conf") as server:

        async def rewritten(*words: str, connections: int) -> None:
            reloads = server.log.read_text(encoding="utf-8").count(RELOADED)
            ran = await operator.run("init", folder, "--rewrite-accounts", *words)
            assert f"accounts.conf allows each agent {connections} connections; reload the server:\n" in ran.out
            assert "--signal reload=" in ran.out
            server.reload()
            await eventually(
                lambda: server.log.read_text(encoding="utf-8").count(RELOADED) > reloads, "the server has read it"
            )

        async with connect(settings) as first, connect(settings):
            await rewritten("--connections-of-agent", "2", connections=2)
            with pytest.raises(BusUnavailableError, match="takes no more connections"):
                async with connect(settings):
                    pass
            manifest = folder / "bus.toml"
            text = manifest.read_text(encoding="utf-8")
            manifest.write_text(text.replace("max_connections = 2\n", "max_connections = 3\n"), encoding="utf-8")
            await rewritten(connections=3)
            async with connect(settings):
                assert first.seconds_since_reconnect == float("inf"), "who was connected stays"

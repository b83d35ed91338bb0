"""`agentbus doctor` passes a working set-up of each role, and leaves nothing on the bus."""

import json
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.doctor import coordinator_toml, doctor, not_ok, the_finding
from support.harness import run_cli
from support.installation import make_certificates, own_bus, sample_bus
from support.terminal import shown_on_terminal

pytestmark = pytest.mark.posix("not tried on Windows")


async def message_counts(coordinator: Coordinator) -> dict[str, int]:
    """Return for each stream a number that changes with its messages and with its last sequence."""
    found: dict[str, int] = {}
    for item in (await coordinator.bus.api("STREAM.LIST"))["streams"]:
        found[item["config"]["name"]] = item["state"]["messages"] * 1_000_000 + item["state"]["last_seq"]
    return found


@pytest.mark.parametrize("kind", ["the shipped configuration", "a bus of agentbus init"])
async def test_every_role_passes_and_nothing_is_left_on_the_bus(tmp_path: Path, kind: str):
    shipped = kind == "the shipped configuration"
    async with (
        sample_bus(tmp_path, make_certificates(tmp_path)) if shipped else own_bus(tmp_path) as bus,
        bus.coordinator("admin") as admin,
    ):
        before = await message_counts(admin)
        main = await doctor("--config", str(coordinator_toml(tmp_path, bus)))
        code = await doctor("--role", "worker", "--config", str(bus.worker_toml(tmp_path, "code")))
        boss = await doctor("--role", "administrator", "--config", str(coordinator_toml(tmp_path, bus, "admin")))
        assert await message_counts(admin) == before
    assert not_ok(main) == []
    assert not_ok(code) == []
    assert not_ok(boss) == [("streams", "warning")] * 4  # the leases of one second, which the test has set
    leases = [finding["text"] for finding in boss if finding["check"] == "streams" and finding["verdict"] == "warning"]
    assert all("ack_wait" in text for text in leases)
    assert the_finding(main, "sign-in")["text"].startswith("as agent-main" if shipped else "with an nkey")
    assert "valid until" in the_finding(main, "tls")["text"]
    assert the_finding(code, "limits")["text"] == "nothing that a worker must not do"
    assert "k3v9" not in json.dumps([main, code, boss]), "a password"


async def test_a_local_bus_without_users_passes_and_is_reported_as_open(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    findings = await doctor("--nats-url", server.url)
    assert not_ok(findings) == []
    assert "every user of this machine" in the_finding(findings, "limits")["text"]
    assert the_finding(findings, "configuration")["text"] == "--nats-url"


async def test_an_invalid_configuration_is_the_only_finding(tmp_path: Path):
    path = tmp_path / "agentbus.toml"
    path.write_text("[nats]\nurll = 'nats://127.0.0.1:1'\n", encoding="utf-8")
    [finding] = await doctor("--config", str(path), code=1)
    assert (finding["check"], finding["verdict"]) == ("configuration", "failed")
    assert "url" in finding["text"]


async def test_the_terminal_output_has_a_line_for_each_finding_with_its_fix_below():
    done = await run_cli("doctor", "--nats-url", "nats://127.0.0.1:1")
    assert done.code == 1
    assert done.err == ""
    assert done.out.splitlines()[0].split() == ["ok", "configuration", "--nats-url"]
    assert done.out.splitlines()[-2].startswith("failed   tcp           nats://127.0.0.1:1: ")
    assert done.out.splitlines()[-1].strip().startswith("-> start the server")
    narrow = await shown_on_terminal("doctor", "--nats-url", "nats://127.0.0.1:1", code=1, env={"COLUMNS": "60"})
    assert max(map(len, narrow.splitlines())) <= 60
    assert "(agentbus up, or" in narrow
    usage = await run_cli("doctor", "--role", "worker", "--probe", "code")
    assert usage.code == 2

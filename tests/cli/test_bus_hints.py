"""What errors and remedies tell a person to run has the options with which the bus was reached."""

import json
from pathlib import Path

import pytest

from agentbus.bus.jetstream import connect
from agentbus.config.toml_text import toml_text
from agentbus.provision.nats_server import NatsServer
from support.harness import run_cli
from support.installation import own_bus
from support.pseudo_terminal import on_terminal


@pytest.fixture
def named(tmp_path: Path, server: NatsServer) -> Path:
    """A configuration without credentials, of a bus without streams."""
    file = tmp_path / "a bus.toml"
    file.write_text(toml_text({"nats": {"url": server.url}}), encoding="utf-8")
    return file


async def test_the_command_that_makes_the_streams_has_the_configuration_that_was_named(named: Path):
    ran = await run_cli("task", "list", "--config", str(named))
    assert ran.code == 1
    assert f"make it with: agentbus setup --config '{named}', as the administrator" in ran.err
    made = await run_cli("setup", "--config", str(named))
    assert made.code == 0, made.err
    assert (await run_cli("task", "list", "--config", str(named))).code == 0


async def test_it_has_the_url_that_was_named(server: NatsServer):
    ran = await run_cli("task", "list", "--nats-url", server.url)
    assert f"agentbus setup --nats-url {server.url}, as the administrator" in ran.err


async def test_a_url_with_a_secret_is_not_repeated(server: NatsServer):
    url = server.url.replace("nats://", "nats://me:secret@")
    ran = await run_cli("task", "list", "--nats-url", url)
    assert "agentbus setup, as the administrator" in ran.err
    assert "secret@" not in ran.err


async def test_the_remedies_of_the_doctor_have_it(named: Path):
    ran = await run_cli("doctor", "--json", "--config", str(named))
    fixes = [found["fix"] for found in map(json.loads, ran.out.splitlines()) if found["check"] == "streams"]
    assert fixes
    assert all(fix.startswith(f"agentbus setup --config '{named}'") for fix in fixes)


@pytest.mark.posix("a pseudo-terminal")
async def test_the_page_of_status_has_it(named: Path):
    _, shown = await on_terminal("status", "--config", str(named))
    assert f"make it with: agentbus setup --config '{named}'" in shown


@pytest.mark.posix("a bus folder")
async def test_the_file_of_the_administrator_is_named_and_that_of_a_coordinator_is_not(tmp_path: Path):
    async with own_bus(tmp_path) as own:
        administrator = own.folder.administrator
        coordinator = tmp_path / "coordinator.toml"
        coordinator.write_text(toml_text({"nats": own.nats("main")}), encoding="utf-8")
        async with connect(own.settings("admin")) as bus:
            await bus.api("STREAM.DELETE.AGENT_TASKS")
        of_administrator = await run_cli("doctor", "--role", "administrator", "--config", str(administrator))
        of_coordinator = await run_cli("doctor", "--config", str(coordinator))
    assert f"agentbus setup --config {administrator}, as the administrator" in of_administrator.out
    assert "agentbus setup, as the administrator" in of_coordinator.out

"""Credentials that are replaced while they are in use: parties with the new ones continue, others name the reason."""

import json
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from agentbus.config.nkeys import UserKey, new_seed
from agentbus.provision.certificates import new_authority, new_server_certificate
from agentbus.provision.nats_server import run_server
from support.harness import Process, eventually, run_cli, worker
from support.mcp_harness import data_of, error_of, over_stdio
from support.pace import at_this_pace
from support.signing_in import TOKEN, Bus, client_certificate, password_of, signing_in

pytestmark = pytest.mark.posix("not tried on Windows")


@pytest.fixture
async def bus(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncGenerator[Bus]:
    """Run a bus of the requested kind, set up for the agent `code`."""
    async with signing_in(tmp_path, request.param) as running:
        made = await run_cli("setup", "--config", str(running.coordinator_toml("admin")), "--agent", "code")
        assert made.code == 0, made.err
        yield running


def on(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bus", kinds, indirect=True)


class Rotation:
    """Writes a new credential of one party into its file and into the server."""

    def __init__(self, bus: Bus, party: str) -> None:
        self._bus = bus
        if bus.kind == "password":
            self.change = (json.dumps(password_of(party), ensure_ascii=False), '"new:p@ss"')
            self._file, self._content = bus.folder / f"{party}.password", "new:p@ss"
        elif bus.kind == "token":
            self.change = (json.dumps(TOKEN, ensure_ascii=False), '"new:t0ken"')
            self._file, self._content = bus.folder / "token", "new:t0ken"
        else:
            self._content, self._file = new_seed(), bus.folder / f"{party}.nk"
            self.change = (UserKey(bus.secrets[party]).public, UserKey(self._content).public)

    def in_file(self) -> None:
        self._bus.write(self._file.name, self._content + "\n")

    async def on_server(self) -> None:
        await self._bus.change(self.change)


async def works(bus: Bus, process: Process) -> None:
    """Check that the worker does a task of the administrator, whose credential does not change."""
    done = await run_cli("doctor", "--config", str(bus.coordinator_toml("admin")), "--probe", "code", "--json")
    [found] = [finding for finding in map(json.loads, done.out.splitlines()) if finding["check"] == "round trip"]
    assert found["verdict"] == "ok", (found, process.log.read_text(encoding="utf-8"))


# -- the worker -------------------------------------------------------------------------------------------------


@on("password", "token", "nkey")
async def test_a_worker_whose_credential_was_replaced_exits_with_the_reason(bus: Bus) -> None:
    rotation = Rotation(bus, "code")
    async with worker(bus.worker_toml()) as process:
        await rotation.on_server()
        assert await process.exit_code() == 1
        assert process.said("stopped: ")
        assert process.said("refused the credentials")
        assert process.said(f"{bus.folder}/")
        assert not process.said("Traceback")
    rotation.in_file()
    async with worker(bus.worker_toml()):
        pass


@on("password", "nkey")
async def test_a_worker_with_the_new_credential_in_its_file_continues(bus: Bus) -> None:
    rotation = Rotation(bus, "code")
    async with worker(bus.worker_toml()) as process:
        rotation.in_file()
        await rotation.on_server()
        await eventually(
            lambda: process.log.read_text(encoding="utf-8").count("connected to nats-server") == 2, "it is back"
        )
        await works(bus, process)


@on("password", "token", "nkey")
async def test_a_credential_that_is_replaced_during_an_outage_is_used_at_the_reconnect(bus: Bus) -> None:
    rotation = Rotation(bus, "code")
    async with worker(bus.worker_toml()) as process:
        bus.server.kill()
        await process.until_said("trying again")
        rotation.in_file()
        path = bus.folder / "server.conf"
        path.write_text(path.read_text(encoding="utf-8").replace(*rotation.change), encoding="utf-8")
        async with run_server(store=bus.folder / "nats", config=path):
            await eventually(
                lambda: process.log.read_text(encoding="utf-8").count("connected to nats-server") == 2, "it is back"
            )


@on("password")
async def test_a_secret_file_that_is_missing_for_a_moment_does_not_end_the_worker(bus: Bus) -> None:
    async with worker(bus.worker_toml()) as process:
        (bus.folder / "code.password").unlink()
        bus.server.kill()
        async with run_server(store=bus.folder / "nats", config=bus.folder / "server.conf"):
            await eventually(
                lambda: process.log.read_text(encoding="utf-8").count("connected to nats-server") == 2, "it is back"
            )


@on("creds")
async def test_a_worker_exits_when_its_jwt_expires_and_says_so(bus: Bus) -> None:
    assert bus.operator is not None
    bus.write("code.creds", bus.operator.creds("code", expires=time.time() + at_this_pace(4)))
    async with worker(bus.worker_toml()) as process:
        assert await process.exit_code() == 1
        assert process.said(f"the user JWT in {bus.folder / 'code.creds'} has expired on ")


@on("creds")
async def test_a_worker_with_a_new_jwt_in_its_file_continues(bus: Bus) -> None:
    assert bus.operator is not None
    bus.write("code.creds", bus.operator.creds("code", expires=time.time() + at_this_pace(4)))
    async with worker(bus.worker_toml()) as process:
        bus.write("code.creds", bus.operator.creds("code", expires=time.time() + 3600))
        await eventually(
            lambda: process.log.read_text(encoding="utf-8").count("connected to nats-server") == 2, "it is back"
        )
        await works(bus, process)


@on("certificate")
async def test_new_certificates_of_another_ca_are_used_at_the_next_connection(bus: Bus) -> None:
    async with worker(bus.worker_toml()) as process:
        bus.server.kill()
        authority = new_authority("Next CA")
        server, client = new_server_certificate(authority, ["127.0.0.1"]), client_certificate(authority, "agent-code")
        for name, content in {
            "ca.pem": authority.certificate, "server.pem": server.certificate, "server-key.pem": server.key,
            "code.pem": client.certificate, "code-key.pem": client.key,
        }.items():  # fmt: skip
            bus.write(name, content)
        async with run_server(store=bus.folder / "nats", config=bus.folder / "server.conf"):
            await eventually(
                lambda: process.log.read_text(encoding="utf-8").count("connected to nats-server") == 2, "it is back"
            )


# -- the MCP server ---------------------------------------------------------------------------------------------


async def until(client: Client, holds: Callable[[Any], bool], what: str) -> Any:
    async def call() -> Any:
        answer = await client.call_tool("get_results", {})
        return answer if holds(answer) else None

    return await eventually(call, what)


@on("password", "nkey")
async def test_the_mcp_server_reports_refused_credentials_and_continues_once_the_file_has_the_new_one(bus: Bus) -> None:
    rotation, log = Rotation(bus, "code"), bus.folder / "mcp.log"
    config = str(bus.coordinator_toml("code"))
    async with over_stdio(log, "auto", "--config", config) as client:
        assert data_of(await client.call_tool("get_results", {}))["results"] == []
        await rotation.on_server()
        answer = await until(client, lambda answer: answer.is_error, "the refusal is told")
        text = error_of(answer)
        assert "refused the credentials" in text
        assert str(bus.folder) in text
        assert "call again" in text
        rotation.in_file()
        assert data_of(await client.call_tool("get_results", {}))["results"] == []
    assert "Traceback" not in log.read_text(encoding="utf-8")


@on("password", "nkey")
async def test_the_mcp_server_continues_silently_with_the_new_credential_in_its_file(bus: Bus) -> None:
    rotation, log = Rotation(bus, "code"), bus.folder / "mcp.log"
    async with over_stdio(log, "auto", "--config", str(bus.coordinator_toml("code"))) as client:
        assert data_of(await client.call_tool("get_results", {}))["results"] == []
        rotation.in_file()
        await rotation.on_server()
        await eventually(lambda: log.read_text(encoding="utf-8").count("connected to nats-server") == 2, "it is back")
        assert data_of(await client.call_tool("get_results", {}))["results"] == []

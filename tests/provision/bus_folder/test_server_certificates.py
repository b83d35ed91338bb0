"""`agentbus init --renew-certificate` signs a new certificate, which a running server takes with a reload."""

from dataclasses import replace
from pathlib import Path

import pytest

from agentbus.bus.jetstream import connect
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.provision.bus_folder.new_bus import create
from agentbus.provision.join import join_as_coordinator
from agentbus.provision.nats_server import run_server
from support.free_ports import free_port
from support.harness import eventually, run_cli
from support.installation import PLAN

pytestmark = pytest.mark.posix("not tried on Windows")


async def test_a_renewed_certificate_is_used_after_a_reload_without_a_restart(tmp_path: Path) -> None:
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

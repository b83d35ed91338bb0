"""`agentbus doctor` reports the step at which a connection fails: name, port, greeting, TLS."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509

from agentbus import Coordinator
from agentbus.config.toml_text import toml_text
from agentbus.provision.nats_server import NatsServer
from support.doctor import coordinator_toml, doctor, doctor_at, not_ok, the_finding
from support.installation import Sample

pytestmark = pytest.mark.posix("not tried on Windows")


INFO = b'INFO {"server_id":"x","version":"2.12.0","max_payload":1000000,"headers":true,"tls_available":true}\r\n'


@asynccontextmanager
async def greeting_server(greeting: bytes, *, then_close: bool = False) -> AsyncGenerator[str]:
    """Listen and greet each client, then read without answering, or close once the client has sent something."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        while await reader.read(65_536) and not then_close:
            pass
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("url", "check", "text"),
    [
        ("nats://no-such-host.invalid:4222", "name", "no-such-host.invalid"),
        ("nats://127.0.0.1:1", "tcp", "refused"),
    ],
)
async def test_an_unreachable_server_fails_the_check_of_the_step_that_failed(url: str, check: str, text: str):
    findings = await doctor("--nats-url", url, code=1)
    assert not_ok(findings) == [(check, "failed")]
    assert text in the_finding(findings, check)["text"]
    assert the_finding(findings, check)["fix"]


async def test_a_port_of_another_kind_of_server_fails_at_the_greeting():
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        findings = await doctor("--nats-url", f"nats://127.0.0.1:{port}", code=1)
    assert "no NATS server" in the_finding(findings, "greeting")["text"]


async def test_a_greeting_that_is_not_json_fails_at_the_greeting():
    async with greeting_server(b"INFO {oops\r\n") as address:
        findings = await doctor("--nats-url", f"nats://{address}", code=1)
    assert "no NATS server" in the_finding(findings, "greeting")["text"]


async def test_a_server_that_does_not_answer_after_its_greeting_fails_at_the_sign_in():
    async with greeting_server(INFO) as address:
        findings = await doctor("--nats-url", f"nats://{address}", code=1)
    assert not_ok(findings) == [("sign-in", "failed")]
    assert "did not answer within" in the_finding(findings, "sign-in")["text"]


async def test_tls_is_checked_before_the_credentials(tmp_path: Path, sample: Sample, server: NatsServer):
    no_ca = tmp_path / "no-ca.toml"
    no_ca.write_text(toml_text({"nats": {"url": sample.url("main")}}), encoding="utf-8")
    no_ca.chmod(0o600)
    findings = await doctor("--config", str(no_ca), code=1)
    assert the_finding(findings, "tls")["verdict"] == "failed"
    assert "ca_file" in the_finding(findings, "tls")["fix"]
    stripped = server.url.replace("nats://", "tls://")
    findings = await doctor("--nats-url", stripped, code=1)
    assert "offers no TLS" in the_finding(findings, "tls")["text"]


async def test_a_server_that_closes_in_the_tls_handshake_fails_at_tls():
    async with greeting_server(INFO, then_close=True) as address:
        findings = await doctor("--nats-url", f"tls://{address}", code=1)
    assert the_finding(findings, "tls")["verdict"] == "failed"
    assert "TLS with" in the_finding(findings, "tls")["text"]


async def test_a_certificate_that_expires_soon_is_a_warning(tmp_path: Path, sample: Sample):
    ends = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes()).not_valid_after_utc
    clock = tmp_path / "clock"
    clock.write_text(str(ends.timestamp() - time.time() - 3 * 86_400), encoding="utf-8")
    findings = await doctor_at(clock, "--config", str(coordinator_toml(tmp_path, sample)))
    assert the_finding(findings, "tls")["verdict"] == "warning"
    assert "renew it" in the_finding(findings, "tls")["fix"]


async def test_an_unencrypted_connection_is_a_warning(server: NatsServer, coordinator: Coordinator):
    """The address 0.0.0.0 reaches this machine, but is not a loopback address."""
    port = server.url.rpartition(":")[2]
    findings = await doctor("--nats-url", f"nats://0.0.0.0:{port}")
    assert the_finding(findings, "tls")["verdict"] == "warning"
    assert "not encrypted" in the_finding(findings, "tls")["text"]

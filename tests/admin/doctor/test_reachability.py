"""`agentbus doctor` reports the step at which a connection fails: name, port, greeting, TLS."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509

from agentbus import Coordinator
from agentbus.admin.doctor import reachability, sign_in
from agentbus.config.toml_text import toml_text
from agentbus.provision.nats_server import NatsServer
from support.altered_link import AlteredLink
from support.doctor import coordinator_toml, doctor, doctor_at, doctor_in_process, not_ok, the_finding
from support.fake_server import fake_server
from support.harness import eventually
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

    async with fake_server(greet) as port:
        yield f"127.0.0.1:{port}"


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

    async with fake_server(greet) as port:
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
    assert "sign-in" not in {finding["check"] for finding in findings}, "the same fault once more"
    stripped = server.url.replace("nats://", "tls://")
    findings = await doctor("--nats-url", stripped, code=1)
    assert "offers no TLS" in the_finding(findings, "tls")["text"]


async def test_a_server_that_closes_in_the_tls_handshake_fails_at_tls():
    async with greeting_server(INFO, then_close=True) as address:
        findings = await doctor("--nats-url", f"tls://{address}", code=1)
    assert not_ok(findings) == [("tls", "failed")]
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


async def _hang(*_: object, **__: object) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("step", "timeout_s", "check", "text"),
    [
        ("getaddrinfo", 0.1, "name", "is not resolved within 0.1 s"),
        ("open_connection", 3.0, "tcp", "does not answer within 3 s"),  # the name must be resolved within this time
    ],
)
async def test_a_step_that_takes_too_long_fails_and_says_what_to_check(
    monkeypatch: pytest.MonkeyPatch, step: str, timeout_s: float, check: str, text: str
):
    monkeypatch.setattr(reachability, "_CONNECT_S", timeout_s)
    monkeypatch.setattr(asyncio.get_running_loop() if step == "getaddrinfo" else asyncio, step, _hang)
    findings = await doctor_in_process("nats://127.0.0.1:4222")
    assert not_ok(findings) == [(check, "failed")]
    assert text in the_finding(findings, check)["text"]
    assert the_finding(findings, check)["fix"]


async def test_a_server_that_sends_nothing_fails_at_the_greeting_and_at_the_sign_in(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reachability, "_CONNECT_S", 3.0)
    monkeypatch.setattr(sign_in, "_CONNECT_S", 1.0)
    closed: list[bytes] = []

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        closed.append(await reader.read())
        writer.close()

    async with fake_server(say_nothing) as port:
        url = f"nats://127.0.0.1:{port}"
        findings = await doctor_in_process(url)
        await eventually(lambda: len(closed) == 2, "both connections are closed")
    assert closed == [b"", b""]
    assert not_ok(findings) == [("greeting", "failed"), ("sign-in", "failed")]
    assert the_finding(findings, "greeting")["text"] == f"what listens on {url} is no NATS server"
    assert the_finding(findings, "sign-in")["text"] == f"no answer from {url} within 1 s"


async def test_a_server_that_requires_tls_is_not_reported_as_unencrypted(link: AlteredLink):
    link.info["tls_required"] = True
    assert [finding for finding in await doctor_in_process(link.url) if finding["check"] == "tls"] == []

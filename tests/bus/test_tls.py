"""TLS on the client's side: files that are gone or just being replaced, and handshakes that fail, with the remedy."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentbus.bus.jetstream import connect
from agentbus.bus.nats_client import Client
from agentbus.config.connection_settings import ConnectionSettings, Credentials, connection_settings
from agentbus.config.schema import NatsSection
from agentbus.errors import BusUnavailableError, ConfigError
from agentbus.provision import certificates
from agentbus.provision.certificates import Pair, new_authority, new_server_certificate
from support.harness import BOUND_S, eventually
from support.signing_in import client_certificate, signing_in
from support.tap import tapped

pytestmark = pytest.mark.posix("not tried on Windows")


def settings(**nats: Any) -> ConnectionSettings:
    section = NatsSection.model_validate(nats)
    return connection_settings(section, agent="main", name="test", reconnect_wait_s=0.05)


def written(folder: Path, name: str, pair: Pair) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    certificate.write_bytes(pair.certificate)
    key.write_bytes(pair.key)
    return certificate, key


# -- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["ca_file", "cert_file", "key_file"])
async def test_a_file_that_is_gone_when_the_server_is_dialled_is_named(tmp_path: Path, gone: str):
    authority = new_authority("Test CA")
    ca, _ = written(tmp_path, "ca", authority)
    certificate, key = written(tmp_path, "main", client_certificate(authority, "main"))
    files = {"ca_file": ca, "cert_file": certificate, "key_file": key}
    config = settings(url="tls://127.0.0.1:1", **files)
    files[gone].unlink()
    with pytest.raises(ConfigError, match=f"cannot read (ca_file )?{files[gone]}: No such file or directory"):
        async with connect(config):
            pass


async def test_a_ca_file_that_is_just_being_replaced_at_a_reconnect_does_not_end_the_connection(tmp_path: Path):
    states: list[str] = []
    async with signing_in(tmp_path, "own CA") as server, tapped(server.port) as tap:
        nats = {**server.nats["main"], "url": server.at(tap.port, "main")}
        async with connect(settings(**nats), on_state=states.append) as bus:
            (tmp_path / "ca.pem").write_text("-----BEGIN", encoding="utf-8")
            await tap.cut()
            await eventually(lambda: len(states) == 3, "it is back")
            assert (await bus.request("$JS.API.INFO")).data
    assert [state.partition(" ")[0] for state in states] == ["connected", "connection", "connected"]


# -- handshakes -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def greeting(context: ssl.SSLContext) -> AsyncGenerator[int]:
    """What greets one client as a NATS server that wants TLS, and takes no more than the handshake; its port."""
    info = {"server_id": "x", "version": "2.15.1", "max_payload": 1048576, "headers": True, "tls_required": True}

    def serve() -> None:  # not by asyncio, which hangs up in place of the alert
        client, _ = listener.accept()
        client.settimeout(BOUND_S)
        with client:
            client.sendall(b"INFO " + json.dumps(info).encode() + b"\r\n")
            with suppress(OSError):
                context.wrap_socket(client, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(BOUND_S)
        serving = asyncio.create_task(asyncio.to_thread(serve))
        yield listener.getsockname()[1]
        await serving


def serving(folder: Path, authority: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*written(folder, "server", new_server_certificate(authority, ["127.0.0.1"])))
    return context


async def refusal(port: int, ca: Path, **nats: Any) -> str:
    with pytest.raises(BusUnavailableError) as refused:
        async with asyncio.timeout(BOUND_S), connect(settings(url=f"tls://127.0.0.1:{port}", ca_file=ca, **nats)):
            pass
    return str(refused.value)


async def test_an_expired_server_certificate_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    authority = new_authority("Test CA")
    ca, _ = written(tmp_path, "ca", authority)
    monkeypatch.setattr(certificates, "_BACKDATED", timedelta(days=certificates.SERVER_DAYS + 1))
    async with greeting(serving(tmp_path, authority)) as port:
        said = await refusal(port, ca)
    assert "certificate has expired" in said
    assert "renew the server's certificate, or set the clock of this machine" in said


@pytest.mark.parametrize("shown", ["nothing", "a certificate of another CA"])
async def test_a_client_certificate_that_the_server_refuses_in_the_handshake_is_named(tmp_path: Path, shown: str):
    authority = new_authority("Test CA")
    ca, _ = written(tmp_path, "ca", authority)
    context = serving(tmp_path, authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # with 1.3 the refusal comes behind the handshake
    certificate, key = written(tmp_path, "other", client_certificate(new_authority("Another CA"), "main"))
    nats = {} if shown == "nothing" else {"cert_file": certificate, "key_file": key}
    async with greeting(context) as port:
        said = await refusal(port, ca, **nats)
    assert f"TLS with tls://127.0.0.1:{port} failed: " in said
    assert "alert" in said
    if shown == "nothing":
        assert "the server asks for a client certificate: set cert_file and key_file in [nats]" in said
    else:
        assert f"the server does not accept {certificate}: take a certificate of a CA that it trusts" in said


async def test_a_tls_alert_before_a_reset_of_the_connection_is_the_reason():
    client = Client(
        credentials=Credentials,
        tls=ssl.create_default_context,
        tls_always=True,
        shows_certificate=True,
        has_new_credentials=lambda: False,
    )

    # What is left of a connection: the alert that came before the reset.
    reader, alert = asyncio.StreamReader(), ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]")
    reader.set_exception(alert)
    client._transport = SimpleNamespace(_io_reader=reader)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    assert client._reason(ConnectionResetError()) is alert  # pyright: ignore[reportPrivateUsage]
    assert client._reason(alert) is alert  # pyright: ignore[reportPrivateUsage]

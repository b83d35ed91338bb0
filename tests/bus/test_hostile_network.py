"""An attacker between client and server gets no credential, at the start or at a reconnect, with any way to sign in."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from agentbus.provision.certificates import Pair, new_authority, new_server_certificate
from support.fake_server import fake_server
from support.harness import eventually, run_cli, worker
from support.mcp_harness import data_of, error_of, over_stdio
from support.signing_in import Bus, password_of, signing_in
from support.tap import Tap, tapped

pytestmark = pytest.mark.posix("not tried on Windows")

STRIPPED = "the server does not offer TLS, and tls:// was asked for; no credential was sent"
REFUSED_TLS = "is not the CA of this server"


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncGenerator[Bus]:
    """A bus with passwords and TLS that is set up for the agent `code`."""
    async with signing_in(tmp_path, "own CA") as running:
        made = await run_cli("setup", "--config", str(running.coordinator_toml("admin")), "--agent", "code")
        assert made.code == 0, made.err
        yield running


@pytest.fixture
async def tap(bus: Bus) -> AsyncGenerator[Tap]:
    async with tapped(bus.port) as opened:
        yield opened


def served_by(pair: Pair, folder: Path) -> ssl.SSLContext:
    (folder / "served.pem").write_bytes(pair.certificate)
    (folder / "served-key.pem").write_bytes(pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "served.pem", folder / "served-key.pem")
    return context


def strip(tap: Tap, _: Path) -> None:
    tap.strip = True


def pose(tap: Tap, folder: Path) -> None:
    tap.impostor = served_by(new_server_certificate(new_authority("Test CA"), ["127.0.0.1"]), folder)


def relent(tap: Tap) -> None:
    tap.strip, tap.impostor = False, None


hostile = pytest.mark.parametrize(
    ("turn", "said"), [(strip, STRIPPED), (pose, REFUSED_TLS)], ids=["takes TLS away", "shows another certificate"]
)
Turn = Callable[[Tap, Path], None]


def nothing_was_sent(tap: Tap) -> None:
    assert tap.received_hostile
    assert set(map(bytes, tap.received_hostile)) == {b""} or all(
        sent.startswith(b"\x16\x03") or not sent for sent in tap.received_hostile
    )
    for sent in (*tap.received_hostile, *tap.received):
        for party in ("admin", "main", "code"):
            assert password_of(party).encode() not in sent
        assert b"CONNECT" not in sent


# -- at the start -----------------------------------------------------------------------------------------------


@hostile
async def test_a_command_sends_nothing(bus: Bus, tap: Tap, turn: Turn, said: str, tmp_path: Path) -> None:
    turn(tap, tmp_path)
    config = bus.coordinator_toml("main", url=bus.at(tap.port, "main"))
    read = await run_cli("result", "get", "--agent", "main", "--config", str(config))
    assert read.code == 1
    assert said in read.err
    nothing_was_sent(tap)


@hostile
async def test_neither_worker_nor_mcp_server_send_anything_and_both_start_once_it_is_the_bus(
    bus: Bus, tap: Tap, turn: Turn, said: str, tmp_path: Path
) -> None:
    turn(tap, tmp_path)
    main = bus.coordinator_toml("main", url=bus.at(tap.port, "main"))
    async with (
        worker(bus.worker_toml(url=bus.at(tap.port, "code")), ready=False) as process,
        over_stdio(tmp_path / "mcp.log", "auto", "--config", str(main)) as client,
    ):
        await process.until_said(said)
        assert said in error_of(await client.call_tool("get_results", {}))
        nothing_was_sent(tap)
        relent(tap)
        await process.until_said("ready for tasks")
        assert data_of(await client.call_tool("get_results", {}))["results"] == []
    nothing_was_sent(tap)


# -- at a reconnect ---------------------------------------------------------------------------------------------


@hostile
async def test_at_a_reconnect_neither_worker_nor_mcp_server_send_anything_and_both_come_back(
    bus: Bus, tap: Tap, turn: Turn, said: str, tmp_path: Path
) -> None:
    main = bus.coordinator_toml("main", url=bus.at(tap.port, "main"))
    async with (
        worker(bus.worker_toml(url=bus.at(tap.port, "code"))) as process,
        over_stdio(tmp_path / "mcp.log", "auto", "--config", str(main)) as client,
    ):
        assert data_of(await client.call_tool("get_results", {}))["results"] == []
        turn(tap, tmp_path)
        await tap.cut()
        await process.until_said(said)
        await eventually(lambda: len(tap.received_hostile) > 3, "both have tried to come back")
        assert said in error_of(await client.call_tool("get_results", {}))
        nothing_was_sent(tap)
        relent(tap)
        await eventually(
            lambda: process.log.read_text(encoding="utf-8").count("connected to nats-server") == 2, "it is back"
        )
        job = {"to": ["code"], "content": "say:back", "task_type": "test"}
        [task] = data_of(await _patiently(client, "publish_task", job))["published"]
        answer = await client.call_tool("watch_results", {"task_ids": [task["task_id"]], "timeout_seconds": 20})
        assert [result["output"] for result in data_of(answer)["results"]] == ["back\n"]
    nothing_was_sent(tap)


async def _patiently(client: Any, tool: str, arguments: dict[str, Any]) -> Any:
    """The answer of a tool once the bus is back."""

    async def call() -> Any:
        answer = await client.call_tool(tool, arguments)
        return None if answer.is_error else answer

    return await eventually(call, f"{tool} works again")


# -- what else he can do ----------------------------------------------------------------------------------------


async def test_with_a_ca_file_there_is_no_way_around_tls_whatever_the_url_says(bus: Bus, tap: Tap) -> None:
    url = bus.at(tap.port, "main").replace("tls://", "nats://")
    read = await run_cli("result", "get", "--agent", "main", "--config", str(bus.coordinator_toml("main", url=url)))
    assert (read.code, read.err) == (0, "")
    tap.strip = True
    read = await run_cli("result", "get", "--agent", "main", "--config", str(bus.coordinator_toml("main", url=url)))
    assert STRIPPED in read.err
    nothing_was_sent(tap)


async def test_a_server_that_was_named_before_tls_is_held_to_the_name_in_the_configuration(
    bus: Bus, tap: Tap, tmp_path: Path
) -> None:
    # He has a good certificate, for another name: with the CAs of the system, everybody can have one.
    assert bus.authority is not None
    other = served_by(new_server_certificate(bus.authority, ["localhost"]), tmp_path)
    async with tapped(bus.port) as lure:
        lure.impostor = other
        tap.lie = {"connect_urls": [f"localhost:{lure.port}"]}
        async with worker(bus.worker_toml(url=bus.at(tap.port, "code"))) as process:
            tap.strip = True  # so that the other one is tried
            await tap.cut()
            await eventually(lambda: len(lure.received_hostile) > 1, "the worker has followed the lure twice")
            await process.until_said("the server's certificate has")
        assert [bytes(sent) for sent in lure.received_hostile if b"CONNECT" in sent] == []


async def test_with_tls_first_a_greeting_in_the_clear_is_not_even_read(bus: Bus) -> None:
    received = bytearray()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"headers":true}\r\n')
        received.extend(await reader.read(65536))
        writer.close()

    async with fake_server(greet) as port:
        url = bus.at(port, "main").replace("tls://", "nats://")
        read = await run_cli(
            "result", "get", "--agent", "main", "--config", str(bus.coordinator_toml("main", url=url, tls_first=True))
        )
    assert (read.code, read.out) == (1, "")
    assert "TLS with" in read.err or "hung up" in read.err, "it depends on what comes first"
    assert received.startswith(b"\x16\x03"), "the beginning of a handshake"
    assert password_of("main").encode() not in received


async def test_a_server_that_says_nothing_gets_nothing(bus: Bus) -> None:
    received: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(65536))
        writer.close()

    async with fake_server(listen) as port:
        config = bus.coordinator_toml("main", url=bus.at(port, "main"))
        read = await run_cli("result", "get", "--agent", "main", "--config", str(config))
        assert read.code == 1
        assert "did not answer within" in read.err
        await eventually(lambda: received, "the command has hung up")
    assert received == [b""]

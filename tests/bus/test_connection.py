"""The connection: secure, honest about what went wrong, and back after an outage."""

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from agentbus.bus.connection import REQUEST_TIMEOUT_S
from agentbus.bus.jetstream import Bus, connect
from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.schema import NatsSection
from agentbus.errors import (
    AuthenticationError,
    BusUnavailableError,
    PermissionDeniedError,
    SetupMissingError,
    StreamFullError,
    TooLargeError,
    WrongRevisionError,
)
from agentbus.provision.nats_server import NatsServer, run_server, start_server
from support.connections import stop_listening
from support.fake_server import fake_server
from support.free_ports import free_port
from support.harness import BOUND_S, eventually

USERS = """
listen: "127.0.0.1:-1"
jetstream { store_dir: "%s" }
authorization { users: [
  { user: admin, password: "p@ss/w:rd%%" }
  { user: agent-code, password: code, permissions: {
      publish: { allow: ["$JS.API.INFO", "agent.code.dead"] }
      subscribe: { allow: ["_INBOX_code.>"] } } }
] }
"""


def settings(url: str, **more: object) -> ConnectionSettings:
    return connection_settings(NatsSection(url=url, **more), agent="main", name="test")  # pyright: ignore[reportArgumentType]


def with_user(server: NatsServer, userinfo: str) -> str:
    return server.url.replace("nats://", f"nats://{userinfo}@")


SOON_S = 0.9 * REQUEST_TIMEOUT_S
"""Before a request that is not answered has failed."""


@pytest.fixture
async def guarded(tmp_path: Path):
    """A server with users and permissions."""
    conf = tmp_path / "users.conf"
    conf.write_text(USERS % (tmp_path / "guarded"), encoding="utf-8")
    async with run_server(store=tmp_path / "guarded", config=conf) as server:
        yield server


@pytest.mark.parametrize(
    "limit",
    [
        "max_connections: 1",
        "accounts { A { jetstream: enabled, limits: { max_connections: 1 }, users: [{ user: u, password: p }] } }",
    ],
    ids=["of the server", "of an account"],
)
async def test_a_bus_with_all_its_connections_taken_is_not_taken_for_one_that_is_down(tmp_path: Path, limit: str):
    conf = tmp_path / "full.conf"
    store = json.dumps(str(tmp_path / "full"))
    conf.write_text(f"listen: 127.0.0.1:-1\njetstream {{ store_dir: {store} }}\n{limit}\n", encoding="utf-8")
    async with run_server(store=tmp_path / "full", config=conf) as server:
        url = with_user(server, "u:p") if "accounts" in limit else server.url
        async with connect(settings(url)):
            with pytest.raises(BusUnavailableError) as refused:
                async with connect(settings(url)):
                    pass
    assert "takes no more connections (maximum " in str(refused.value)
    assert "raise max_connections" in str(refused.value)
    assert "agentbus up" not in str(refused.value)


async def test_a_connection_that_ended_for_too_many_subscriptions_says_so(tmp_path: Path):
    conf = tmp_path / "few.conf"
    store = json.dumps(str(tmp_path / "few"))
    conf.write_text(
        f"listen: 127.0.0.1:-1\njetstream {{ store_dir: {store} }}\nmax_subscriptions: 8\n", encoding="utf-8"
    )
    async with run_server(store=tmp_path / "few", config=conf) as server, connect(settings(server.url)) as bus:
        for number in range(16):
            with suppress(BusUnavailableError):  # the connection has ended meanwhile
                await bus.subscribe(f"any.{number}", _ignore)
        async with asyncio.timeout(BOUND_S):
            ended = await bus.wait_closed()
    assert "takes no more subscriptions of one connection (maximum " in str(ended)
    assert "agentbus up" not in str(ended)


async def test_a_refused_port_fails_at_once_and_names_the_way_out():
    with pytest.raises(BusUnavailableError, match=r"connection refused; .*`agentbus up`"):
        async with asyncio.timeout(BOUND_S), connect(settings(f"nats://127.0.0.1:{free_port()}")):
            pass


async def test_each_of_several_servers_is_tried_before_giving_up(server: NatsServer):
    url = f"nats://127.0.0.1:{free_port()},{server.url}"
    for _ in range(4):
        async with connect(settings(url)) as bus:
            assert bus.connected


async def test_a_wrong_password_fails_at_once_with_the_reason(guarded: NatsServer):
    with pytest.raises(AuthenticationError, match=r"refused the credentials of the user admin") as refusal:
        async with asyncio.timeout(BOUND_S), connect(settings(with_user(guarded, "admin:secret"))):
            pass
    assert "secret" not in str(refusal.value)


async def test_a_wrong_password_ends_the_retries_of_the_first_dial_at_once(guarded: NatsServer):
    with pytest.raises(AuthenticationError):
        async with (
            asyncio.timeout(BOUND_S),
            connect(settings(with_user(guarded, "admin:secret")), retry_on_failed_connect=True),
        ):
            pass


async def test_a_percent_encoded_password_is_decoded(guarded: NatsServer):
    async with connect(settings(with_user(guarded, "admin:p%40ss%2Fw%3Ard%25"))) as bus:
        assert (await bus.api("INFO"))["type"].endswith("account_info_response")


async def test_the_first_dial_is_retried_until_the_server_is_up_and_each_change_of_state_is_reported_once(
    tmp_path: Path,
):
    port, states = free_port(), list[str]()
    config = connection_settings(
        NatsSection(url=f"nats://127.0.0.1:{port}"), agent="main", name="test", reconnect_wait_s=0.05
    )
    dial = asyncio.create_task(open_and_close(config, states))
    await eventually(lambda: states, "the first failure is reported")
    async with run_server(store=tmp_path / "late", port=port):
        await asyncio.wait_for(dial, BOUND_S)
    assert len(states) == 2
    assert "trying again" in states[0]
    assert "connected to nats-server" in states[1]


async def test_the_first_dial_is_retried_as_often_as_configured():
    config = connection_settings(
        NatsSection(url=f"nats://127.0.0.1:{free_port()}"),
        agent="main",
        name="test",
        reconnect_wait_s=0.01,
        max_reconnect_attempts=2,
    )
    states: list[str] = []
    with pytest.raises(BusUnavailableError, match="cannot reach the bus"):
        async with asyncio.timeout(BOUND_S):
            await open_and_close(config, states)
    assert len(states) == 1
    assert "trying again" in states[0]


async def open_and_close(config: ConnectionSettings, states: list[str]) -> None:
    async with connect(config, retry_on_failed_connect=True, on_state=states.append):
        pass


async def test_a_refused_publish_permission_is_named_within_a_round_trip(guarded: NatsServer):
    async with (
        connect(settings(with_user(guarded, "agent-code:code"))) as bus,
        asyncio.timeout(SOON_S),
    ):
        with pytest.raises(PermissionDeniedError, match=r"publish to agent\.review\.tasks"):
            await bus.store("agent.review.tasks", b"{}", msg_id="x")
        with pytest.raises(PermissionDeniedError, match=r"publish to \$JS\.API\.STREAM\.LIST;"):
            await bus.api("STREAM.LIST")
        assert await bus.api("INFO")


async def test_an_inbox_that_is_not_allowed_is_named_as_the_cause(guarded: NatsServer):
    url = with_user(guarded, "agent-code:code")
    async with connect(settings(url, inbox_prefix="_INBOX_other")) as bus, asyncio.timeout(SOON_S):
        for _ in range(2):  # the second is not even sent: its answer could not come either
            with pytest.raises(PermissionDeniedError, match="inbox_prefix"):
                await bus.api("INFO")


async def test_an_oversized_message_is_refused_before_sending_and_the_connection_lives_on(server: NatsServer):
    async with connect(settings(server.url)) as bus:
        limit = bus.max_message_bytes
        for size, headers in ((limit + 1, None), (limit - 10, {"Some-Header": "x"})):
            with pytest.raises(TooLargeError, match=str(limit)):
                await bus.store("agent.code.dead", bytes(size), headers=headers)
        assert await bus.api("INFO")
        await bus.publish("nobody.listens", bytes(limit - 100), headers={"Some-Header": "x" * 60})
        assert await bus.api("INFO")


async def test_a_message_of_exactly_the_limit_with_headers_is_taken(server: NatsServer):
    async with connect(settings(server.url)) as bus:
        await bus.api("STREAM.CREATE.ANY", {"name": "ANY", "subjects": ["any"]})
        headers = {"A": "b", "Long-Name": "ü"}
        overhead = 12 + sum(len(key.encode()) + len(value.encode()) + 4 for key, value in headers.items())
        stored = await bus.store("any", bytes(bus.max_message_bytes - overhead), headers=headers)
        assert stored.seq == 1


async def test_a_missing_stream_is_an_error_that_names_the_command(server: NatsServer):
    async with connect(settings(server.url)) as bus:
        with pytest.raises(SetupMissingError, match="agentbus setup"):
            await bus.store("agent.code.tasks", b"{}", msg_id="x")
        with pytest.raises(SetupMissingError, match="AGENT_TASKS"):
            await bus.api("STREAM.INFO.AGENT_TASKS")
        with pytest.raises(SetupMissingError, match="KV_AGENT_STATE"):
            await bus.last_message("KV_AGENT_STATE", "$KV.AGENT_STATE.code.x")


async def test_a_server_without_jetstream_is_named_as_such(tmp_path: Path):
    conf = tmp_path / "plain.conf"
    conf.write_text('listen: "127.0.0.1:-1"\n', encoding="utf-8")
    async with run_server(store=tmp_path / "plain", config=conf) as server, connect(settings(server.url)) as bus:
        with pytest.raises(SetupMissingError, match="JetStream"):
            await bus.api("STREAM.INFO.AGENT_TASKS")


async def test_a_full_stream_refuses_instead_of_dropping(server: NatsServer):
    async with connect(settings(server.url)) as bus:
        await bus.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s"], "max_msgs": 1, "discard": "new"})
        await bus.store("s", b"first", msg_id="1")
        with pytest.raises(StreamFullError, match="nothing was stored"):
            await bus.store("s", b"second", msg_id="2")
        info = await bus.api("STREAM.INFO.S")
        assert info["state"]["messages"] == 1


async def test_storing_twice_under_one_id_stores_once(server: NatsServer):
    async with connect(settings(server.url)) as bus:
        await bus.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s"]})
        assert not (await bus.store("s", b"a", msg_id="1")).duplicate
        assert (await bus.store("s", b"b", msg_id="1")).duplicate
        assert (await bus.api("STREAM.INFO.S"))["state"]["messages"] == 1


async def test_a_compare_and_set_at_the_wrong_revision_is_refused(server: NatsServer):
    async with connect(settings(server.url)) as bus:
        await bus.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s"], "allow_direct": True})
        first = await bus.store("s", b"a", expected_revision=0)
        with pytest.raises(WrongRevisionError):
            await bus.store("s", b"b", expected_revision=0)
        await bus.store("s", b"c", expected_revision=first.seq)
        last = await bus.last_message("S", "s")
        assert last is not None
        assert last.data == b"c"


async def test_a_store_that_begins_while_the_server_is_down_is_done_once_it_is_back(tmp_path: Path):
    first = await start_server(store=tmp_path / "s", port=free_port())
    port = int(first.url.rpartition(":")[2])
    config = connection_settings(NatsSection(url=first.url), agent="main", name="test", reconnect_wait_s=0.05)
    async with connect(config) as bus:
        await bus.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s"]})
        first.kill()
        await eventually(lambda: not bus.connected, "the loss is noticed")
        store = asyncio.create_task(bus.store("s", b"a", msg_id="1"))
        async with run_server(store=tmp_path / "s", port=port):
            assert (await asyncio.wait_for(store, BOUND_S)).seq == 1


async def test_a_request_under_way_when_the_connection_breaks_fails_at_once(tmp_path: Path):
    server = await start_server(store=tmp_path / "s", port=free_port())
    config = connection_settings(NatsSection(url=server.url), agent="main", name="test", reconnect_wait_s=0.05)
    async with connect(config) as bus:
        await bus.subscribe("silent", _ignore)
        request = asyncio.create_task(bus.request("silent", timeout_s=600))
        await bus.api("INFO")
        server.kill()
        with pytest.raises(BusUnavailableError, match="broke"):
            await asyncio.wait_for(request, BOUND_S)


async def test_connections_that_lost_the_server_together_dial_it_at_different_moments(tmp_path: Path):
    dials: list[float] = []
    server = await start_server(store=tmp_path / "s", port=free_port())
    port = int(server.url.rpartition(":")[2])
    config = connection_settings(NatsSection(url=server.url), agent="main", name="test", reconnect_wait_s=1.0)
    loop = asyncio.get_running_loop()

    def dialled(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dials.append(loop.time())
        writer.close()

    async with AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(connect(config))
        server.kill()
        listener = await asyncio.start_server(dialled, "127.0.0.1", port)
        try:
            # Each dials at once, and then after its own pause. With the same pause, the dials of each round would lie
            # within some milliseconds; on a busy machine, those of different moments may be seen together.
            await eventually(lambda: any(apart_s(dials, turn) > 0.2 for turn in range(2, 8)), "they are apart")
        finally:
            await stop_listening(listener)


def apart_s(dials: list[float], turn: int) -> float:
    """How far apart the eight dials of one round lie; 0 until all are there."""
    of_turn = dials[8 * turn : 8 * turn + 8]
    return of_turn[-1] - of_turn[0] if len(of_turn) == 8 else 0.0


def _ignore(_: object) -> None:
    return


async def test_a_cancellation_that_arrives_as_a_dial_fails_ends_the_dialling(monkeypatch: pytest.MonkeyPatch):
    config = connection_settings(NatsSection(url=f"nats://127.0.0.1:{free_port()}"), agent="main", name="test")
    dialled: list[str] = []

    async def fail_as_it_is_cancelled(host: str, *_: object, **__: object) -> None:
        dialled.append(host)
        opening.cancel()
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio, "open_connection", fail_as_it_is_cancelled)
    bus = Bus(config, _ignore)
    opening = asyncio.create_task(bus.open(retry_on_failed_connect=True))
    done, _ = await asyncio.wait({opening}, timeout=BOUND_S)
    assert done
    assert opening.cancelled()
    assert len(dialled) == 1


async def test_a_connection_that_is_closed_as_a_reconnect_fails_is_not_dialled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    server = await start_server(store=tmp_path / "s", port=free_port())
    config = connection_settings(NatsSection(url=server.url), agent="main", name="test", reconnect_wait_s=0.05)
    dialling, closing = asyncio.Event(), asyncio.Event()

    async def fail_as_it_is_cancelled(*_: object, **__: object) -> None:
        dialling.set()
        await closing.wait()
        reconnecting().cancel()
        raise ConnectionRefusedError

    def reconnecting() -> "asyncio.Task[object]":
        [task] = [task for task in asyncio.all_tasks() if "_attempt_reconnect" in repr(task.get_coro())]
        return task

    async with connect(config):
        monkeypatch.setattr(asyncio, "open_connection", fail_as_it_is_cancelled)
        server.kill()
        await asyncio.wait_for(dialling.wait(), BOUND_S)
        task = reconnecting()
        closing.set()
        done, _ = await asyncio.wait({task}, timeout=BOUND_S)
        assert done


async def test_reconnect_callbacks_run_and_the_connection_says_how_long_it_is_back(tmp_path: Path):
    server = await start_server(store=tmp_path / "s", port=free_port())
    config = connection_settings(NatsSection(url=server.url), agent="main", name="test", reconnect_wait_s=0.05)
    calls: list[int] = []
    async with connect(config) as bus:
        assert bus.seconds_since_reconnect == float("inf")
        forget = bus.on_reconnect(lambda: calls.append(1))
        server.kill()
        async with run_server(store=tmp_path / "s", port=int(server.url.rpartition(":")[2])):
            await eventually(lambda: calls, "the callback runs")
            assert bus.seconds_since_reconnect < 60
            forget()


async def test_a_user_that_is_removed_ends_the_connection_with_the_reason(tmp_path: Path, guarded: NatsServer):
    async with connect(settings(with_user(guarded, "agent-code:code"))) as bus:
        conf = tmp_path / "users.conf"
        conf.write_text(
            conf.read_text(encoding="utf-8").replace("password: code", "password: changed"), encoding="utf-8"
        )
        guarded.reload()
        reason = await asyncio.wait_for(bus.wait_closed(), BOUND_S)
        assert isinstance(reason, AuthenticationError)
        with pytest.raises(AuthenticationError):
            await bus.api("INFO")
        with pytest.raises(AuthenticationError):
            await bus.wait_connected()
        with pytest.raises(BusUnavailableError):
            await bus.subscribe("news", _ignore)


async def test_a_password_changed_during_an_outage_ends_the_connection_with_the_reason(tmp_path: Path):
    conf = tmp_path / "users.conf"
    conf.write_text((USERS % (tmp_path / "s")).replace(":-1", f":{free_port()}"), encoding="utf-8")
    server = await start_server(store=tmp_path / "s", config=conf)
    url = with_user(server, "agent-code:code")
    config = connection_settings(NatsSection(url=url), agent="main", name="test", reconnect_wait_s=0.05)
    async with connect(config) as bus:
        server.kill()
        conf.write_text(
            conf.read_text(encoding="utf-8").replace("password: code", "password: changed"),
            encoding="utf-8",
        )
        async with run_server(store=tmp_path / "s", config=conf):
            reason = await asyncio.wait_for(bus.wait_closed(), BOUND_S)
            assert isinstance(reason, AuthenticationError)


async def test_closing_takes_no_time_even_with_subscriptions_and_requests_open(server: NatsServer):
    loop = asyncio.get_running_loop()
    async with connect(settings(server.url)) as bus:
        await bus.subscribe("silent", _ignore)
        request = asyncio.create_task(bus.request("silent", timeout_s=600))
        await bus.api("INFO")
        start = loop.time()
    assert loop.time() - start < BOUND_S
    with pytest.raises(BusUnavailableError):
        await request


async def test_a_tls_url_is_not_spoken_to_without_tls_and_no_credential_is_sent():
    received, done = bytearray(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": "2.15.1", "max_payload": 1048576, "headers": True, "auth_required": True}
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        while data := await reader.read(1024):
            received.extend(data)
        done.set()

    async with fake_server(serve) as port:
        with pytest.raises(BusUnavailableError, match="does not offer TLS"):
            async with connect(settings(f"tls://admin:secret@127.0.0.1:{port}")):
                pass
        await asyncio.wait_for(done.wait(), BOUND_S)
    assert b"secret" not in received


async def test_two_tasks_can_use_one_bus_at_once(server: NatsServer):
    async with connect(settings(server.url)) as bus:
        answers = await asyncio.gather(*(bus.api("INFO") for _ in range(50)))
    assert len(answers) == 50


def test_a_bus_is_not_connected_before_it_is_opened():
    async def look() -> bool:
        return Bus(settings("nats://127.0.0.1:1"), lambda _: None).connected

    assert asyncio.run(look()) is False

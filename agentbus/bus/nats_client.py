"""Makes nats-py safe; the rest of agentbus uses it through this module only.

`Client` refuses a `tls://` server that does not offer TLS before it sends a credential, on every reconnect as well. It
reports refused credentials and permissions. Importing this module checks that the installed nats-py has everything that
the overrides rely on: see `agentbus.bus.nats_contract`.
"""

import asyncio
import base64
import re
import ssl
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from agentbus.bus import nats_contract
from agentbus.bus.nats_contract import AWAITING_MSG_PAYLOAD, Subscription, errors
from agentbus.bus.reading.whole_messages import deliver_whole
from agentbus.bus.write_batching import BatchingClient
from agentbus.config.connection_settings import Credentials
from agentbus.config.nkeys import UserKey
from agentbus.protocol.headers import parse

nats_contract.check()

__all__ = ["CertificateWantedError", "Client", "Msg", "NatsError", "NotSecureError", "is_auth_error", "refused_subject"]

NatsError = errors.Error

_NONE_REPEATED: Final[frozenset[str]] = frozenset()
_LINE_END: Final = 2
_RELOAD_S: Final = 0.3
"""A server that reads its configuration again refuses valid credentials meanwhile, usually for milliseconds."""
_PONG_S: Final = 5.0
"""How long a server may take to answer a ping: its machine may be busy, and it answers before anything else."""
_SLOW_BYTES_PER_S: Final = 131_072
"""The slowest link on which a large message does not look like a dead line: 1 Mbit/s."""
_RECHECK_S: Final = 0.1
_CLOSED_EARLY: Final = (BrokenPipeError, ConnectionResetError)
"""What a refusal looks like if the server has closed before it was read."""
_DENIED: Final = re.compile(r'permissions violation for (publish to|publish with reply of|subscription to) "([^"]*)"')


class Msg(nats_contract.Msg):
    """A received message.

    Attributes:
        repeated_headers: the names that stand more than once in its header block.
        header_bytes: the length of that block.
    """

    repeated_headers: frozenset[str] = _NONE_REPEATED
    header_bytes: int = 0


MessageCallback: TypeAlias = Callable[[Msg], None]


class NotSecureError(NatsError):
    """The server of a `tls://` address did not offer TLS."""

    def __str__(self) -> str:
        return "the server does not offer TLS, and tls:// was asked for; no credential was sent"


class CertificateWantedError(ConnectionResetError):
    """The server checks client certificates, and refused ours or got none."""


class Client(BatchingClient):
    """A NATS client that sends no credential without the TLS that is configured.

    It reads credentials and TLS files at every dial, so that a reconnect uses new ones.

    Args:
        credentials: returns the present credentials.
        tls: returns the present TLS context.
        tls_always: require TLS, whatever the URL says.
        shows_certificate: whether the TLS context has a client certificate.
        has_new_credentials: whether the present credentials are others than those that were sent last.
        batch_writes: see `BatchingClient`.

    Raises:
        IncompatibleClientError: the installed nats-py lacks a name that this class relies on.
    """

    def __init__(
        self,
        *,
        credentials: Callable[[], Credentials],
        tls: Callable[[], ssl.SSLContext],
        tls_always: bool,
        shows_certificate: bool,
        has_new_credentials: Callable[[], bool],
        batch_writes: bool = True,
    ) -> None:
        nats_contract.check()
        super().__init__(batch_writes=batch_writes)
        nats_contract.read_as_written(self)
        self._read_many_at_a_time()
        self._credentials = credentials
        self._tls = tls
        self._tls_always = tls_always
        self._shows_certificate = shows_certificate
        self._has_new_credentials = has_new_credentials
        self._callbacks: dict[int, MessageCallback] = {}
        self._confirmed_bytes = self._received_bytes = 0

    def _read_many_at_a_time(self) -> None:
        """Count what is received, and have nats-py's parser read only what `deliver_whole` leaves."""
        parser, parse = self._ps, self._ps.parse

        async def read(data: bytes = b"") -> None:
            self._received_bytes += len(data)
            if parser.state == AWAITING_MSG_PAYLOAD:  # a message of which the parser has the first part
                missing = max(0, parser.needed + _LINE_END - len(parser.buf))
                await parse(data[:missing])
                data = data[missing:]
            elif parser.buf:  # the beginning of a line
                data = bytes(parser.buf) + data
                parser.buf.clear()
            if left := data[deliver_whole(data, self._deliver) :]:
                await parse(left)

        self._ps.parse = read

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """The TLS context; nats-py reads it before every handshake."""
        return self._tls()

    def _connect_command(self) -> bytes:
        # nats-py calls this right before it sends CONNECT, at the first connection and at every reconnect. It starts
        # TLS only if the server's INFO requires that, and an attacker on the path can remove that field.
        nats_contract.check_transport(self._transport)
        server = self._current_server
        if server is not None and (self._tls_always or server.uri.scheme == "tls"):
            writer = getattr(self._transport, "_io_writer", None)
            if writer is None or writer.get_extra_info("ssl_object") is None:
                raise NotSecureError
            protocol = writer.transport.get_protocol()
            if protocol is None:
                raise ConnectionResetError  # the server closed during the handshake; `_reason` finds out why
            # nats-py does not set this when it upgrades to TLS, and asyncio would log an error at the end.
            protocol._over_ssl = True  # noqa: SLF001
            if self._server_info.get("tls_verify") and not self._shows_certificate:
                # With TLS 1.3 the server refuses only after the handshake. It answers what we send meanwhile with a
                # reset, which can arrive before its reason.
                raise CertificateWantedError
        self._sign_in_with(self._credentials())
        return super()._connect_command()

    def _sign_in_with(self, credentials: Credentials) -> None:
        self._auth_configured = credentials.user is not None or any(
            (credentials.password, credentials.token, credentials.nkey_seed)
        )
        self.options["user"] = credentials.user if credentials.password is not None else None
        self.options["password"] = credentials.password
        self.options["token"] = credentials.token
        if credentials.nkey_seed is not None:
            # nats-py would use the package nkeys, which needs a second cryptography library.
            key, jwt = UserKey(credentials.nkey_seed), credentials.jwt
            self._public_nkey = key.public
            self._signature_cb = lambda challenge: base64.b64encode(key.sign(challenge.encode()))
            self._user_jwt_cb = None if jwt is None else jwt.encode

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # as in nats-py
        known = {id(server) for server in self._server_pool}
        await super()._process_info(info, initial_connection)
        current = self._current_server
        if initial_connection and current is not None:
            # The first INFO arrives before TLS, so an attacker on the path can add servers under names for which they
            # have certificates. So certificates are checked against the host name in the configuration.
            for server in self._server_pool:
                if id(server) not in known:
                    server.tls_name = current.tls_name or current.uri.hostname

    async def _process_err(self, err_msg: str) -> None:
        if is_auth_error(errors.Error(err_msg)) and self._has_new_credentials():
            await self._process_op_err(errors.StaleConnectionError())  # reconnects in place of closing
        else:
            await super()._process_err(err_msg)

    async def _connect_to_server(self, s: Any) -> None:  # as in nats-py
        with _keeping_cancellation():
            await super()._connect_to_server(s)

    async def _process_connect_init(self) -> None:
        try:
            await self._sign_in()
        except (OSError, NatsError) as error:
            if not (is_auth_error(error) or isinstance(error, _CLOSED_EARLY)):
                raise
            # Only a second refusal is believed, as it ends a worker.
            await asyncio.sleep(_RELOAD_S)
            await self._connect_to_server(self._current_server)
            await self._sign_in()

    async def _sign_in(self) -> None:
        try:
            with _keeping_cancellation():
                await super()._process_connect_init()
        except (OSError, NatsError) as error:
            reason = self._reason(error)
            self._abort()
            raise reason from None

    def _reason(self, error: Exception) -> Exception:
        """Find the reason for which a server closed the connection."""
        # The server sends the reason first. But it resets the connection if we still send, and asyncio reports the
        # reset before it delivers what was received.
        reader = getattr(self._transport, "_io_reader", None)
        if not isinstance(error, ConnectionError) or not isinstance(reader, asyncio.StreamReader):
            return error
        words = bytes(getattr(reader, "_buffer", b"")).partition(b"\r\n")[0]
        if words.startswith(b"-ERR "):
            return errors.Error(f"nats: {words.removeprefix(b'-ERR ').decode(errors='replace')}")
        alert = reader.exception()
        if isinstance(alert, ssl.SSLError):
            return alert
        return CertificateWantedError() if self._server_info.get("tls_verify") else error

    def _abort(self) -> None:
        """Abort the transport of a connection that could not be set up."""
        # nats-py would wait for the transport to close, which asyncio never reports after a failed TLS handshake.
        for name in ("_io_writer", "_bare_io_writer"):
            writer = getattr(self._transport, name, None)
            if writer is not None:
                writer.transport.abort()
        self._transport = None

    @property
    def cluster(self) -> str:
        """The name of the connected server's cluster; empty for a single server."""
        return str(self._server_info.get("cluster") or "")

    async def listen(self, subject: str, callback: MessageCallback) -> Subscription:
        """Subscribe: call `callback`, which must not raise, with every message on `subject` as soon as it is read."""
        subscription = await self.subscribe(subject)  # pyright: ignore[reportUnknownMemberType]
        self._callbacks[self._sid] = (
            callback  # the number of this subscription: nats-py does not await after it has counted
        )
        return subscription

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:  # as in nats-py
        self._callbacks.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:  # as in nats-py, which puts the message into a queue and wakes a task for it
        self._deliver(sid, subject, reply, data, headers)

    def _deliver(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        callback = self._callbacks.get(sid)
        if callback is None:
            return  # unsubscribed meanwhile
        # The server takes any bytes in a subject. What is not UTF-8 becomes a name that no id of ours can have.
        name, answer_to = str(subject, "utf-8", "backslashreplace"), str(reply, "utf-8", "backslashreplace")
        message = Msg(self, name, answer_to, data)
        if headers:
            # Not nats-py's parser: which of two headers with one name it keeps depends on other installed packages.
            message.headers, message.repeated_headers = parse(headers)
            message.header_bytes = len(headers)
        try:
            callback(message)
        except Exception as error:  # noqa: BLE001  # nats-py would stop reading without an error
            context = {"message": f"the callback for {message.subject} has failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # as in nats-py
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None and writer.transport.is_closing():
            # nats-py would still write what is pending, which raises a TypeError with asyncio of Python 3.13.0.
            self._pending.clear()
            self._pending_data_size = 0
        await super()._close(status, do_cbs)

    def confirm(self, sent_bytes: int) -> None:
        """Note that the server has read what was sent up to here, because it has answered to it."""
        self._confirmed_bytes = max(self._confirmed_bytes, sent_bytes)

    async def answers_ping(self) -> bool:
        """Ping the server; return False if it does not answer in time, and True also if the connection ends meanwhile.

        What was sent before has to get there first, and what comes first has to be read: each byte of it adds the time
        that it takes on a slow link.
        """
        loop = asyncio.get_running_loop()
        transport, sent, began, received = self._transport, self.sent_bytes, loop.time(), self._received_bytes
        pong: asyncio.Future[bool] = loop.create_future()
        await self._send_ping(pong)  # pyright: ignore[reportUnknownMemberType]
        rechecked = False
        while not pong.done() and self.is_connected and self._transport is transport:
            under_way = max(0, sent - self._confirmed_bytes) + self._received_bytes - received
            left_s = began + _PONG_S + under_way / _SLOW_BYTES_PER_S - loop.time()
            if left_s <= 0 and rechecked:
                return False
            # After this process was paused its timers run first, before it reads what has arrived.
            rechecked = left_s <= 0
            await asyncio.wait({pong}, timeout=_RECHECK_S if rechecked else left_s)
        if pong.done():
            self.confirm(sent)
        return True

    async def drop(self) -> None:
        """Give up the connection, and dial again."""
        await self._process_op_err(errors.StaleConnectionError())
        self._abort()  # nats-py would wait until what is pending is written, which a dead line never takes

    async def close_undialled(self) -> None:
        """Close a client whose first dial failed."""
        self._abort()
        if self._flush_queue is not None:  # else `connect` was never called
            await self.close()


@contextmanager
def _keeping_cancellation() -> Generator[None]:
    """Raise `CancelledError` at the end of the block if the current task was cancelled within it.

    `asyncio.wait_for` of Python 3.11 drops a cancellation that arrives just when the awaited operation ends. nats-py
    then sees only a failed dial, and goes on dialling for a closed client.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except Exception as error:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise
    if task and task.cancelling() > before:
        raise asyncio.CancelledError


def is_auth_error(error: BaseException) -> bool:
    """Whether the server refused the credentials, and not only a subject."""
    text = str(error).lower()
    return (
        isinstance(error, errors.AuthorizationError)
        or "authorization violation" in text
        or ("authentication" in text and ("expired" in text or "revoked" in text or "timeout" in text))
    )


def refused_subject(error: BaseException) -> tuple[str, str] | None:
    """Read what a permission error refuses: (`publish to` | `publish with reply of` | `subscription to`, subject)."""
    found = _DENIED.search(str(error).lower())
    return (found[1], found[2]) if found else None

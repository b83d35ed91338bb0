"""nats-py made safe: the rest of agentbus uses it through this module only.

`Client` refuses to speak to a `tls://` server that does not offer TLS, before any credential is sent and on every
reconnect. It reports refused credentials and permissions as such. Importing this module checks that the installed
nats-py has all that this takes: see `agentbus.bus.nats_contract`.
"""

import asyncio
import base64
import re
import ssl
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from agentbus.bus import nats_contract
from agentbus.bus.nats_contract import Subscription, errors
from agentbus.bus.write_batching import BatchingClient
from agentbus.config.connection_settings import Credentials
from agentbus.config.nkeys import UserKey
from agentbus.protocol.headers import parse

nats_contract.check()

__all__ = ["CertificateWantedError", "Client", "Msg", "NatsError", "NotSecureError", "is_auth_error", "refused_subject"]

NatsError = errors.Error

_NONE_REPEATED: Final[frozenset[str]] = frozenset()
_DENIED: Final = re.compile(r'permissions violation for (publish to|publish with reply of|subscription to) "([^"]*)"')


class Msg(nats_contract.Msg):
    """A message as it arrived.

    Attributes:
        repeated_headers: the names that its header block holds more than once.
    """

    repeated_headers: frozenset[str] = _NONE_REPEATED


MessageCallback: TypeAlias = Callable[[Msg], None]


class NotSecureError(NatsError):
    """The server of a `tls://` address did not offer TLS."""

    def __str__(self) -> str:
        return "the server does not offer TLS, and tls:// was asked for; no credential was sent"


class CertificateWantedError(ConnectionResetError):
    """The server checks client certificates and refused ours, or we have none to show."""


class Client(BatchingClient):
    """A NATS client that hands over no credential without the TLS that was asked for.

    Credentials and TLS files are asked for at every dial, so that new ones are taken up when the connection is lost.

    Args:
        credentials: what to sign in with, now.
        tls: the context for TLS, now.
        tls_always: speak TLS or nothing, whatever a URL says.
        shows_certificate: whether that context has a certificate of ours.
        has_new: whether there are other credentials by now than those that were presented last.
        batch_writes: see `BatchingClient`.

    Raises:
        IncompatibleClientError: nats-py is not one that this can be built on.
    """

    def __init__(
        self,
        *,
        credentials: Callable[[], Credentials],
        tls: Callable[[], ssl.SSLContext],
        tls_always: bool,
        shows_certificate: bool,
        has_new: Callable[[], bool],
        batch_writes: bool = True,
    ) -> None:
        nats_contract.check()
        super().__init__(batch_writes=batch_writes)
        self._credentials = credentials
        self._tls = tls
        self._tls_always = tls_always
        self._shows_certificate = shows_certificate
        self._has_new = has_new
        self._callbacks: dict[int, MessageCallback] = {}

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """The context for TLS; nats-py reads it before every handshake."""
        return self._tls()

    def _connect_command(self) -> bytes:
        # nats-py calls this right before it sends CONNECT, at the first connection and at every reconnect. It takes
        # up TLS only if the server's INFO asks for it, and an attacker on the path can take that line away.
        nats_contract.check_transport(self._transport)
        server = self._current_server
        if server is not None and (self._tls_always or server.uri.scheme == "tls"):
            writer = getattr(self._transport, "_io_writer", None)
            if writer is None or writer.get_extra_info("ssl_object") is None:
                raise NotSecureError
            protocol = writer.transport.get_protocol()
            if protocol is None:
                raise ConnectionResetError  # the server has hung up on the handshake; `_reason` says why
            # nats-py does not tell the reader's protocol of the upgrade, and asyncio would complain at the end of it.
            protocol._over_ssl = True  # noqa: SLF001
            if self._server_info.get("tls_verify") and not self._shows_certificate:
                # With TLS 1.3 the server says so only after the handshake, and what is sent to it meanwhile is
                # answered with a reset that can get ahead of its words.
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
            # Not as nats-py would do it, with the package nkeys: that brings a second library of cryptography.
            key, jwt = UserKey(credentials.nkey_seed), credentials.jwt
            self._public_nkey = key.public
            self._signature_cb = lambda challenge: base64.b64encode(key.sign(challenge.encode()))
            self._user_jwt_cb = None if jwt is None else jwt.encode

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # as in nats-py
        known = {id(server) for server in self._server_pool}
        await super()._process_info(info, initial_connection)
        current = self._current_server
        if initial_connection and current is not None:
            # The first INFO comes before TLS, so an attacker on the path can add servers under names for which he has
            # certificates. Their certificates are checked against the host name in the configuration.
            for server in self._server_pool:
                if id(server) not in known:
                    server.tls_name = current.tls_name or current.uri.hostname

    async def _process_err(self, err_msg: str) -> None:
        if is_auth_error(errors.Error(err_msg)) and self._has_new():
            await self._process_op_err(errors.StaleConnectionError())  # dial again, in place of the end
        else:
            await super()._process_err(err_msg)

    async def _connect_to_server(self, s: Any) -> None:  # as in nats-py
        with _not_swallowing_cancellation():
            await super()._connect_to_server(s)

    async def _process_connect_init(self) -> None:
        try:
            with _not_swallowing_cancellation():
                await super()._process_connect_init()
        except (OSError, NatsError) as error:
            reason = self._reason(error)
            self._hang_up()
            raise reason from None

    def _reason(self, error: Exception) -> Exception:
        """Find out why a server hung up."""
        # The server sends the reason first. But it resets the connection if we still send, and asyncio reports the
        # reset before it hands over what was received.
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

    def _hang_up(self) -> None:
        """Drop a connection that could not be set up."""
        # nats-py would wait until it is closed, which asyncio never reports after a failed TLS handshake.
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
        """Subscribe: call `callback` with every message on `subject` as soon as it is read. It must not raise."""
        subscription = await self.subscribe(subject)  # pyright: ignore[reportUnknownMemberType]
        self._callbacks[self._sid] = callback  # still our number: nats-py awaits nothing between
        return subscription

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:  # as in nats-py
        self._callbacks.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:  # as in nats-py, which puts the message into a queue and wakes a task for it
        callback = self._callbacks.get(sid)
        if callback is None:
            return  # unsubscribed meanwhile
        # Not by nats-py's parser, which depends on what else is installed: who sets a header twice must not choose.
        fields, repeated = parse(headers) if headers else (None, _NONE_REPEATED)
        message = Msg(self, subject.decode(), reply.decode(), data, fields)
        message.repeated_headers = repeated
        try:
            callback(message)
        except Exception as error:  # noqa: BLE001  # nats-py would stop reading without an error
            context = {"message": f"the callback for {message.subject} has failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # as in nats-py
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None and writer.transport.is_closing():
            # nats-py would still write what is pending, which asyncio of Python 3.13.0 makes a TypeError.
            self._pending.clear()
            self._pending_data_size = 0
        await super()._close(status, do_cbs)

    async def abandon(self) -> None:
        """Close a client whose first dial failed."""
        self._hang_up()
        if self._flush_queue is not None:  # otherwise `connect` was never called
            await self.close()


@contextmanager
def _not_swallowing_cancellation() -> Generator[None]:
    """Raise `CancelledError` at the end of the block if the current task was cancelled within it.

    `asyncio.wait_for` of Python 3.11 drops a cancellation that arrives as what it waits for ends. nats-py then sees
    only a failed dial, and goes on dialling for a client that is closed.
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
    """Whether the server refused the credentials (and not, say, one subject)."""
    text = str(error).lower()
    return (
        isinstance(error, errors.AuthorizationError)
        or "authorization violation" in text
        or ("authentication" in text and ("expired" in text or "revoked" in text or "timeout" in text))
    )


def refused_subject(error: BaseException) -> tuple[str, str] | None:
    """What a permission error refuses: (`publish to` | `publish with reply of` | `subscription to`, subject)."""
    found = _DENIED.search(str(error).lower())
    return (found[1], found[2]) if found else None

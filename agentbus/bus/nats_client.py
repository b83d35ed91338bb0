"""nats-py, with its traps closed: the only module that imports it.

`Client` refuses to speak to a `tls://` server that does not offer TLS, before any credential is sent and on every
reconnect; it reports refused credentials and permissions as what they are.
"""

import asyncio
import base64
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import nats.errors
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agentbus.config.connection_settings import Credentials
from agentbus.config.nkeys import UserKey

__all__ = [
    "CertificateWantedError",
    "Client",
    "Headers",
    "Msg",
    "NatsError",
    "NotSecureError",
    "Subscription",
    "refused_subject",
]

Headers: TypeAlias = Mapping[str, str]
MessageCallback: TypeAlias = Callable[[Msg], None]
NatsError = nats.errors.Error

_NOT_URGENT_S: Final = 0.001
"""How long a message that is not urgent waits for another one to go with."""
_CATCH_UP_S: Final = 0.1
_ONE_LINE: Final = str.maketrans("\r\n", "  ")
_ENDS_TOKEN: Final = re.compile(r"[ \t\r\n]")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

_DENIED = re.compile(r'permissions violation for (publish to|publish with reply of|subscription to) "([^"]*)"')


class NotSecureError(NatsError):
    """The server of a `tls://` address did not offer TLS."""

    def __str__(self) -> str:
        return "the server does not offer TLS, and tls:// was asked for; no credential was sent"


class CertificateWantedError(ConnectionResetError):
    """The server checks client certificates, and has hung up on this one, or would on none."""


class Client(NatsClient):
    """A NATS client that hands over no credential without the TLS that was asked for.

    Credentials and TLS files are asked for at every dial, so that new ones are taken up when the connection is lost.

    Args:
        credentials: what to sign in with, now.
        tls: the context for TLS, now.
        tls_always: speak TLS or nothing, whatever a URL says.
        shows_certificate: whether that context has a certificate of ours.
        has_new: whether there are other credentials by now than those that were presented last.
    """

    def __init__(
        self,
        *,
        credentials: Callable[[], Credentials],
        tls: Callable[[], ssl.SSLContext],
        tls_always: bool,
        shows_certificate: bool,
        has_new: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._credentials = credentials
        self._tls = tls
        self._tls_always = tls_always
        self._shows_certificate = shows_certificate
        self._has_new = has_new
        self._callbacks: dict[int, MessageCallback] = {}
        self._write_soon: asyncio.Handle | None = None
        self._write_later: asyncio.TimerHandle | None = None

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """What nats-py asks for before every handshake."""
        return self._tls()

    def _connect_command(self) -> bytes:
        # nats-py calls this right before it sends CONNECT, at the first connection and at every reconnect. It takes
        # up TLS only if the server's INFO asks for it, and an attacker on the path can take that line away.
        server = self._current_server
        if server is not None and (self._tls_always or server.uri.scheme == "tls"):
            writer = getattr(self._transport, "_io_writer", None)
            if writer is None or writer.get_extra_info("ssl_object") is None:
                raise NotSecureError
            protocol = writer.transport.get_protocol()
            if protocol is None:
                raise ConnectionResetError  # the server has hung up on the handshake; see below for why
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
            # The first INFO comes before TLS: whoever is on the path can write servers of his own into it, under
            # names for which he has certificates. They are held to the name that the configuration gives.
            for server in self._server_pool:
                if id(server) not in known:
                    server.tls_name = current.tls_name or current.uri.hostname

    async def _process_err(self, err_msg: str) -> None:
        if is_auth_error(nats.errors.Error(err_msg)) and self._has_new():
            await self._process_op_err(nats.errors.StaleConnectionError())  # dial again, in place of the end
        else:
            await super()._process_err(err_msg)

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except (OSError, NatsError) as error:
            reason = self._reason(error)
            self._hang_up()
            raise reason from None

    def _reason(self, error: Exception) -> Exception:
        """Why a server hung up."""
        # It says so before; but what is still being sent to it is answered with a reset, of which asyncio tells before
        # it hands over the words that came first.
        reader = getattr(self._transport, "_io_reader", None)
        if not isinstance(error, ConnectionError) or not isinstance(reader, asyncio.StreamReader):
            return error
        words = bytes(getattr(reader, "_buffer", b"")).partition(b"\r\n")[0]
        if words.startswith(b"-ERR "):
            return nats.errors.Error(f"nats: {words.removeprefix(b'-ERR ').decode(errors='replace')}")
        alert = reader.exception()
        if isinstance(alert, ssl.SSLError):
            return alert
        return CertificateWantedError() if self._server_info.get("tls_verify") else error

    def _hang_up(self) -> None:
        """Forget a connection that came to nothing."""
        # nats-py would wait for its end, of which asyncio never tells where the TLS handshake has failed.
        for name in ("_io_writer", "_bare_io_writer"):
            writer = getattr(self._transport, name, None)
            if writer is not None:
                writer.transport.abort()
        self._transport = None

    @property
    def cluster(self) -> str:
        """The cluster that the connected server says it is in; empty for a server that stands alone."""
        return str(self._server_info.get("cluster") or "")

    async def listen(self, subject: str, callback: MessageCallback) -> Subscription:
        """Have `callback` called with every message on `subject`, as soon as it is read. It must not raise."""
        subscription = await self.subscribe(subject)  # pyright: ignore[reportUnknownMemberType]
        self._callbacks[self._sid] = callback  # nobody else has subscribed meanwhile: nothing was awaited
        return subscription

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:  # as in nats-py
        self._callbacks.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:  # as in nats-py, which puts the message into a queue and wakes a task for it
        callback = self._callbacks.get(sid)
        if callback is None:
            return  # nobody listens any more
        fields = await self._process_headers(headers)  # pyright: ignore[reportUnknownMemberType]
        message = Msg(self, subject.decode(), reply.decode(), data, fields)
        try:
            callback(message)
        except Exception as error:  # noqa: BLE001  # nats-py would stop reading, and tell nobody
            context = {"message": f"the callback for {message.subject} has failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def send(self, subject: str, data: bytes, reply: str, headers: Headers | None, *, flush: bool) -> None:
        """Publish; what is not urgent may wait for a moment, and is written together with what is sent meanwhile.

        Nobody waits for the server to take it: see `catch_up`.

        Raises:
            NatsError: a subject or the name of a header would break the protocol, or the connection has ended.
        """
        if not subject or _ENDS_TOKEN.search(subject) or _ENDS_TOKEN.search(reply):
            raise nats.errors.BadSubjectError
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if headers:
            head = f"NATS/1.0\r\n{''.join([_header(*header) for header in headers.items()])}\r\n".encode()
            line = f"HPUB {subject} {reply} {len(head)} {len(head) + len(data)}\r\n"
            message = b"".join((line.encode(), head, data, b"\r\n"))
        else:
            message = b"".join((f"PUB {subject} {reply} {len(data)}\r\n".encode(), data, b"\r\n"))
        self._pending.append(message)
        self._pending_data_size += len(message)
        self._write_in_a_moment(flush=flush)

    async def catch_up(self) -> None:
        """Wait for the server if it does not keep up with what is sent."""
        # Not by `_flush_pending(force_flush=True)`, which swallows a cancellation.
        while self._pending_data_size > self._max_pending_size and self.is_connected:
            written = asyncio.get_running_loop().create_future()
            if self._flush_queue is not None and self._flush_queue.empty():
                self._flush_queue.put_nowait(written)
            await asyncio.wait({written}, timeout=_CATCH_UP_S)

    async def _flush_pending(self, force_flush: bool = False) -> Any:  # as in nats-py, which wakes a task for it
        if force_flush or not self.is_connected:
            return await super()._flush_pending(force_flush)
        self._write_in_a_moment(flush=True)
        return None

    def _write_in_a_moment(self, *, flush: bool) -> None:
        """What is sent in one round of the loop is written at the beginning of the next, in one piece.

        A write costs more than making the message: it makes the server read.
        """
        loop = asyncio.get_running_loop()
        if flush:
            self._write_soon = self._write_soon or loop.call_soon(self._write)
        elif self._write_soon is None:
            self._write_later = self._write_later or loop.call_later(_NOT_URGENT_S, self._write)

    def _write(self) -> None:
        """Write all that is pending, unless the server does not keep up: then nats-py's task waits for it."""
        for handle in (self._write_soon, self._write_later):
            if handle is not None:
                handle.cancel()
        self._write_soon = self._write_later = None
        writer = getattr(self._transport, "_io_writer", None)
        if not self.is_connected or writer is None or writer.transport.is_closing():
            return  # nats-py sends it once it is connected again
        if writer.transport.get_write_buffer_size() > 0:
            if self._flush_queue is not None and self._flush_queue.empty():
                self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())
            return
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        if pending:
            writer.write(b"".join(pending))

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # as in nats-py
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None and writer.transport.is_closing():
            # nats-py would send what is left to nobody, of which asyncio of Python 3.13.0 makes a TypeError.
            self._pending.clear()
            self._pending_data_size = 0
        await super()._close(status, do_cbs)

    async def abandon(self) -> None:
        """Close a connection whose first dial failed, with whatever it had got hold of."""
        self._hang_up()
        if self._flush_queue is not None:  # otherwise it has never been told to connect
            await self.close()


def _header(name: str, value: str) -> str:
    """A line of a message's head. What a value holds stays in its line."""
    if not _HEADER_NAME.fullmatch(name):
        raise nats.errors.BadHeaderError(name)
    return f"{name}: {value.strip().translate(_ONE_LINE)}\r\n"


def is_auth_error(error: BaseException) -> bool:
    """Whether the server refused the credentials (and not, say, one subject)."""
    text = str(error).lower()
    return (
        isinstance(error, nats.errors.AuthorizationError)
        or "authorization violation" in text
        or ("authentication" in text and ("expired" in text or "revoked" in text or "timeout" in text))
    )


def refused_subject(error: BaseException) -> tuple[str, str] | None:
    """What a permission error refuses: (`publish to` | `publish with reply of` | `subscription to`, subject)."""
    found = _DENIED.search(str(error).lower())
    return (found[1], found[2]) if found else None

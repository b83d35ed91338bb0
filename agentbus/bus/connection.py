"""Core NATS over one connection that is opened securely. Every failure is an error of `agentbus.errors`.

A refused permission fails the request within one round trip, without a time-out. Refused credentials close the
connection at once. A message over the server's limit is refused before it is sent, because the server would close the
connection.
"""

import asyncio
import math
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from agentbus.begun_steps import BegunSteps
from agentbus.bus.dialling.connect_errors import explained
from agentbus.bus.dialling.tls import tls_context
from agentbus.bus.nats_client import Client, Msg, NatsError, is_auth_error, refused_subject
from agentbus.bus.requests import Requests, RequestWindow
from agentbus.bus.retry_until import deadline_after
from agentbus.bus.write_batching import check_size
from agentbus.config.addresses import Address
from agentbus.config.connection_settings import ConnectionSettings, Credentials
from agentbus.errors import (
    BusError,
    BusUnavailableError,
    ConfigError,
    NoRespondersError,
    PermissionDeniedError,
)
from agentbus.protocol.headers import STATUS, Headers
from agentbus.protocol.ids import random_token

REQUEST_TIMEOUT_S: Final = 5.0
"""How long one request waits for its answer."""
_NO_RESPONDERS: Final = "503"
_CLOSE_S: Final = 2.0


class Connection:
    """Core NATS over one connection that reconnects by itself. Several asyncio tasks may call its methods."""

    def __init__(self, settings: ConnectionSettings, on_state: Callable[[str], None]) -> None:
        self.settings = settings
        self._on_state = on_state
        self._presented = settings.credentials
        self._tls: ssl.SSLContext | None = None
        self._client = Client(
            credentials=self._newest_credentials,
            tls=self._newest_tls,
            tls_always=settings.needs_tls,
            shows_certificate=settings.cert_file is not None,
            has_new_credentials=self._has_new_credentials,
            batch_writes=settings.batch_writes,
        )
        self._up = asyncio.Event()
        self._closed: asyncio.Future[BusError | None] = asyncio.get_running_loop().create_future()
        self._inbox = f"{settings.inbox_prefix}.{random_token()}"
        self._window = RequestWindow()
        self._requests = Requests(self._unanswered, self.check_line, self._window.fail)
        self._line_check: asyncio.Task[None] | None = None
        self._inbox_refusal: PermissionDeniedError | None = None
        self._reconnect_callbacks: set[Callable[[], None]] = set()
        self.begun = BegunSteps()  # what must not be cut in between; closing waits for it
        self._dial_failures = 0
        self._retry_on_failed_connect = False
        self._ever_up = False
        self._reconnected_at = -math.inf
        self._last_state = ""

    # -- opening and closing ------------------------------------------------------------------------------------

    async def open(self, *, retry_on_failed_connect: bool) -> None:
        """Dial the servers until one answers, or only until each has failed once.

        Args:
            retry_on_failed_connect: keep dialling until a server answers; refused credentials end that, too.

        Raises:
            AuthenticationError: the server refused the credentials.
            BusUnavailableError: no server could be reached, or it did not offer the TLS that is configured.
            ConfigError: the CA or the client certificate cannot be used.
        """
        settings = self.settings
        self._retry_on_failed_connect = retry_on_failed_connect
        if settings.needs_tls or any(url.tls for url in settings.urls):
            self._tls = tls_context(settings)  # raises for unusable files before it dials
        try:
            await self._client.connect(
                servers=[str(url) for url in settings.urls],
                name=settings.name,
                inbox_prefix=settings.inbox_prefix,
                tls_handshake_first=settings.tls_first,
                connect_timeout=settings.connect_timeout_s,  # pyright: ignore[reportArgumentType]  # any number of seconds
                reconnect_time_wait=settings.dial_pause_s(),  # pyright: ignore[reportArgumentType]
                max_reconnect_attempts=settings.max_reconnect_attempts,
                ping_interval=20,
                max_outstanding_pings=2,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnect,
                reconnected_cb=self._on_reconnect,
                closed_cb=self._on_closed,
            )
            await self._client.listen(f"{self._inbox}.*", self._requests.take_answer)
        except BusError:
            raise
        except (NatsError, OSError, TimeoutError) as error:
            raise self._explain(error) from error
        self._connected_now()

    async def close(self) -> None:
        """Finish what was begun, send what is buffered, then close. Takes at most six seconds, and never raises."""
        if not self._closed.done():
            await self.begun.wait()
        self._mark_closed(None)
        if self._line_check is not None:
            self._line_check.cancel()
        with suppress(NatsError, OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                if self._client.is_connected:
                    await self._client.flush()
        with suppress(NatsError, OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await (self._client.close() if self._ever_up else self._client.close_undialled())

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._up.is_set() and not self._closed.done()

    async def wait_connected(self) -> None:
        """Wait for the connection, without a time-out.

        Raises:
            BusError: the connection is closed, with the reason.
        """
        await self._up.wait()
        if error := self._close_reason():
            raise error

    async def wait_closed(self) -> BusError | None:
        """Wait until the connection is closed for good; returns the reason, or None after `close`."""
        return await asyncio.shield(self._closed)

    @property
    def closed(self) -> bool:
        """Whether the connection is closed for good, and will not reconnect."""
        return self._closed.done()

    @property
    def server_version(self) -> str:
        """The version of the connected server, such as `2.15.1`."""
        server = self._client.connected_server_version
        return f"{server.major}.{server.minor}.{server.patch}"

    @property
    def clustered(self) -> bool:
        """Whether the connected server belongs to a cluster."""
        return bool(self._client.cluster)

    @property
    def max_message_bytes(self) -> int:
        """The server's limit for the headers and payload of one message together."""
        return self._client.max_payload

    @property
    def seconds_since_reconnect(self) -> float:
        """The seconds since the last reconnect; infinite if there was none."""
        return asyncio.get_running_loop().time() - self._reconnected_at

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every reconnect; returns a function that unregisters it."""
        self._reconnect_callbacks.add(callback)
        return lambda: self._reconnect_callbacks.discard(callback)

    # -- files that are read at every dial ----------------------------------------------------------------------

    def _newest_credentials(self) -> Credentials:
        with suppress(ConfigError):  # the file is being replaced; the credentials read last may still be valid
            self._presented = self.settings.credentials.read_again()
        return self._presented

    def _has_new_credentials(self) -> bool:
        try:
            return self.settings.credentials.read_again() != self._presented
        except ConfigError:
            return False

    def _newest_tls(self) -> ssl.SSLContext:
        with suppress(ConfigError):  # as above; without files of ours there is nothing to be wrong with
            self._tls = tls_context(self.settings)
        assert self._tls is not None, "`open` has read the files once"
        return self._tls

    # -- core NATS ----------------------------------------------------------------------------------------------

    async def publish(
        self, subject: str, data: bytes = b"", *, reply: str = "", headers: Headers | None = None, flush: bool = True
    ) -> None:
        """Send a core message. It is lost if it has no subscriber or the connection breaks.

        Args:
            flush: send now. Without it, the message may wait up to a millisecond for the next one.

        Raises:
            TooLargeError: the message is over a limit; nothing was sent.
            BusUnavailableError: there is no connection.
        """
        await self._send(subject, data, reply, headers, flush=flush)

    async def _send(self, subject: str, data: bytes, reply: str, headers: Headers | None, *, flush: bool) -> int:
        """See `publish`; returns how many bytes were sent so far."""
        check_size(subject, data, headers, self.max_message_bytes if self._ever_up else None)
        if not self.connected:
            raise self._close_reason() or BusUnavailableError(f"not connected to {self.settings.servers}")
        try:
            self._client.send(subject, data, reply, headers, flush=flush)
            sent_bytes = self._client.sent_bytes
            await self._client.wait_writable()
        except (NatsError, OSError) as error:
            raise self._explain(error) from error
        return sent_bytes

    async def subscribe(self, subject: str, callback: Callable[[Msg], None]) -> Callable[[], Awaitable[None]]:
        """Call `callback` with every message on `subject` as soon as it is read; returns the function to unsubscribe.

        The subscription outlasts reconnects. `callback` must not raise, and must not take long.
        """
        try:
            subscription = await self._client.listen(subject, callback)
        except (NatsError, OSError) as error:
            raise self._explain(error) from error

        async def unsubscribe() -> None:
            with suppress(NatsError, OSError):
                await subscription.unsubscribe()

        return unsubscribe

    def new_inbox(self) -> str:
        """Make a reply subject that other users cannot guess, and cannot subscribe to where permissions are set."""
        return f"{self.settings.inbox_prefix}.{random_token()}"

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Headers | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
        flush: bool = True,
    ) -> Msg:
        """Send a request and return the answer; waits for the connection if there is none. `flush`: see `publish`.

        Where very many are under way, it is sent in its turn, and `timeout_s` counts from then on: see `RequestWindow`.

        Raises:
            BusUnavailableError: no connection or no answer within `timeout_s`, or the connection broke meanwhile.
            NoRespondersError: `subject` has no subscriber.
            PermissionDeniedError: the server refused the subject, or the inbox for the answer.
            TooLargeError: the request is over a limit; nothing was sent.
        """
        if not self._window.enter():
            await self._window.turn()
        try:
            message = await self._answer_to(subject, data, headers, timeout_s, flush=flush)
        finally:
            self._window.leave()
        if message.headers and message.headers.get(STATUS) == _NO_RESPONDERS and not message.data:
            raise NoRespondersError(f"nothing on the bus listens on {subject}")
        return message

    async def _answer_to(
        self, subject: str, data: bytes, headers: Headers | None, timeout_s: float, *, flush: bool
    ) -> Msg:
        deadline = deadline_after(timeout_s)
        if not self._up.is_set():
            try:
                async with asyncio.timeout_at(deadline):
                    await self._up.wait()
            except TimeoutError:
                error = self._unanswered(timeout_s)
                self._window.fail(error, deadline - timeout_s)
                raise error from None
        if self._inbox_refusal:
            raise self._inbox_refusal
        request = self._requests.add(subject, timeout_s, deadline)
        try:
            sent_bytes = await self._send(subject, data, f"{self._inbox}.{request.token}", headers, flush=flush)
            message = await request.answer
        finally:
            self._requests.remove(request)
        self._client.confirm(sent_bytes)
        return message

    def check_line(self) -> None:
        """Ping the server, and dial again if it does not answer: for a caller that waits for it in vain.

        A NAT or a proxy may have forgotten the connection, of which no packet tells.
        """
        if self.connected and (self._line_check is None or self._line_check.done()):
            self._line_check = asyncio.create_task(self._check_line())

    async def _check_line(self) -> None:
        with suppress(NatsError, OSError):
            if not await self._client.answers_ping():
                self._state("the server does not answer; taking the connection for lost")
                await self._client.drop()

    # -- callbacks of nats-py -----------------------------------------------------------------------------------

    def _unanswered(self, timeout_s: float) -> BusUnavailableError:
        where = "the bus did not answer" if self.connected else f"no connection to {self.settings.servers}"
        why = "; more than half of the servers of its cluster must be up" if self.connected and self.clustered else ""
        return BusUnavailableError(f"{where} within {round(timeout_s, 1):g} s{why}")

    async def _on_error(self, error: Exception) -> None:
        if self._closed.done():
            return  # the reason is known; errors while closing add nothing
        denied = refused_subject(error)
        if denied is not None:
            self._deny(*denied)
        elif is_auth_error(error) and self._has_new_credentials():
            self._state("the credentials were refused, and there are new ones by now; signing in with those")
        elif is_auth_error(error):
            fatal = self._explain(error)
            self._mark_closed(fatal)
            if not self._up.is_set():
                raise fatal
        elif not self._up.is_set():
            self._dial_failures += 1
            if not (self._ever_up or self._retry_on_failed_connect) and self._dial_failures >= len(self.settings.urls):
                raise self._explain(error)  # leaves nats-py's loop, which would go on dialling
            self._state(f"{self._explain(error)}; trying again about every {self.settings.reconnect_wait_s:g} s")

    def _deny(self, what: str, subject: str) -> None:
        action = "subscribe to" if what.startswith("subscription") else "publish to"
        written = self._requests.subject_of(subject)  # nats-py gives it in lower case, in which no one can grant it
        error = PermissionDeniedError(
            f"the bus does not allow this user to {action} {written}; an administrator must grant it", subject
        )
        if action == "subscribe to" and self._inbox.lower().startswith(subject.rstrip("*").rstrip(".")):
            self._inbox_refusal = PermissionDeniedError(
                f"the bus does not allow this user to receive answers on {self.settings.inbox_prefix}.>; "
                "set inbox_prefix in [nats] to the one that its permissions name",
                subject,
            )
            self._requests.fail(self._inbox_refusal)
        else:
            if action == "subscribe to":
                self._state(str(error))  # the server does not answer a subscription, so no caller waits for this
            self._requests.fail(error, subject=subject)

    async def _on_disconnect(self) -> None:
        if self._up.is_set():
            self._up.clear()
            if not self._closed.done():
                self._state("connection lost; reconnecting")
        self._requests.fail(BusUnavailableError("the connection to the bus broke before the answer came"))

    async def _on_reconnect(self) -> None:
        self._reconnected_at = asyncio.get_running_loop().time()
        self._connected_now()
        for callback in tuple(self._reconnect_callbacks):
            callback()

    async def _on_closed(self) -> None:
        error = self._client.last_error
        reason = self._explain(error) if error else BusUnavailableError("the connection to the bus was closed")
        self._mark_closed(reason)

    def _connected_now(self) -> None:
        self._ever_up = True
        self._up.set()
        url = self._client.connected_url
        where = Address(url.hostname or "", url.port or 0) if url else self.settings.servers
        self._state(f"connected to nats-server {self.server_version} at {where}")

    def _mark_closed(self, reason: BusError | None) -> None:
        if not self._closed.done():
            self._closed.set_result(reason)
        self._requests.fail(reason or BusUnavailableError("the connection to the bus is closed"))
        self._requests.stop_timer()
        if self._ever_up:
            self._up.set()  # wakes the callers that wait for the connection; they read the reason

    def _close_reason(self) -> BusError | None:
        if not self._closed.done():
            return None
        return self._closed.result() or BusUnavailableError("the connection to the bus is closed")

    def _state(self, text: str) -> None:
        if text != self._last_state:
            self._last_state = text
            self._on_state(text)

    def _explain(self, error: BaseException) -> BusError:
        return explained(error, self.settings, self._presented)

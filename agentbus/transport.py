"""nats-py, with its traps closed: the only module that imports it.

`Client` refuses to speak to a `tls://` server that does not offer TLS, before any credential is sent and on every
reconnect; it reports refused credentials and permissions as what they are.
"""

import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import nats.errors
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from agentbus.nkeys import UserKey

__all__ = ["Client", "Headers", "Msg", "NatsError", "NotSecureError", "Subscription", "refused_subject"]

Headers: TypeAlias = Mapping[str, str]
MessageCallback: TypeAlias = Callable[[Msg], Awaitable[None]]
NatsError = nats.errors.Error

_DENIED = re.compile(r'permissions violation for (publish to|publish with reply of|subscription to) "([^"]*)"')


class NotSecureError(NatsError):
    """The server of a `tls://` address did not offer TLS."""

    def __str__(self) -> str:
        return "the server does not offer TLS, and tls:// was asked for; no credential was sent"


class Client(NatsClient):
    """A NATS client that hands over no credential without the TLS that was asked for."""

    def _connect_command(self) -> bytes:
        # nats-py calls this right before it sends CONNECT, at the first connection and at every reconnect. It takes
        # up TLS only if the server's INFO asks for it, and an attacker on the path can take that line away.
        server = self._current_server
        if server is not None and server.uri.scheme == "tls":
            writer = getattr(self._transport, "_io_writer", None)
            if writer is None or writer.get_extra_info("ssl_object") is None:
                if self._transport is not None:
                    self._transport.close()  # nats-py would leave it open and dial the next one
                raise NotSecureError
            # nats-py does not tell the reader's protocol of the upgrade, and asyncio would complain at the end of it.
            writer.transport.get_protocol()._over_ssl = True  # noqa: SLF001
        return super()._connect_command()

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except OSError:
            # A server that refuses the credentials says so and hangs up. What is sent to it after that is answered
            # with a reset, of which asyncio tells before it hands over the words that came first.
            reader = getattr(self._transport, "_io_reader", None)
            words = bytes(getattr(reader, "_buffer", b"")).partition(b"\r\n")[0]
            if words.startswith(b"-ERR "):
                raise nats.errors.Error(f"nats: {words.removeprefix(b'-ERR ').decode(errors='replace')}") from None
            raise

    def _setup_nkeys_seed_connect(self) -> None:
        # nats-py would import the package nkeys, which brings a second library of cryptography.
        key = UserKey(str(self._nkeys_seed_str))
        self._public_nkey = key.public
        self._signature_cb = lambda challenge: base64.b64encode(key.sign(challenge.encode()))

    async def listen(self, subject: str, callback: MessageCallback) -> Subscription:
        """`subscribe`, as far as it is used here, with its types."""
        return await self.subscribe(subject, cb=callback)  # pyright: ignore[reportUnknownMemberType]

    async def abandon(self) -> None:
        """Close a connection whose first dial failed, with whatever it had got hold of."""
        for name in ("_io_writer", "_bare_io_writer"):
            writer = getattr(self._transport, name, None)
            if writer is not None:
                writer.transport.abort()  # a failed TLS handshake would wait half a minute for the other side's goodbye
        await self.close()


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

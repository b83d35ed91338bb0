"""Sends one event to where a person wants it: a command that gets it on standard input, or an HTTP server."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import ssl
from dataclasses import dataclass
from typing import Final, Literal, Protocol
from urllib.parse import SplitResult, quote, unquote, urlsplit

import h11

from agentbus.config.addresses import bracketed
from agentbus.errors import ConfigError, NotDeliveredError
from agentbus.protocol.json_codec import Json
from agentbus.version import __version__

Body = Literal["json", "text"]
_KILL_S: Final = 5.0
"""How long the end of a killed command is waited for."""
_MOST_HEADER_BYTES: Final = 16_384
_KEPT_IN_URLS: Final = "!$%&'()*+,/:;=?@[]~"
"""What stays as it is beside letters and digits; anything else is percent-encoded, as browsers do."""


class Target(Protocol):
    """Where events are sent."""

    @property
    def name(self) -> str:
        """The target for a log: without secrets."""
        ...

    @property
    def key(self) -> str:
        """What tells this target from others. It may hold secrets."""
        ...

    async def send(self, payload: dict[str, Json]) -> None:
        """Send one event.

        Raises:
            NotDeliveredError: it was not taken.
        """
        ...


@dataclass(frozen=True, slots=True)
class CommandTarget:
    """A command, run without a shell: the event is JSON on its standard input, and nothing of it an argument."""

    argv: tuple[str, ...]
    timeout_s: float

    @property
    def name(self) -> str:
        """The program."""
        return self.argv[0]

    @property
    def key(self) -> str:
        """The words."""
        return "\0".join(self.argv)

    async def send(self, payload: dict[str, Json]) -> None:
        """Run the command; exit code 0 says that the event was taken. One that takes too long is killed."""
        try:
            child = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                start_new_session=os.name == "posix",
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise NotDeliveredError(f"{self.name} cannot be started: {why}") from None
        try:
            async with asyncio.timeout(self.timeout_s):
                await child.communicate(json.dumps(payload).encode() + b"\n")
        except TimeoutError:
            raise NotDeliveredError(f"{self.name} did not end within {self.timeout_s:g} s") from None
        finally:
            await _end(child)
        if child.returncode != 0:
            raise NotDeliveredError(f"{self.name} ended with exit code {child.returncode}")


async def _end(child: asyncio.subprocess.Process) -> None:
    """End a command and what it has started, as far as that has stayed in its process group."""
    if child.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        if os.name == "posix":
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_KILL_S):
            await child.wait()


class UrlTarget:
    """An HTTP server: the event is the body of a POST. No redirect is followed, and no proxy used."""

    def __init__(self, url: str, timeout_s: float, body: Body = "json") -> None:
        """Take an address.

        Raises:
            ConfigError: it is no address of an HTTP server; the message does not repeat it.
        """
        try:
            parts = urlsplit(url.strip())
            port = parts.port or (443 if parts.scheme == "https" else 80)
            host = (parts.hostname or "").encode("idna").decode()
        except ValueError:  # also a name that is none: UnicodeError
            raise ConfigError("the URL for notifications cannot be read") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname or not url.strip().isprintable():
            raise ConfigError("the URL for notifications must begin with https:// or http:// and name a host")
        self._parts, self._host, self._port = parts, host, port
        self.key = parts.geturl()
        self._timeout_s = timeout_s
        self._body: Body = body

    @property
    def name(self) -> str:
        """The scheme and the host: what follows may be a secret."""
        return f"{self._parts.scheme}://{self._parts.hostname}"

    async def send(self, payload: dict[str, Json]) -> None:
        """Post the event; a status from 200 to 299 says that it was taken."""
        text = str(payload.get("text", ""))
        kind, data = ("application/json", json.dumps(payload).encode())
        if self._body == "text":
            kind, data = ("text/plain; charset=utf-8", f"agentbus: {text}".encode())
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await self._post(data, kind, str(payload.get("id", "")))
        except TimeoutError:
            raise NotDeliveredError(f"{self.name} did not answer within {self._timeout_s:g} s") from None
        except (OSError, ssl.SSLError, h11.RemoteProtocolError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            raise NotDeliveredError(f"{self.name} cannot be reached: {why}") from None
        if not 200 <= status < 300:
            raise NotDeliveredError(f"{self.name} answered with status {status}")

    async def _post(self, data: bytes, kind: str, event_id: str) -> int:
        parts = self._parts
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=tls, limit=_MOST_HEADER_BYTES)
        try:
            connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEADER_BYTES)
            headers = [
                ("Host", bracketed(self._host) + (f":{parts.port}" if parts.port else "")),
                ("User-Agent", f"agentbus/{__version__}"),
                ("Content-Type", kind),
                ("Content-Length", str(len(data))),
                ("Idempotency-Key", event_id),
                ("Connection", "close"),
                *_authorization(parts),
            ]
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            request = h11.Request(method="POST", target=quote(target, safe=_KEPT_IN_URLS), headers=headers)
            for event in (request, h11.Data(data=data), h11.EndOfMessage()):
                writer.write(connection.send(event) or b"")
            await writer.drain()
            while True:
                answer = connection.next_event()
                if isinstance(answer, h11.Response):
                    return answer.status_code
                if answer is h11.NEED_DATA:
                    connection.receive_data(await reader.read(_MOST_HEADER_BYTES))
                elif isinstance(answer, h11.ConnectionClosed):
                    raise h11.RemoteProtocolError("closed without an answer")
        finally:
            writer.transport.abort()


def _authorization(parts: SplitResult) -> list[tuple[str, str]]:
    if parts.username is None:
        return []
    user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return [("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")]

"""The administrator's connections to a bus whose queue has an account of its own: one into each account of streams.

It is used like a bus with one account: each request goes into the account that its stream lies in.
"""

from collections.abc import Callable
from dataclasses import replace

from agentbus.bus.connection import REQUEST_TIMEOUT_S
from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import AccountInfo
from agentbus.bus.nats_client import Msg
from agentbus.bus.reading.ledger_parts import part_of
from agentbus.config.connection_settings import ConnectionSettings, Credentials
from agentbus.protocol.accounts import TASKS, account_of, account_of_stream
from agentbus.protocol.headers import Headers
from agentbus.protocol.parties.ledger_streams import party_in
from agentbus.protocol.stored_message import StoredMessage
from agentbus.protocol.subjects import STATE_STREAM


class AdministratorBus(Bus):
    """A connection to the streams, and a second one to the queue; both reconnect by themselves."""

    def __init__(self, settings: ConnectionSettings, on_state: Callable[[str], None], queue: Credentials) -> None:
        super().__init__(settings, on_state)
        # The two accounts are apart, so both users may receive their answers on the same subjects.
        self._queue = Bus(replace(settings, credentials=queue, tasks_credentials=None), on_state)

    async def open(self, *, retry_on_failed_connect: bool) -> None:
        """Open both connections; see `Bus.open`."""
        await Bus.open(self, retry_on_failed_connect=retry_on_failed_connect)
        await self._queue.open(retry_on_failed_connect=retry_on_failed_connect)

    async def close(self) -> None:
        """Close both connections; see `Bus.close`."""
        await self.begun.wait()  # with both of them
        await self._queue.close()
        await super().close()

    @property
    def connected(self) -> bool:
        """Whether there are both connections right now."""
        return super().connected and self._queue.connected

    async def wait_connected(self) -> None:
        """Wait for both connections; see `Bus.wait_connected`."""
        await super().wait_connected()
        await self._queue.wait_connected()

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        *,
        headers: Headers | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
        flush: bool = True,
    ) -> Msg:
        """Send a request into the account that its subject lies in; see `Bus.request`."""
        request = self._queue.request if account_of(subject) == TASKS else super().request
        return await request(subject, data, headers=headers, timeout_s=timeout_s, flush=flush)

    async def last_message(self, stream: str, subject: str) -> StoredMessage | None:
        """Read a message; see `Bus.last_message`. No import maps the ledger of all to that of one party here."""
        if stream == STATE_STREAM and party_in(subject) is not None:
            stream = (await part_of(self, subject)).stream
        return await super().last_message(stream, subject)

    def of_stream(self, stream: str) -> Bus:
        """Return the connection into the account that a stream lies in."""
        return self._queue if account_of_stream(stream) == TASKS else self

    @property
    def accounts(self) -> tuple[Bus, ...]:
        """The connections into the accounts: this one reaches the streams other than the queue."""
        return self, self._queue

    async def stream_names(self) -> list[str]:
        """Read the names of the streams of both accounts, each where it belongs."""
        others = [name for name in await super().stream_names() if account_of_stream(name) != TASKS]
        return [*others, *(name for name in await self._queue.stream_names() if account_of_stream(name) == TASKS)]

    async def misplaced_streams(self) -> list[str]:
        """Read the names of the streams that lie in another account than they belong into: an upgrade is not done."""
        return [name for name in await super().stream_names() if account_of_stream(name) == TASKS]

    async def account_info(self) -> AccountInfo:
        """Read the limits of both accounts together, which are those of the bus."""
        limits = [(await bus.account_info()).max_storage_bytes for bus in (super(), self._queue)]
        return AccountInfo(-1 if -1 in limits else sum(limits))

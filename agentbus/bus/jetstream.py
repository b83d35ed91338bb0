"""JetStream over one connection: stores and reads messages and sends API requests. Refusals are errors of ours."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from agentbus.bus.connection import REQUEST_TIMEOUT_S, Connection
from agentbus.bus.jetstream_answers import (
    AccountInfo,
    ConsumerInfo,
    StreamInfo,
    read_account_info,
    read_consumer_info,
    read_consumer_page,
    read_direct,
    read_message,
    read_name_page,
    read_object,
    read_stored,
    read_stream_info,
    read_stream_page,
)
from agentbus.bus.nats_client import Msg, NatsError
from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.bus.write_batching import check_size
from agentbus.config.connection_settings import ConnectionSettings
from agentbus.errors import (
    ApiError,
    BusError,
    BusUnavailableError,
    MalformedAnswerError,
    NoRespondersError,
    TooLargeError,
)
from agentbus.protocol import refusals, subjects
from agentbus.protocol.headers import EXPECTED_LAST_SUBJECT_SEQUENCE, MSG_ID, Headers
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.stored_message import StoredMessage

_T = TypeVar("_T")

STORE_TIMEOUT_S: Final = 10.0
"""How long `store` repeats a message with one id: longer than a cluster takes to elect a stream leader (4 to 8 s)."""
_STARTING_S: Final = 2.0
"""How long a stream may not answer before it counts as missing: a server that has just started loads its streams."""
_ELECTION_S: Final = 10.0
"""The same in a cluster, where a stream does not answer while its servers elect a leader (4 to 8 s)."""
_LAG_S: Final = 2.0
_PAUSE_S: Final = 0.1
_EXTRA_S: Final = 2.0
"""How long to wait for what an answer can do without."""
_MOST_PENDING_BYTES: Final = 262_144
"""What may wait to be written while a message that can be dropped is still sent."""


@dataclass(frozen=True, slots=True)
class Stored:
    """JetStream's acknowledgement of one message: it is in the stream at `seq`."""

    stream: str
    seq: int
    duplicate: bool


class Bus(Connection):
    """An open connection to a bus with JetStream; see `connect()`.

    Attributes:
        reads_queue: whether this user may read the tasks that wait, as far as is known: the server logs each refusal,
            so what it refused once, or what a role does not have, is not asked for.
        reads_whole_ledger: the same of reading the ledger without a filter, which a bus of an older layout refuses.
        reads_ledger_state: the same of the state of the ledger's stream.
        reads_control: the same of which agents an operator has paused.
        reads_progress: the same of what runs tell.
    """

    reads_queue = True
    reads_whole_ledger = True
    reads_ledger_state = True
    reads_control = True
    reads_progress = True

    async def store(
        self,
        subject: str,
        data: bytes,
        *,
        msg_id: str | None = None,
        expected_revision: int | None = None,
        headers: Headers | None = None,
        timeout_s: float = STORE_TIMEOUT_S,
        flush: bool = True,
    ) -> Stored:
        """Publish into a stream, and return once JetStream has stored the message.

        With `msg_id` or `expected_revision` the message is sent again when no answer comes.

        Args:
            msg_id: `Nats-Msg-Id`; JetStream acknowledges a second message with it as a duplicate, without storing it.
            expected_revision: compare-and-set: the sequence that the last message of `subject` must have, 0 for none.
            flush: see `publish`.

        Raises:
            WrongRevisionError: JetStream refused the compare-and-set. If an earlier answer was lost, the change in the
                key may be that of the caller: read it.
            SetupMissingError: no stream takes the subject.
            StreamFullError: the stream is at its limit; nothing was stored.
            BusUnavailableError: no answer in time; the message may or may not be stored.
        """
        extra = dict(headers or {})
        if msg_id is not None:
            extra[MSG_ID] = msg_id
        if expected_revision is not None:
            extra[EXPECTED_LAST_SUBJECT_SEQUENCE] = str(expected_revision)
        repeatable = msg_id is not None or expected_revision is not None
        answer = await self._jetstream(subject, data, extra, timeout_s, repeatable=repeatable, flush=flush)
        try:
            return Stored(*read_stored(answer, subject))
        except MalformedAnswerError as error:
            raise BusUnavailableError(f"{error}; the message may or may not be stored") from error

    def tell(self, subject: str, data: bytes) -> bool:
        """Send a core message now, or drop it: without a connection, or where the server reads too slowly.

        It never waits and never raises. Returns whether it was sent.
        """
        if not self.connected or self._client.unwritten_bytes > _MOST_PENDING_BYTES:
            return False
        try:
            check_size(subject, data, None, self.max_message_bytes)
            self._client.send(subject, data, "", None, flush=True)
        except (NatsError, TooLargeError):
            return False
        return True

    async def api(self, verb: str, body: Json = None, *, timeout_s: float = REQUEST_TIMEOUT_S) -> dict[str, Any]:
        """Send a JetStream API request such as `STREAM.INFO.AGENT_TASKS` and return its answer.

        Raises:
            SetupMissingError: the stream or consumer does not exist.
            ApiError: any other refusal.
            BusUnavailableError: JetStream did not answer in time.
        """
        data = b"" if body is None else encode(body)
        return await self._jetstream(subjects.api(verb), data, None, timeout_s, repeatable=True)

    async def stream_info(self, stream: str, *, subjects_filter: str = "", deleted: bool = False) -> StreamInfo:
        """Read the configuration and state of a stream.

        Args:
            subjects_filter: also count the messages of each subject that matches it.
            deleted: also list the sequences of deleted messages.

        Raises:
            SetupMissingError: the stream does not exist.
            PermissionDeniedError: this user may not read it.
        """
        verb = f"STREAM.INFO.{stream}"
        extra = {"subjects_filter": subjects_filter, "deleted_details": deleted}
        extra = {name: value for name, value in extra.items() if value}
        return read_stream_info(await self.api(verb, extra or None), verb)

    async def consumer_info(self, stream: str, name: str) -> ConsumerInfo:
        """Read the configuration and progress of one consumer; see `stream_info` for what it raises."""
        verb = f"CONSUMER.INFO.{stream}.{name}"
        return read_consumer_info(await self.api(verb), verb)

    async def consumers(self, stream: str) -> list[ConsumerInfo]:
        """Read every consumer of a stream; see `stream_info` for what it raises."""
        return await self._pages(f"CONSUMER.LIST.{stream}", read_consumer_page)

    def of_stream(self, stream: str) -> "Bus":  # noqa: ARG002  # an administrator may have a connection for each account
        """Return the connection into the account that a stream lies in."""
        return self

    @property
    def accounts(self) -> "tuple[Bus, ...]":
        """The connections into the accounts of streams that this user is in."""
        return (self,)

    @property
    def attests_writers(self) -> bool:
        """Whether results are stored under subjects that name their writers, as far as this user can tell.

        They are where the queue has an account of its own, which the administrator alone can see.
        """
        return len(self.accounts) > 1

    async def misplaced_streams(self) -> list[str]:
        """Read the names of the streams that lie in another account than they belong into."""
        return []

    async def stream_names(self) -> list[str]:
        """Read the names of all streams."""
        return await self._pages("STREAM.NAMES", read_name_page)

    async def streams_of(self, subject: str) -> list[StreamInfo]:
        """Read the configuration and state of every stream that takes messages of a subject, which may hold wildcards.

        Raises:
            PermissionDeniedError: this user may not look at them.
        """
        return await self._pages("STREAM.LIST", read_stream_page, {"subject": subject})

    async def account_info(self) -> AccountInfo:
        """Read the limits of the account."""
        return read_account_info(await self.api("INFO"), "INFO")

    async def message_without_headers(self, stream: str, seq: int) -> StoredMessage | None:
        """Read the message at a sequence by `STREAM.MSG.GET`, without its headers; None if there is none."""
        return await self._at_the_leader(stream, {"seq": seq}, headers=False)

    async def next_at_the_leader(self, stream: str, subject: str, seq: int) -> StoredMessage | None:
        """Read the first message of `subject`, which may hold wildcards, from a sequence on; None if there is none.

        The leader of the stream answers, which knows every acknowledged write: what it does not have is not there.

        Raises:
            SetupMissingError: there is no such stream.
            PermissionDeniedError: this user may not read it so.
        """
        return await self._at_the_leader(stream, {"seq": seq, "next_by_subj": subject}, headers=True)

    async def create_consumer(
        self, stream: str, name: str, config: dict[str, Any], *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> ConsumerInfo:
        """Create the consumer `name` with the filters in `config`. An existing one with the same `config` is kept."""
        body = {"stream_name": stream, "config": {"name": name, **config}, "action": "create"}
        subject = subjects.create_consumer(stream, name, config.get("filter_subject", ""))
        answer = await self._jetstream(subject, encode(body), None, timeout_s, repeatable=True)
        return read_consumer_info(answer, subject)

    async def last_message(self, stream: str, subject: str) -> StoredMessage | None:
        """Read the newest message of `subject`, which may hold wildcards; None if there is none.

        Raises:
            SetupMissingError: there is no such stream, or it does not allow direct gets.
        """
        return await self._direct_get(stream, subjects.last_of(stream, subject))

    async def last_message_if_any(self, stream: str, subject: str) -> StoredMessage | None:
        """Read the newest message of `subject`; None also where there is no such stream, which is not waited for."""
        try:
            return read_direct(await self.request(subjects.last_of(stream, subject), timeout_s=_EXTRA_S))
        except NoRespondersError:
            return None

    async def next_message(self, stream: str, subject: str, seq: int) -> StoredMessage | None:
        """Read the first message of `subject`, which may hold wildcards, from a sequence on; None if there is none.

        Raises:
            SetupMissingError: there is no such stream, or it does not allow direct gets.
        """
        wanted = {"seq": seq, "next_by_subj": subject}
        return await self._direct_get(stream, subjects.direct_get(stream), encode(wanted))

    async def message(self, stream: str, seq: int) -> StoredMessage | None:
        """Read the message at a sequence; None if there is none, or none any more.

        Raises:
            SetupMissingError: there is no such stream, or it does not allow direct gets.
        """
        return await self._direct_get(stream, subjects.direct_get(stream), encode({"seq": seq}))

    @property
    def lag_s(self) -> float:
        """How long a read may miss a message that was just stored: in a cluster, a replica that lags may answer it."""
        return _LAG_S if self.clustered else 0.0

    @property
    def _ready_within_s(self) -> float:
        """How long a stream may not answer before it counts as missing."""
        return _ELECTION_S if self.clustered else _STARTING_S

    def _no_answer(self, what: str, subject: str) -> BusError:
        """Make the error for a stream that has not answered in time; in a cluster it may only lack a leader."""
        if self.clustered:
            return NoRespondersError(
                f"no server answers for {subject}: more than half of the servers of the cluster must be up, and the "
                "streams must have been made (agentbus setup)"
            )
        return refusals.missing(what, subject)

    def _why_no_answer(self, error: NoRespondersError, subject: str, *, unsure: bool) -> BusError:
        """Make the error for a request without responders; `unsure`: JetStream may have executed an earlier attempt."""
        return error if unsure and not self.clustered else self._no_answer(f"a stream for {subject}", subject)

    async def _pages(
        self, verb: str, read: Callable[[Json, str], tuple[list[_T], int]], asked: dict[str, Json] | None = None
    ) -> list[_T]:
        """Read all pages of a list; `asked` selects what is listed."""
        found: list[_T] = []
        while True:
            page, total = read(await self.api(verb, {**(asked or {}), "offset": len(found)}), verb)
            found += page
            if not page or len(found) >= total:
                return found

    async def _at_the_leader(self, stream: str, wanted: dict[str, Json], *, headers: bool) -> StoredMessage | None:
        verb = f"STREAM.MSG.GET.{stream}"
        try:
            return read_message(await self.api(verb, wanted), verb, headers=headers)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def _answered(self, stream: str, subject: str, body: bytes) -> Msg:
        async for _ in retry_until(deadline_after(self._ready_within_s), _PAUSE_S):
            with suppress(NoRespondersError):
                return await self.request(subject, body)
        raise self._no_answer(f"the stream {stream}", subject)

    async def _direct_get(self, stream: str, subject: str, body: bytes = b"") -> StoredMessage | None:
        return read_direct(await self._answered(stream, subject, body))

    async def _jetstream(
        self,
        subject: str,
        data: bytes,
        headers: Headers | None,
        timeout_s: float,
        *,
        repeatable: bool,
        flush: bool = True,
    ) -> dict[str, Any]:
        """Send a request to JetStream; repeat it while JetStream starts and, if `repeatable`, when no answer comes."""
        clock = asyncio.get_running_loop().time
        start = clock()
        unsure = False  # whether an attempt was sent and got no answer
        async for attempt in retry_until(start + timeout_s, _PAUSE_S):
            left_s = max(0.05, min(start + timeout_s - clock(), REQUEST_TIMEOUT_S))
            try:
                message = await self.request(subject, data, headers=headers, timeout_s=left_s, flush=flush)
            except NoRespondersError as no_answer:
                error = self._why_no_answer(no_answer, subject, unsure=unsure)
                passing = True
            except BusUnavailableError:
                if not repeatable or attempt.last or self.closed:
                    raise
                unsure = True
                continue
            else:
                answer = _answer_in(message.data, subject)
                if (fault := answer.get("error")) is None:
                    return answer
                error, passing = refusals.error_of(fault, subject), refusals.is_passing(fault)
            if not passing or attempt.last or clock() > start + min(self._ready_within_s, timeout_s):
                raise error
        raise AssertionError("the last attempt returns or raises")


def unopened_bus(settings: ConnectionSettings, on_state: Callable[[str], None]) -> Bus:
    """Make a bus that is yet to be opened, with a second connection for an administrator with two credentials."""
    if settings.tasks_credentials is None:
        return Bus(settings, on_state)
    from agentbus.bus.administrator_bus import AdministratorBus  # noqa: PLC0415  # it is made from what is here

    return AdministratorBus(settings, on_state, settings.tasks_credentials)


@asynccontextmanager
async def connect(
    settings: ConnectionSettings,
    *,
    retry_on_failed_connect: bool = False,
    on_state: Callable[[str], None] = lambda _: None,
) -> AsyncGenerator[Bus]:
    """Open a connection for the length of the block; it reconnects by itself until then.

    Args:
        retry_on_failed_connect: keep dialling until a server answers, instead of failing once each server has failed.
        on_state: called with one line at every change of state: connected, lost, still unreachable and why.

    Raises:
        AuthenticationError, BusUnavailableError, ConfigError: see `Bus.open`.
    """
    bus = unopened_bus(settings, on_state)
    try:
        await bus.open(retry_on_failed_connect=retry_on_failed_connect)
        yield bus
    finally:
        await bus.close()


def _answer_in(data: bytes, subject: str) -> dict[str, Any]:
    try:
        return read_object(data, subject)
    except MalformedAnswerError as error:
        raise BusUnavailableError(str(error)) from error  # JetStream may have executed the request

"""What a server sends is read as it was sent, wherever the network has cut it."""

# pyright: reportPrivateUsage=none

import random
import ssl
from typing import NamedTuple

import pytest

from agentbus.bus.nats_client import Client
from agentbus.bus.nats_contract import HEADS
from agentbus.bus.reading.whole_messages import Deliver, deliver_whole
from agentbus.config.connection_settings import Credentials


class Sent(NamedTuple):
    number: int
    subject: bytes
    reply: bytes
    data: bytes
    headers: bytes | None = None

    @property
    def written(self) -> bytes:
        words = [self.subject, str(self.number).encode(), *([self.reply] if self.reply else [])]
        if self.headers is None:
            return b"MSG %s %d\r\n%s\r\n" % (b" ".join(words), len(self.data), self.data)
        both = self.headers + self.data
        return b"HMSG %s %d %d\r\n%s\r\n" % (b" ".join(words), len(self.headers), len(both), both)


HEAD = b"NATS/1.0\r\nBus-State: queued\r\n\r\n"
MESSAGES = (
    Sent(1, b"a.b", b"", b"hello"),
    Sent(2, b"a.b", b"_INBOX.x", b""),
    Sent(3, b"a.b", b"12", b"a reply subject that is a number"),
    Sent(4, b"a.b", b"", b"payload", HEAD),
    Sent(5, b"a.b", b"7", b"", HEAD),
    Sent(6, b"a\x0b.\x0c\xff", b"\x0b", b"\r\nMSG a 1 3\r\nabc\r\nPING\r\n", HEAD),
    Sent(12345678, b"x" * 300, b"y" * 300, bytes(range(256)) * 8),
)
COMMANDS = (b"PING\r\n", b"PONG\r\n", b"+OK\r\n")


def taking(got: "list[Sent | bytes] | list[Sent]") -> Deliver:
    def take(number: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        got.append(Sent(number, subject, reply, data, headers))

    return take


class Reader:
    """A client without a connection, and all that it was sent, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.got: list[Sent | bytes] = []
        client = Client(
            credentials=Credentials,
            tls=ssl.create_default_context,
            tls_always=False,
            shows_certificate=False,
            has_new_credentials=lambda: False,
        )
        for name, said in (("_process_ping", b"PING\r\n"), ("_process_pong", b"PONG\r\n")):
            monkeypatch.setattr(client, name, self._taker(said))
        monkeypatch.setattr(client, "_deliver", taking(self.got))
        self._client = client

    def _taker(self, said: bytes):
        async def take() -> None:
            self.got.append(said)

        return take

    async def read(self, *pieces: bytes) -> list[Sent | bytes]:
        self.got.clear()
        for piece in pieces:
            await self._client._ps.parse(piece)
        return list(self.got)


def written(sent: list[Sent | bytes]) -> bytes:
    return b"".join(one if isinstance(one, bytes) else one.written for one in sent)


async def test_messages_are_the_same_wherever_they_are_cut_in_two(monkeypatch: pytest.MonkeyPatch):
    reader = Reader(monkeypatch)
    sent: list[Sent | bytes] = [*MESSAGES[:4], COMMANDS[0], *MESSAGES[4:6], COMMANDS[1], MESSAGES[0]]
    data = written(sent)
    for cut in range(len(data) + 1):
        assert await reader.read(data[:cut], data[cut:]) == sent, cut


async def test_messages_and_commands_in_any_order_and_in_pieces_of_any_size_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
):
    reader, chance = Reader(monkeypatch), random.Random(1)
    for _ in range(200):
        said = [chance.choice((*MESSAGES, *COMMANDS)) for _ in range(chance.randrange(1, 30))]
        data, pieces = written(said), list[bytes]()
        longest = chance.choice((1, 7, 100, 3_000))
        while data:
            size = chance.randint(1, longest)
            pieces.append(data[:size])
            data = data[size:]
        assert await reader.read(*pieces) == [one for one in said if one != b"+OK\r\n"]


@pytest.mark.parametrize("message", MESSAGES)
def test_the_head_of_a_message_is_read_by_the_rules_of_the_server(message: Sent):
    found = next(found for pattern in HEADS.values() if (found := pattern.match(message.written)))
    got: list[Sent] = []
    assert deliver_whole(message.written, taking(got)) == len(message.written)
    assert got == [message]
    assert (found[1], int(found[2]), found[4] or b"") == (message.subject, message.number, message.reply)


@pytest.mark.parametrize(
    "rest", [b"", b"PING\r\n", b"MSG a 1 5\r\nhell", b"MSG a 1 5\r\nhello", b"MSG a", b"XMSG a 1 0\r\n\r\n"]
)
def test_what_is_no_whole_message_is_left(rest: bytes):
    whole = MESSAGES[0].written
    assert deliver_whole(whole + rest, taking(list[Sent]())) == len(whole)

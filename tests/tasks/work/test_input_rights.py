"""Who may read and write what tasks bring, as the server holds it where each party has an account of its own."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agentbus.bus.jetstream import Bus, connect
from agentbus.errors import BusError, CorruptFileError, FileMissingError
from agentbus.protocol import subjects
from agentbus.protocol.work import input_names
from agentbus.tasks.work.input_store import put_input, read_input
from support.in_pieces import in_pieces
from support.installation import own_bus

STREAM, NUID = input_names.stream("code"), "n" * 22
ALL = f"$O.{input_names.bucket('code')}.>"


async def content(bus: Bus, owner: str, sent: object) -> bytes:
    return b"".join([piece async for piece in read_input(bus, "code", owner, sent)])  # pyright: ignore[reportArgumentType]


def storing(subject: str) -> Callable[[Bus], Awaitable[object]]:
    return lambda bus: bus.store(subject, b"x", timeout_s=1)


ATTACKS: dict[str, tuple[str, Callable[[Bus], Awaitable[object]]]] = {
    "a member writes for another": ("bob", storing(input_names.chunks("code", NUID, "alice"))),
    "a member describes for another": ("bob", storing(input_names.meta("code", "x", "alice"))),
    "an operator writes for another": ("main", storing(input_names.chunks("code", NUID, "alice"))),
    "a member writes without an owner": ("bob", storing(f"$O.{input_names.bucket('code')}.C.{NUID}")),
    "a member reads a message": ("bob", lambda bus: bus.message(STREAM, 1)),
    "a member reads a description": ("bob", lambda bus: bus.last_message(STREAM, ALL)),
    "a member reads by a consumer": (
        "bob",
        lambda bus: bus.api(f"CONSUMER.CREATE.{STREAM}.x.{ALL}", {"stream_name": STREAM, "config": {"name": "x"}}),
    ),
    "a member changes the bucket": ("bob", lambda bus: bus.api(f"STREAM.UPDATE.{STREAM}", {"name": STREAM})),
    "a worker writes": ("code", storing(input_names.chunks("code", NUID, "alice"))),
    "a worker describes": ("code", storing(input_names.meta("code", "x", "alice"))),
    "a worker makes a consumer": (
        "code",
        lambda bus: bus.api(f"CONSUMER.CREATE.{STREAM}.x.{ALL}", {"stream_name": STREAM, "config": {"name": "x"}}),
    ),
    "a worker of another agent reads": ("doc", lambda bus: bus.message(STREAM, 1)),
    "a worker of another agent reads a description": ("doc", lambda bus: bus.last_message(STREAM, ALL)),
}


async def test_each_coordinator_writes_its_own_and_the_workers_of_the_agent_alone_read_it(tmp_path: Path) -> None:
    people = {"alice": ("member", None), "bob": ("member", None)}
    async with (
        own_bus(tmp_path, coordinators=people) as own,  # pyright: ignore[reportArgumentType]
        connect(own.settings("alice")) as alice,
        connect(own.settings("bob")) as bob,
        connect(own.settings("code")) as code,
        connect(own.settings("doc")) as doc,
        connect(own.settings("main")) as main,
        connect(own.settings("admin")) as admin,
    ):
        sent = await put_input(alice, "code", "alice", "x", in_pieces(b"her", b" file"))
        assert await content(code, "alice", sent) == b"her file"
        of_main = await put_input(main, "code", "main", "x", in_pieces(b"its file"))
        assert await content(code, "main", of_main) == b"its file"
        with pytest.raises(FileMissingError, match="which is not on the bus"):  # named in a task of another coordinator
            await content(code, "bob", sent)
        with pytest.raises(CorruptFileError, match="is not what the task names"):
            await content(code, "alice", sent.model_copy(update={"sha256": "0" * 64}))
        before = (await admin.stream_info(STREAM)).state
        parties = {"alice": alice, "bob": bob, "code": code, "doc": doc, "main": main}
        let_through: list[str] = []
        for name, (who, attack) in ATTACKS.items():
            try:
                await attack(parties[who])
            except BusError:
                continue
            let_through.append(name)
        assert let_through == []
        assert (await admin.stream_info(STREAM)).state == before
        assert subjects.files_stream("code") in await admin.stream_names()

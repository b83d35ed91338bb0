"""Descriptions of stored outputs that a hostile worker has written: refused by name, and the connection lives on."""

import asyncio
import base64
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.errors import AgentBusError, CorruptFileError, FileMissingError, TooLargeError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Record, settled
from agentbus.protocol.messages import decode_result
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.output_store import put_file, read_file
from support.harness import BOUND_S, eventually
from support.in_pieces import in_pieces
from support.mcp_harness import result_message

GOOD: dict[str, Any] = {"name": "x", "nuid": "n" * 22, "size": 1, "chunks": 1, "digest": "SHA-256=x"}


async def read(coordinator: Coordinator, name: str) -> bytes:
    return b"".join([piece async for piece in read_file(coordinator.bus, "code", name)])


async def describe(coordinator: Coordinator, description: bytes, name: str = "x") -> None:
    encoded = base64.urlsafe_b64encode(name.encode()).decode()
    await coordinator.bus.store(subjects.file_meta(subjects.files_bucket("code"), encoded), description)


@pytest.mark.parametrize(
    "wrong",
    [
        {"nuid": ">"}, {"nuid": "*"}, {"nuid": ""}, {"nuid": "a b"}, {"nuid": "a.b"}, {"nuid": "n" * 6000},
        {"nuid": "x\r\nPUB agent.code.tasks 2\r\n{}"}, {"nuid": 7}, {"size": -1}, {"chunks": -1},
        {"chunks": 10**400}, {"digest": None}, {"deleted": "perhaps"},
    ],
    ids=lambda wrong: repr(wrong)[:30],
)  # fmt: skip
async def test_a_description_that_cannot_be_right_is_refused(coordinator: Coordinator, wrong: dict[str, Any]) -> None:
    await set_up(coordinator.bus, ["code"])
    await put_file(coordinator.bus, "code", "another", in_pieces(b"y"))
    await describe(coordinator, encode({**GOOD, **wrong}))
    with pytest.raises(CorruptFileError, match="cannot be read"):
        await read(coordinator, "x")
    assert await read(coordinator, "another") == b"y"
    assert coordinator.bus.seconds_since_reconnect == float("inf")
    assert (await coordinator.bus.api("STREAM.INFO.AGENT_TASKS"))["state"]["messages"] == 0


@pytest.mark.parametrize("description", [b"", b"\xff", b"[]", b"null", b"{" * 5000])
async def test_a_description_that_is_none_is_refused(coordinator: Coordinator, description: bytes) -> None:
    await set_up(coordinator.bus, ["code"])
    await describe(coordinator, description)
    with pytest.raises(CorruptFileError, match="cannot be read"):
        await read(coordinator, "x")


async def test_a_file_whose_chunks_are_not_as_described_is_told_as_such(coordinator: Coordinator) -> None:
    await set_up(coordinator.bus, ["code"])
    await describe(coordinator, encode(GOOD))
    with pytest.raises(FileMissingError, match="0 of 1 chunks"):
        await read(coordinator, "x")
    await coordinator.bus.store(subjects.file_chunks(subjects.files_bucket("code"), "n" * 22), b"z")
    with pytest.raises(CorruptFileError, match="its size or digest is different"):
        await read(coordinator, "x")


async def test_a_reader_does_not_wait_for_chunks_that_expire_while_it_reads(coordinator: Coordinator) -> None:
    await set_up(coordinator.bus, ["code"])
    await put_file(coordinator.bus, "code", "x", in_pieces(*(b"%d" % number for number in range(100))))
    pieces = read_file(coordinator.bus, "code", "x")
    async with asyncio.timeout(BOUND_S):
        assert await anext(pieces) == b"0"
        stream = subjects.files_stream("code")
        config = (await coordinator.bus.stream_info(stream)).config
        at_once = {"max_age": 1_000_000_000, "duplicate_window": 1_000_000_000}
        await coordinator.bus.api(f"STREAM.UPDATE.{stream}", {**config, **at_once})

        async def expired() -> bool:
            return (await coordinator.bus.stream_info(stream)).state.messages == 0

        await eventually(expired, "the chunks have expired")
        with pytest.raises(CorruptFileError, match="not what was stored"):
            _ = [piece async for piece in pieces]


@pytest.mark.parametrize("file", ["a name", 7, [], {"name": 7}, {"name": "n" * 8000}, {"name": "no such file"}])
async def test_a_result_that_points_nowhere_is_told_and_harms_no_connection(
    coordinator: Coordinator, file: Any
) -> None:
    await set_up(coordinator.bus, ["code"])
    task = await coordinator.publish("code", "x", task_type="test")
    ledger = Ledger(coordinator.bus)
    record = await ledger.read(TaskKey("code", task.id))
    assert isinstance(record, Record)
    result = {**result_message(task.id, "x"), "output": {"bytes": 9, "kept": 1, "truncated": True, "file": file}}
    await ledger.write(
        TaskKey("code", task.id), settled(record.entry, decode_result(encode(result))), revision=record.revision
    )
    with pytest.raises(AgentBusError):
        assert [piece async for piece in coordinator.task(task.id).output()]
    assert (await coordinator.task(task.id).status()).state == "completed"
    assert coordinator.bus.seconds_since_reconnect == float("inf")


async def test_a_subject_for_which_the_server_would_end_the_connection_is_not_sent(coordinator: Coordinator) -> None:
    for length in (1025, 5000):
        with pytest.raises(TooLargeError, match="nothing was sent"):
            await coordinator.bus.request("a" * length)
    assert (await coordinator.bus.api("INFO"))["type"]
    assert coordinator.bus.seconds_since_reconnect == float("inf")

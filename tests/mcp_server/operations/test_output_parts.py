"""Parts of an output whose result holds only the beginning, where the file with the rest is missing or forbidden."""

from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator, TaskStatus, connect
from agentbus.bus.setup import ensure_files_bucket
from agentbus.errors import ArgumentError, FileMissingError, PermissionDeniedError
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Record, settled
from agentbus.protocol.messages import decode_result
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.output_store import put_file
from agentbus_mcp.operations.output import read_part
from support.mcp_harness import result_message
from support.restricted import all_but, restricted_bus

HEAD, REST = "beginning ", "and the rest ü"


async def truncated(coordinator: Coordinator, task_id: str = "job", *, stored: bool) -> TaskStatus:
    """A settled task whose result holds `HEAD` and names a file with all of the output."""
    await coordinator.publish("code", "work", task_type="test", task_id=task_id)
    whole = (HEAD + REST).encode()
    note: dict[str, Any] = {"truncated": True, "bytes": len(whole), "kept": len(HEAD)}
    message = {**result_message(task_id, HEAD), "output": {**note, "file": {"bucket": "b", "name": task_id}}}
    if stored:
        await put_file(coordinator.bus, "code", task_id, [whole])
    record = await Ledger(coordinator.bus).read(TaskKey("code", task_id))
    assert isinstance(record, Record)
    entry = settled(record.entry, decode_result(encode(message)))
    await Ledger(coordinator.bus).write(TaskKey("code", task_id), entry, revision=record.revision)
    return await coordinator.task(task_id).status()


async def test_the_rest_is_read_from_the_file_in_whole_characters(coordinator: Coordinator) -> None:
    await ensure_files_bucket(coordinator.bus, "code")
    status = await truncated(coordinator, stored=True)
    part = await read_part(coordinator, status, 0, 1_000)
    assert (part.text, part.total_bytes, part.readable_bytes) == (HEAD + REST, 25, 25)
    behind = await read_part(coordinator, status, 24, 1_000)  # within the last character
    assert (behind.text, behind.offset) == ("", 25)
    with pytest.raises(ArgumentError, match="26 is beyond the end"):
        await read_part(coordinator, status, 26, 10)


async def test_without_the_file_the_beginning_is_what_can_be_read(coordinator: Coordinator) -> None:
    await ensure_files_bucket(coordinator.bus, "code")
    status = await truncated(coordinator, stored=False)
    part = await read_part(coordinator, status, 3, 1_000)
    assert (part.text, part.offset, part.total_bytes, part.readable_bytes) == (HEAD[3:], 3, 25, len(HEAD))
    with pytest.raises(FileMissingError, match="there is no file job of the agent code"):
        await read_part(coordinator, status, len(HEAD), 1_000)


async def test_a_user_who_may_not_read_the_file_gets_the_beginning(tmp_path: Path) -> None:
    permissions = all_but("$JS.API.DIRECT.GET.OBJ_AGENT_FILES_code.>")
    async with restricted_bus(tmp_path, {"main": permissions}, agents=["code"]) as bus:
        status = await truncated(bus.admin, stored=True)
        async with connect(bus.url("main")) as main:
            part = await read_part(main, status, 0, 1_000)
            assert (part.text, part.readable_bytes) == (HEAD, len(HEAD))
            with pytest.raises(PermissionDeniedError):
                await read_part(main, status, len(HEAD), 1_000)

"""Parts of an output whose result holds only the beginning, where the file with the rest is missing or forbidden."""

import json
from pathlib import Path
from typing import Any

import pytest
from mcp_types import TextResourceContents

from agentbus import Coordinator, TaskStatus, connect
from agentbus.bus.setup import ensure_files_bucket
from agentbus.errors import ArgumentError, FileMissingError, PermissionDeniedError
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Record, settled
from agentbus.protocol.messages import decode_result
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.output_store import put_file
from agentbus_mcp.operations.output import beginnings, output_of_task, read_part
from agentbus_mcp.replies.models import AgentResult
from agentbus_mcp.replies.results import UncutResult
from agentbus_mcp.sanitize import visible
from support.in_pieces import in_pieces
from support.mcp_harness import data_of, in_memory, put, result_message, settle
from support.restricted import all_but, restricted_bus

HEAD, REST = "beginning ", "and the rest ü"


async def truncated(
    coordinator: Coordinator,
    task_id: str = "job",
    *,
    stored: bool,
    whole: bytes = (HEAD + REST).encode(),
    kept: int = len(HEAD),
) -> TaskStatus:
    """A settled task whose result holds the beginning of `whole` and names a file with all of the output."""
    await coordinator.publish("code", "work", task_type="test", task_id=task_id)
    note: dict[str, Any] = {"truncated": True, "bytes": len(whole), "kept": kept}
    head = whole[:kept].decode(errors="replace")
    message = {**result_message(task_id, head), "output": {**note, "file": {"bucket": "b", "name": task_id}}}
    if stored:
        await put_file(coordinator.bus, "code", task_id, in_pieces(whole))
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


# -- output that is not UTF-8


async def read_through(coordinator: Coordinator, status: TaskStatus, max_bytes: int) -> tuple[str, list[AgentResult]]:
    """Read an output part by part, as a client that follows `next` does."""
    part = (await beginnings(coordinator, [status])).get(status.record.key) or output_of_task(status)
    views = list[AgentResult]()
    while True:
        views.append(UncutResult(AgentResult(status="completed"), part).cut(max_bytes, 8 * max_bytes))
        following = views[-1].next_offset
        if following is None:
            return "".join(view.output or "" for view in views), views
        assert len(views) < 1_000
        part = await read_part(coordinator, status, following, max_bytes)
        assert part.offset == following


LATIN = "Größe geändert, naïve Übung «déjà»\n".encode("latin-1")
NO_UTF8 = {
    "Latin-1": LATIN * 40,
    "two bytes that begin a character, and one alone": b"x\xe9\xbb!\xff\n" * 200,
    "a file of all bytes": bytes(range(256)) * 6,
    "U+FFFD as it was printed, among Latin-1": "x\ufffd".encode() * 300 + LATIN,
    "UTF-8 behind a byte that is none": b"\xfc" + "漢字🎉ü".encode() * 100,
    "nothing but bytes that continue a character": b"\xa9" * 1_000,
}


@pytest.mark.parametrize("whole", NO_UTF8.values(), ids=NO_UTF8)
async def test_parts_joined_are_the_text_of_the_whole(whole: bytes, coordinator: Coordinator) -> None:
    await ensure_files_bucket(coordinator.bus, "code")
    stored = await truncated(coordinator, stored=True, whole=whole, kept=301)
    text, views = await read_through(coordinator, stored, 150)
    assert text == visible(whole.decode(errors="replace"))
    assert {view.output_bytes for view in views} == {len(whole)}
    assert [view.truncated for view in views] == [True] * (len(views) - 1) + [None]


async def test_parts_of_an_output_within_the_result_joined_are_all_of_it(coordinator: Coordinator) -> None:
    text = (LATIN * 40).decode(errors="replace")
    await coordinator.publish("code", "work", task_type="test", task_id="inline")
    await settle(coordinator, "inline", text)
    joined, views = await read_through(coordinator, await coordinator.task("inline").status(), 200)
    assert joined == text
    assert {view.output_bytes for view in views} == {len(text.encode())}


@pytest.mark.parametrize("name", ["Latin-1", "two bytes that begin a character, and one alone"])
async def test_of_an_output_whose_file_is_gone_the_beginning_is_shown(name: str, coordinator: Coordinator) -> None:
    await ensure_files_bucket(coordinator.bus, "code")
    whole = NO_UTF8[name]
    text, views = await read_through(
        coordinator, await truncated(coordinator, stored=False, whole=whole, kept=301), 150
    )
    assert text == whole[:301].decode(errors="replace")
    assert views[-1].truncated


@pytest.mark.parametrize(
    "name", ["two bytes that begin a character, and one alone", "U+FFFD as it was printed, among Latin-1"]
)
async def test_the_first_answer_shows_what_is_behind_bytes_that_are_no_utf8(
    name: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await ensure_files_bucket(coordinator.bus, "code")
    whole = NO_UTF8[name]
    status = await truncated(coordinator, stored=True, whole=whole, kept=601)
    assert status.result is not None
    await put(coordinator, status.result.to_json())
    async with in_memory(server.url) as client:
        shown = [
            data_of(await client.call_tool("get_task", {"task_id": "job"}))["result"],
            *data_of(await client.call_tool("watch_results", {"task_ids": ["job"]}))["results"],
            *data_of(await client.call_tool("get_results", {"task_ids": ["job"]}))["results"],
            *data_of(await client.call_tool("get_results", {"newest": 1, "response_format": "detailed"}))["results"],
        ]
        for uri in ("agentbus://tasks/code/job", "agentbus://agents/main/results"):
            [content] = (await client.read_resource(uri)).contents
            assert isinstance(content, TextResourceContents)
            read = json.loads(content.text)
            shown.append(read["result"] if "result" in read else read["newest"][0])
    text = visible(whole.decode(errors="replace"))
    assert len(shown) == 6
    for result in shown:
        assert text.startswith(result["output"])
        assert len(result["output"]) >= 250
        following = await read_part(coordinator, status, result["next_offset"], len(whole))
        assert result["output"] + visible(following.text) == text


async def test_while_the_file_cannot_be_read_the_first_answer_has_what_is_sure_or_all_that_is_left(
    coordinator: Coordinator,
) -> None:
    await ensure_files_bucket(coordinator.bus, "code")
    whole = NO_UTF8["two bytes that begin a character, and one alone"]
    gone = await truncated(coordinator, stored=False, whole=whole, kept=301)
    [part] = (await beginnings(coordinator, [gone])).values()
    assert (part.text, part.readable_bytes) == (whole[:301].decode(errors="replace"), len(part.data))
    await coordinator.bus.close()
    assert not await beginnings(coordinator, [gone])
    part = output_of_task(gone)
    assert (part.text, part.total_bytes, part.readable_bytes) == ("x", len(whole), len(whole))

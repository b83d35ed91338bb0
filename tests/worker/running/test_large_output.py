"""Output too large for a result: the result has its beginning and size, a file has all of it."""

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer
from support.harness import Process, eventually, process, run_cli, worker, worker_toml
from support.jobs import acknowledged, outcome, publish, text

INLINE = 4096


def config_for(folder: Path, server: NatsServer, script: str, **keys: Any) -> Path:
    """A worker whose command is a Python script that writes to `out`."""
    body = f"import sys; out = sys.stdout.buffer; {script}"
    more = {"inline_output_bytes": INLINE, **keys}
    return worker_toml(folder, server.url, chat_cmd=[sys.executable, "-c", body, "{input}"], worker=more)


def output_of(size: int) -> bytes:
    """Bytes of which no two stretches are alike, and that are no UTF-8."""
    return b"".join(number.to_bytes(8, "big") + b"\xff\xfe\r\n" for number in range(size // 12 + 1))[:size]


SCRIPT = "[out.write(n.to_bytes(8, 'big') + b'\\xff\\xfe\\r\\n') for n in range({count})]"


async def test_the_result_has_the_beginning_and_the_size_and_the_file_has_the_whole_output(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    whole = output_of(12 * 250_000)
    async with worker(config_for(tmp_path, server, SCRIPT.format(count=250_000))):
        status = await outcome(coordinator, "x")
        await acknowledged(coordinator)
    assert status.state == "completed"
    assert text(status) == whole[:INLINE].decode(errors="replace")
    note = status.output_note
    sha256 = hashlib.sha256(whole).hexdigest()
    assert (note["truncated"], note["bytes"], note["kept"], note["sha256"]) == (True, len(whole), INLINE, sha256)
    [message] = await coordinator.results()
    assert json.loads(message.data)["output"] == note, "the message says what the ledger says"
    # The same through the command line, to the byte; and any other file of the task is gone from the worker's disk.
    got = tmp_path / "got"
    argv = [sys.executable, "-m", "agentbus", "result", "get", "--full", status.task_id, "--nats-url", server.url]
    with got.open("wb") as sink:
        child = await asyncio_run(argv, sink)
    assert child == 0
    assert got.read_bytes() == whole
    assert not [*(tmp_path / "state").glob("*/code/*/tmp/*")]


async def asyncio_run(argv: list[str], sink: Any) -> int:
    child = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.DEVNULL, stdout=sink)
    return await child.wait()


async def test_the_whole_output_of_a_task_can_be_read_whether_long_or_short(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(config_for(tmp_path, server, "out.write('short ü\\n'.encode())")):
        status = await outcome(coordinator, "x")
    got = await run_cli("result", "get", "--full", status.task_id, "--nats-url", server.url)
    assert (got.code, got.out) == (0, "short ü\n")
    missing = await run_cli("result", "get", "--full", "job-7", "--nats-url", server.url)
    assert (missing.code, missing.out) == (1, "")
    assert missing.err.startswith("error: no task job-7 is known on this bus")


@pytest.mark.parametrize(("size", "stored"), [(INLINE, False), (INLINE + 1, True), (50_000, True), (50_001, False)])
async def test_a_file_is_stored_for_output_between_the_inline_limit_and_the_maximum(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, size: int, stored: bool
):
    await set_up(coordinator.bus, ["code"])
    config = config_for(tmp_path, server, f"out.write(b'x' * {size})", max_output_bytes=50_000)
    async with worker(config) as child:
        status = await outcome(coordinator, "x")
        await acknowledged(coordinator)
    assert status.output_note.get("bytes", INLINE) == size
    assert ("file" in status.output_note) == stored
    assert (await coordinator.bus.api("STREAM.INFO.OBJ_AGENT_FILES_code"))["state"]["messages"] == (2 if stored else 0)
    got = await run_cli("result", "get", "--full", status.task_id, "--nats-url", server.url)
    if size > 50_000:
        assert (got.code, got.out) == (1, "")
        assert got.err == f"error: only the first {INLINE} of {size} bytes of output were kept\n"
        assert child.said("50001 bytes of output are more than max_output_bytes (50000)")
    else:
        assert (got.code, len(got.out)) == (0, size)


async def test_without_a_bucket_the_result_has_the_beginning_and_the_log_names_the_set_up_command(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    await coordinator.bus.api("STREAM.DELETE.OBJ_AGENT_FILES_code")
    async with worker(config_for(tmp_path, server, "out.write(b'x' * 100000)")) as child:
        status = await outcome(coordinator, "x")
        await acknowledged(coordinator)
        await child.until_said(
            f"task {status.task_id}: its output is kept only in part: a stream for $O.AGENT_FILES_code."
        )
        assert child.said("make it with: agentbus setup")
    assert (status.state, text(status)) == ("completed", "x" * INLINE)
    assert (status.output_note["bytes"], "file" in status.output_note) == (100_000, False)


async def test_a_full_bucket_loses_the_new_file_but_neither_the_result_nor_older_files(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    info = await coordinator.bus.api("STREAM.INFO.OBJ_AGENT_FILES_code")
    await coordinator.bus.api("STREAM.UPDATE.OBJ_AGENT_FILES_code", {**info["config"], "max_bytes": 1_500_000})
    async with worker(config_for(tmp_path, server, "out.write(b'x' * 1000000)")) as child:
        first = await outcome(coordinator, "x")
        second = await outcome(coordinator, "x")
        await acknowledged(coordinator)
        await child.until_said(
            f"task {second.task_id}: its output is kept only in part: the stream that takes $O.AGENT_FILES"
        )
    assert (first.state, second.state) == ("completed", "completed")
    assert ("file" in first.output_note, "file" in second.output_note) == (True, False)
    assert second.output_note["bytes"] == 1_000_000
    got = await run_cli("result", "get", "--full", first.task_id, "--nats-url", server.url)
    assert got.out == "x" * 1_000_000


async def test_a_file_with_a_missing_chunk_is_an_error_and_not_a_shorter_output(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    async with worker(config_for(tmp_path, server, "out.write(b'x' * 2000000)")):
        status = await outcome(coordinator, "x")
    config = (await coordinator.bus.api("STREAM.INFO.OBJ_AGENT_FILES_code"))["config"]
    await coordinator.bus.api(
        "STREAM.UPDATE.OBJ_AGENT_FILES_code", {**config, "max_bytes": 1_200_000, "discard": "old"}
    )
    got = await run_cli("result", "get", "--full", status.task_id, "--nats-url", server.url)
    assert got.code == 1
    assert "is not whole" in got.err


async def test_output_of_a_failed_command_is_stored_as_well(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    async with worker(config_for(tmp_path, server, "out.write(b'x' * 100000); out.flush(); sys.exit(3)")):
        status = await outcome(coordinator, "x")
    assert status.state == "failed"
    got = await run_cli("result", "get", "--full", status.task_id, "--nats-url", server.url)
    assert (got.code, len(got.out)) == (0, 100_000)


# -- much of it -------------------------------------------------------------------------------------------------


async def peak_rss(child: Process, until: Any) -> int:
    """The most memory that a process has had until something is true, in bytes."""
    tracked, peak = psutil.Process(child.pid), 0

    async def look() -> bool:
        nonlocal peak
        if child.popen.poll() is None:
            peak = max(peak, tracked.memory_info().rss)
        return bool(await until())

    await eventually(look, "it is done", timeout_s=600)
    return peak


async def check_size(folder: Path, server: NatsServer, coordinator: Coordinator, size: int) -> tuple[int, int, int]:
    """Have a task print `size` bytes, and read them back: the worker's memory before and at its peak, the reader's."""
    await set_up(coordinator.bus, ["code"])
    block = b"0123456789abcdef" * 65_536
    script = f"block = b'0123456789abcdef' * 65536; [out.write(block) for _ in range({size // len(block)})]"
    digest = hashlib.sha256()
    for _ in range(size // len(block)):
        digest.update(block)
    async with worker(config_for(folder, server, script, task_timeout_seconds=600)) as child:
        before = psutil.Process(child.pid).memory_info().rss
        task_id = await publish(coordinator, "x")

        async def is_settled() -> bool:
            return (await coordinator.task(task_id).status()).settled

        peak = await peak_rss(child, is_settled)
        await acknowledged(coordinator)
    status = await coordinator.task(task_id).status()
    assert (status.output_note["bytes"], status.output_note["sha256"]) == (size, digest.hexdigest())
    argv = [sys.executable, "-m", "agentbus", "result", "get", "--full", task_id, "--nats-url", server.url]
    with process(argv, folder / "full") as reader:

        async def has_ended() -> bool:
            return reader.popen.poll() is not None

        read_peak = await peak_rss(reader, has_ended)
        assert await reader.exit_code() == 0
    read = hashlib.sha256()
    with (folder / "full").open("rb") as file:
        while piece := file.read(1_048_576):
            read.update(piece)
    assert read.hexdigest() == digest.hexdigest()
    (folder / "full").unlink()
    return before, peak, read_peak


async def test_the_memory_of_the_worker_does_not_grow_with_the_output(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    before, peak, read_peak = await check_size(tmp_path, server, coordinator, 64 * 2**20)
    assert peak - before < 24 * 2**20
    assert read_peak < before + 24 * 2**20


@pytest.mark.large
async def test_a_gigabyte_of_output_takes_no_more_memory_than_a_short_one(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    before, peak, read_peak = await check_size(tmp_path, server, coordinator, 2**30)
    print(
        f"\nworker: {before / 2**20:.1f} MiB idle, {peak / 2**20:.1f} MiB at its peak; reader: {read_peak / 2**20:.1f}"
    )
    assert peak - before < 24 * 2**20
    assert read_peak < before + 24 * 2**20

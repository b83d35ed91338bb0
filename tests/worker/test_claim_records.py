"""The records of claims on disk: what they hold, that they stay small, and that no disk and no file stops a worker."""

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentbus.bus.pull_consumer import consumer_of
from agentbus.protocol.subjects import TaskKey
from agentbus_worker import claim_records
from agentbus_worker.claim_records import SLOT_BYTES, ClaimRecord, ClaimRecords, LeftClaims, left_claims
from agentbus_worker.identity import Place
from support.harness import BOUND_S, eventually

HERE = Place("machine", "boot", "pid:[1]")
KEY = TaskKey("code", "job-1", "alice")
REPLY = "$JS.ACK.AGENT_TASKS.agent-code.1.7.9.1700000000000000000.5"


def record(records: ClaimRecords, number: int) -> ClaimRecord:
    return ClaimRecord(records, TaskKey("code", f"job-{number}"), f"nonce-{number}", REPLY)


def left(folder: Path) -> list[str]:
    return sorted(claim.task_id for file in left_claims(folder) for claim in file.claims)


async def test_a_record_has_what_the_next_worker_needs(tmp_path: Path):
    with ClaimRecords(tmp_path, "token", HERE) as records:
        one = ClaimRecord(records, KEY, "nonce", REPLY)
        await one.written()
        [file] = left_claims(tmp_path)
        [claim] = file.claims
        assert (file.worker, file.place) == ("token", HERE)
        assert (claim.key, claim.nonce, claim.reply, claim.released) == (KEY, "nonce", REPLY, False)
        one.remove()
    assert [*tmp_path.iterdir()] == []


async def test_the_file_is_as_large_as_the_most_tasks_that_were_held_at_a_time(tmp_path: Path):
    with ClaimRecords(tmp_path, "token", HERE) as records:
        for number in range(0, 300, 3):
            held = [record(records, number + one) for one in range(3)]
            for one in held:
                one.remove()
        await record(records, 1000).written()
        [path] = tmp_path.iterdir()
        assert path.stat().st_size <= 4 * SLOT_BYTES
        assert path.stat().st_mode & 0o777 == 0o600
        await eventually(lambda: left(tmp_path) == ["job-1000"], "the records of what is done are emptied")


async def test_what_could_not_be_released_is_kept_beyond_the_end_of_the_worker_and_bounded(tmp_path: Path):
    with ClaimRecords(tmp_path, "token", HERE) as records:
        for number in range(200):
            one = record(records, number)
            one.keep(released=True)
            one.remove()  # nothing any more
    [file] = left_claims(tmp_path)
    assert sorted(int(claim.task_id.removeprefix("job-")) for claim in file.claims) == [*range(136, 200)]
    assert all(claim.released for claim in file.claims)
    for claim in file.claims:
        file.forget(claim)
    assert [*tmp_path.iterdir()] == []


async def test_records_that_are_forgotten_one_by_one_leave_the_others(tmp_path: Path):
    with ClaimRecords(tmp_path, "token", HERE) as records:
        for number in range(3):
            record(records, number).keep()
    [file] = left_claims(tmp_path)
    file.forget(next(claim for claim in file.claims if claim.task_id == "job-1"))
    assert left(tmp_path) == ["job-0", "job-2"]


def writes_one_byte(*_: Any) -> int:
    return 1


@pytest.mark.parametrize("trouble", ["the folder is gone", "nothing can be written"])
async def test_a_disk_that_refuses_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, trouble: str
):
    folder = tmp_path / "gone" if trouble == "the folder is gone" else tmp_path
    if folder == tmp_path:
        monkeypatch.setattr(os, "pwrite", writes_one_byte)
    with ClaimRecords(folder, "token", HERE) as records:
        for number in range(3):
            one = record(records, number)
            await one.written()
            one.remove()
    assert [line.getMessage().partition(",")[0] for line in caplog.records] == ["claims are not on record"]


async def test_a_disk_that_stands_still_holds_up_one_command_for_a_moment_and_no_other_until_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    real, back = os.pwrite, threading.Event()

    def pwrite(*args: Any) -> int:
        back.wait()
        return real(*args)

    moment_s = claim_records._DISK_S  # pyright: ignore[reportPrivateUsage]
    with ClaimRecords(tmp_path, "token", HERE) as records:
        monkeypatch.setattr(claim_records, "_DISK_S", BOUND_S)  # a busy machine is no disk that stands still
        await record(records, 0).written()
        monkeypatch.setattr(claim_records, "_DISK_S", moment_s)
        monkeypatch.setattr(os, "pwrite", pwrite)
        for number in range(1, 1000):
            await record(records, number).written()
        assert [line.getMessage().partition(" under ")[0] for line in caplog.records] == [
            "claims are not on record while the disk"
        ]
        back.set()
        await eventually(lambda: left(tmp_path) == ["job-0", "job-1"], "what was under way is written")

        async def writes_again() -> bool:
            one = record(records, 5000)
            await one.written()
            return "job-5000" in left(tmp_path)

        await eventually(writes_again, "records are written again")


async def test_those_that_wait_for_their_records_go_on_in_the_order_of_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real, gate, done = os.pwrite, threading.Event(), threading.Semaphore(0)

    def pwrite(*args: Any) -> int:
        gate.wait()
        written = real(*args)
        done.release()
        return written

    order: list[int] = []

    async def wait(one: ClaimRecord, number: int) -> None:
        await one.written()
        order.append(number)

    monkeypatch.setattr(claim_records, "_DISK_S", BOUND_S)
    with ClaimRecords(tmp_path, "token", HERE) as records:
        await record(records, 0).written()
        monkeypatch.setattr(os, "pwrite", pwrite)
        held = [record(records, number) for number in range(1, 4)]
        async with asyncio.TaskGroup() as group:
            group.create_task(wait(held[0], 1))
            await asyncio.sleep(0)  # it waits
            gate.set()
            for _ in held:
                done.acquire()  # without the event loop, which would wake the first one
            group.create_task(wait(held[1], 2))
            await asyncio.sleep(0)
            group.create_task(wait(held[2], 3))
    assert order == [1, 2, 3]


# -- what a file may hold ---------------------------------------------------------------------------------------

HEAD = json.dumps({"worker": "token", **HERE._asdict()}).encode()
CLAIM = {"agent": "code", "task_id": "job-1", "nonce": "nonce", "reply": REPLY}


def behind_the_head(tail: bytes) -> bytes:
    return HEAD + b"\n" + tail


def file_of(folder: Path, *lines: bytes) -> LeftClaims:
    path = folder / "token.claims"
    path.write_bytes(b"".join((line + b"\n").ljust(SLOT_BYTES, b"\0") for line in lines))
    return LeftClaims(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"agent": "a b"},
        {"agent": None},
        {"task_id": "../x"},
        {"task_id": "x" * 200},
        {"owner": "*"},
        {"nonce": ""},
        {"nonce": "a.b"},
        {"reply": "x" * 2000},
        {"reply": 7},
        {"released": "perhaps"},
    ],
    ids=str,
)
def test_a_record_that_is_not_valid_is_passed_over_and_the_others_are_read(tmp_path: Path, changes: dict[str, Any]):
    odd = json.dumps({**CLAIM, **changes}).encode()[: SLOT_BYTES - 1]
    other = json.dumps({**CLAIM, "task_id": "job-2"}).encode()
    assert [claim.task_id for claim in file_of(tmp_path, HEAD, odd, other).claims] == ["job-2"]


@pytest.mark.parametrize("head", [b"", b"{", b"[]", b'{"worker": ""}', b'{"worker": "a/b"}', b"\xff", b"null"])
def test_a_file_that_does_not_say_whose_it_is_holds_nothing(tmp_path: Path, head: bytes):
    found = file_of(tmp_path, head, json.dumps(CLAIM).encode())
    assert (found.worker, found.claims, found.place) == ("", [], Place())


@given(data=st.binary(max_size=3 * SLOT_BYTES) | st.binary(max_size=2000).map(behind_the_head))
def test_any_bytes_are_read_as_a_file_of_records(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    path = tmp_path_factory.mktemp("claims") / "any.claims"
    path.write_bytes(data)
    found = LeftClaims(path)
    for claim in found.claims:
        found.forget(claim)


@pytest.mark.parametrize(
    ("reply", "consumer"),
    [
        (REPLY, ("AGENT_TASKS", "agent-code")),
        ("$JS.ACK._.ABCDEF.AGENT_TASKS.tasks-code.1.7.9.1700000000000000000.5.x", ("AGENT_TASKS", "tasks-code")),
        ("$JS.ACK._.ABCDEF.AGENT_TASKS.tasks-code.1.7.9.1700000000000000000.5", ("AGENT_TASKS", "tasks-code")),
        ("$JS.ACK.AGENT_TASKS.agent-code.1.7.9.1700000000000000000", None),
        ("$JS.ACK.AGENT_TASKS.agent-code.1.7.x.1700000000000000000.5", None),
        ("$JS.ACK.AGENT_TASKS.*.1.7.9.1700000000000000000.5", None),
        ("$JS.ACK.AGENT_TASKS.agent code.1.7.9.1700000000000000000.5", None),
        ("$JS.API.STREAM.DELETE.AGENT_TASKS", None),
        ("agent.code.control", None),
        ("", None),
    ],
)
def test_an_ack_subject_names_its_consumer_and_nothing_else_is_one(reply: str, consumer: tuple[str, str] | None):
    assert consumer_of(reply) == consumer


# -- where a worker ran -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "sees", "restarted"),
    [
        (HERE, True, False),
        (HERE._replace(processes="pid:[2]"), False, False),
        (HERE._replace(boot="another"), False, True),
        (HERE._replace(machine="another", boot="another"), False, False),
        (HERE._replace(machine="", boot="another"), False, False),
        (HERE._replace(boot=""), False, False),
        (Place(), False, False),
    ],
)
def test_only_the_same_namespace_or_another_boot_of_this_machine_tell_of_processes(
    other: Place, sees: bool, restarted: bool
):
    assert (HERE.sees(other), HERE.was_restarted_since(other)) == (sees, restarted)
    assert not Place().sees(other)
    assert not Place().was_restarted_since(other)

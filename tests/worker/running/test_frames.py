"""Frames of progress bars: a coordinator reads what they came to, and the whole is kept."""

import hashlib
import random
import sys
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.running.frames import Frames, folded
from support.harness import worker, worker_toml
from support.jobs import outcome, text

BAR = b"".join(b"\rprogress %d of 3000" % number for number in range(3000))


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"1 %\r50 %\r100 %\ndone\n", b"100 %\ndone\n"),
        (b"start\n\r1\r2\r3\nmiddle\n4\r5\n", b"start\n3\nmiddle\n5\n"),
        (b"1\r\x1b[2K2\r\x1b[2K3", b"\x1b[2K3"),
        (b"one\r\ntwo\r\r\nthree\r\n", b"one\r\ntwo\r\r\nthree\r\n"),
        (b"1\r2\r", b"2\r"),
        (b"1\r2\r\r\n", b"2\r\r\n"),
        ("…\rüber\n".encode(), "über\n".encode()),
        (b"", b""),
        (b"no frames\nat all", b"no frames\nat all"),
    ],
)
def test_of_each_line_stays_what_follows_its_last_carriage_return(data: bytes, shown: bytes):
    assert folded(data) == shown


def fed(data: bytes, *, max_bytes: int = 65_536, sizes: random.Random | None = None) -> bytes | None:
    """What `Frames` makes of an output that arrives in pieces."""
    frames, head, at = Frames(max_bytes), bytearray(), 0
    while at < len(data):
        size = sizes.choice((1, 2, 7, 100, 70_000)) if sizes else 65_536
        chunk = data[at : at + size]
        frames.feed(chunk, head)
        head += chunk[: max(0, max_bytes - len(head))]
        at += size
    return frames.result()


@pytest.mark.parametrize("seed", range(5))
def test_an_output_is_folded_in_whatever_pieces_it_arrives(seed: int):
    data = b"plan:\r\n- look\r\n" + BAR + b"\n" + BAR + b"\r\nthe answer\r\n"
    assert fed(data, sizes=random.Random(seed)) == folded(data)
    assert folded(data).endswith(b"progress 2999 of 3000\r\nthe answer\r\n")


@pytest.mark.parametrize(
    "data",
    [
        b"x\ry\n" * 100,
        b"x" * 10_000 + b"\r" + b"y" * 12_000,
        b"line\r\n" * 5_000,
        BAR + b"caf\xe9",
        b"x" * 70_000 + b"\n" + BAR,
        BAR + b"x" * 70_000,
        random.Random(1).randbytes(50_000),
    ],
    ids=["short", "mostly text", "CRLF", "no UTF-8", "long before", "long after", "binary"],
)
def test_what_is_short_or_no_progress_stays_as_it_is(data: bytes):
    assert fed(data) is None


@pytest.mark.parametrize("count", [3_000, 300], ids=["more than a result holds", "less"])
async def test_the_result_has_the_answer_and_the_file_has_every_frame(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, count: int
):
    script = (
        f"[print(f'\\rprogress {{n}} of {{{count}}}', end='') for n in range({count})]; print(); print('the answer')"
    )
    whole = b"".join(b"\rprogress %d of %d" % (number, count) for number in range(count)) + b"\nthe answer\n"
    await set_up(coordinator.bus, ["code"])
    keys = {"inline_output_bytes": 16_384}
    config = worker_toml(tmp_path, server.url, chat_cmd=[sys.executable, "-c", script, "{input}"], worker=keys)
    async with worker(config):
        status = await outcome(coordinator, "x")
    assert text(status) == f"progress {count - 1} of {count}\nthe answer\n"
    note = status.output_note
    assert (note["folded"], note["bytes"], note["sha256"]) == (True, len(whole), hashlib.sha256(whole).hexdigest())
    pieces = [piece async for piece in coordinator.task(status.task_id).output()]
    assert b"".join(pieces) == whole


async def test_progress_on_standard_error_hides_no_reason(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    script = "import sys; [print(f'\\rstep {n}', end='', file=sys.stderr) for n in range(500)]; sys.exit('\\nno disk')"
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=[sys.executable, "-c", script, "{input}"])):
        status = await outcome(coordinator, "x")
    assert status.result is not None
    assert status.result.error == "the command exited with status 1: step 499\nno disk"

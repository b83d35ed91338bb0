"""How much a page is sent: never more than the line of a phone takes, and logs by their end."""

from collections import deque
from typing import Any, cast

from agentbus.protocol.json_codec import encode
from agentbus.ui.live_log import LogReader
from agentbus_mcp.page.event_stream import Allowance, frames

MOST_BYTES_S = 20_000


def test_no_second_has_more_than_twenty_kilobytes_whatever_there_is_to_send():
    now = 0.0
    allowance = Allowance(lambda: now)
    sent = list[tuple[float, int]]()
    for number in range(400):
        if number % 50 == 0:
            now += 3.0  # a quiet moment, after which there is room for a burst
        count = (5_000, 200, 40, 4_100)[number % 4]
        now += allowance.wait_s(count)
        sent.append((now, count))
    seconds = [sum(count for at, count in sent if start <= at < start + 1) for start, _ in sent]
    assert max(seconds) < MOST_BYTES_S


def test_a_section_is_sent_in_frames_of_a_bounded_size_and_its_order_last():
    rows = {f"code/job-{number}": {"text": "x" * 400} for number in range(30)}
    found = {"running": {"order": [*rows], "rows": rows}, "version": 7}
    sent = [*frames("board", cast("Any", found))]
    assert max(map(len, sent)) < 7_000
    assert [frame.split(b"\n")[0] for frame in sent][-2:] == [b"event: section", b"event: version"]
    assert sum(frame.count(b'"text"') for frame in sent) == 30


class _Log:
    """The log of a task, as a reader sees it."""

    def __init__(self, lines: list[dict[str, Any]], *, count: int | None = None, ended: bool = False) -> None:
        self.lines = deque(lines)
        self.count = len(lines) if count is None else count
        self.ended = ended


async def read_all(log: _Log) -> list[dict[str, Any]]:
    reader = LogReader(cast("Any", log))
    parts: list[dict[str, Any]] = []
    while not parts or "ended" not in parts[-1]:
        parts.append(cast("Any", await reader.next()))
    return parts


async def test_a_log_comes_in_parts_of_a_bounded_size_and_says_when_it_has_ended():
    parts = await read_all(_Log([{"text": f"{number} " + "x" * 100} for number in range(300)], ended=True))
    assert [line["text"].split()[0] for part in parts for line in part["lines"]] == [str(one) for one in range(300)]
    assert max(len(encode(part)) for part in parts) < 5_000
    assert [part.get("again") for part in parts].count(True) == 1


async def test_who_is_far_behind_is_given_the_end_and_told_what_is_missing():
    parts = await read_all(_Log([{"text": "x" * 900} for _ in range(400)], count=3_600, ended=True))
    shown = sum(len(part["lines"]) for part in parts)
    assert shown < 12
    assert sum(part.get("missed", 0) for part in parts) == 3_600 - shown


async def test_a_log_of_nothing_ends():
    assert await read_all(_Log([], ended=True)) == [{"again": True, "ended": True}]

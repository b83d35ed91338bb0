"""Log lines on a thread of their own: what stands still stops nothing, and what is dropped is counted and said once."""

import errno
import io
import logging
import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from agentbus.observability.queued_log import QueuedHandler, write_to
from support.harness import BOUND_S, run_python

NOTE = "log lines were dropped: the sink did not take them"
BEGIN = "the sink takes no log lines; they are dropped until it does"


class Sink:
    """What lines go to, until it is told to stand still."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.moves = threading.Event()
        self.moves.set()
        self.reached = threading.Event()
        self.error: OSError | None = None

    def until(self, count: int) -> None:
        deadline = time.monotonic() + BOUND_S
        while len(self.lines) < count:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def __call__(self, line: str) -> None:
        self.reached.set()
        assert self.moves.wait(BOUND_S)
        if self.error is not None:
            raise self.error
        self.lines.append(line)


@contextmanager
def logging_to(handler: logging.Handler) -> Generator[logging.Logger]:
    logger = logging.getLogger("test of a queued log")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        handler.close()


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def stand_still(sink: Sink, logger: logging.Logger) -> None:
    """Have the thread wait in the sink with a first line."""
    sink.moves.clear()
    sink.reached.clear()
    logger.warning("first")
    assert sink.reached.wait(BOUND_S)


def test_lines_are_written_in_their_order_as_they_were_when_they_were_logged() -> None:
    sink, values = Sink(), [1]
    with logging_to(QueuedHandler(sink, "the sink")) as logger:
        logger.warning("values %s", values)
        values.append(2)
        logger.warning("values %s", values)
    assert sink.lines == ["values [1]\n", "values [1, 2]\n"]


def test_what_is_dropped_during_a_standstill_is_counted_and_said_once_in_both_places() -> None:
    sink, other = Sink(), Kept()
    handler = QueuedHandler(sink, "the sink", beside=other, max_lines=10)
    with logging_to(handler) as logger:
        stand_still(sink, logger)
        for number in range(50):
            logger.warning("line %d", number)
        assert (handler.dropped, other.said) == (40, [BEGIN])
        sink.moves.set()
        handler.flush()
        sink.until(11)  # those that waited are written
        logger.warning("again")
        logger.warning("and again")
    assert sink.lines[-4:] == ["line 9\n", f"40 {NOTE}\n", "again\n", "and again\n"]
    assert sum(NOTE in line for line in sink.lines) == 1
    assert other.said == [BEGIN]


def test_what_a_full_disk_refuses_is_counted_and_said_once_there_is_room() -> None:
    sink = Sink()
    sink.error = OSError(errno.ENOSPC, "No space left on device")
    handler = QueuedHandler(sink, "the sink")
    with logging_to(handler) as logger:
        logger.warning("lost")
        logger.warning("lost, too")
        handler.flush()
        sink.error = None
        logger.warning("kept")  # shows that there is room
        handler.flush()
        logger.warning("after")
    assert sink.lines == ["kept\n", f"2 {NOTE}\n", "after\n"]


def test_a_standstill_does_not_hold_up_the_end() -> None:
    sink = Sink()
    handler = QueuedHandler(sink, "the sink", max_lines=2)
    with logging_to(handler) as logger:
        stand_still(sink, logger)
        before = time.monotonic()
        handler.close()
        assert time.monotonic() - before < 5
        sink.moves.set()


def test_a_slow_sink_is_waited_for_at_the_end_for_as_long_as_it_takes_lines() -> None:
    taken: list[str] = []

    def slow(line: str) -> None:
        time.sleep(0.2)  # together more than the end waits for one line
        taken.append(line)

    with logging_to(QueuedHandler(slow, "the sink", flush_s=BOUND_S)) as logger:
        for number in range(4):
            logger.warning("line %d", number)
    assert taken == [f"line {number}\n" for number in range(4)]


def test_two_handlers_that_stand_still_tell_each_other() -> None:
    sinks = Sink(), Sink()
    first, second = (QueuedHandler(sink, f"sink {number}", max_lines=3) for number, sink in enumerate(sinks))
    first.beside, second.beside = second, first
    with logging_to(first) as logger, logging_to(second):
        logger.addHandler(second)
        for sink in sinks:
            stand_still(sink, logger)
        for _ in range(10):
            logger.warning("line")
        for sink in sinks:
            sink.moves.set()
    assert first.dropped > 0
    assert second.dropped > 0


def test_a_line_that_cannot_be_made_is_reported_in_its_place() -> None:
    sink = Sink()
    handler = QueuedHandler(sink, "the sink")
    for message, value in (("%d", "no number"), ("next%s", "")):
        handler.handle(logging.LogRecord("test", logging.WARNING, "", 0, message, (value,), None))
    handler.close()
    assert "TypeError" in sink.lines[0]
    assert sink.lines[1] == "next\n"


def test_a_stream_of_another_encoding_and_no_stream_at_all_take_lines() -> None:
    reading, writing = os.pipe()
    with open(writing, "w", encoding="ascii") as stream:  # noqa: PTH123  # a descriptor
        write_to(stream)("caf\xe9\n")
    with open(reading, "rb") as written:  # noqa: PTH123
        assert written.read() == b"caf\\xe9\n"
    text = io.StringIO()
    write_to(text)("a line\n")
    write_to(None)("a line\n")
    assert text.getvalue() == "a line\n"


@pytest.mark.posix("pipes that do not block")
def test_a_pipe_that_does_not_block_gets_every_byte() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    line = "x" * 300_000 + "\n"
    with open(writing, "w", encoding="utf-8") as stream, open(reading, "rb") as reader:  # noqa: PTH123
        thread = threading.Thread(target=write_to(stream), args=(line,))
        thread.start()
        read = reader.read(len(line))
        thread.join(BOUND_S)
    assert read == line.encode()


STUCK = """
import logging, os, sys
from agentbus.observability.queued_log import QueuedHandler, write_to
reading, writing = os.pipe()
os.dup2(writing, 2)
logging.basicConfig(handlers=[QueuedHandler(write_to(sys.stderr), "standard error")])
for _ in range(10_000):
    logging.warning("x" * 100)
print("done", flush=True)
"""


@pytest.mark.posix("fills a pipe")
async def test_a_process_whose_stderr_nobody_reads_goes_on_and_ends() -> None:
    ran = await run_python("-c", STUCK)
    assert (ran.code, ran.out) == (0, "done\n")

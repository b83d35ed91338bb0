"""Receives what a person has answered to a question of an agent, from a FIFO that the worker has made and writes to."""

import asyncio
import contextlib
import json
import os
from collections.abc import Generator
from typing import Final, NamedTuple

from agentbus_worker.acp.json_values import object_in, text_in
from agentbus_worker.formats.lines import Lines

_MAX_LINE_BYTES: Final = 65_536


class Answer(NamedTuple):
    """Whether the tool may be used, and what the person says of it."""

    allow: bool
    comment: str = ""


class Answers:
    """The answers that come: lines like `{"id": "1", "allow": true}`, some with a `comment`.

    One to a question that is not open is dropped.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._lines = Lines(_MAX_LINE_BYTES)

    def expect(self, question: str) -> asyncio.Future[Answer]:
        """Return what will be the answer to a question."""
        waiting = self._waiting[question] = asyncio.get_running_loop().create_future()
        return waiting

    def forget(self, question: str) -> None:
        """Take no answer to a question any more."""
        self._waiting.pop(question, None)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        for line in self._lines.feed(chunk):
            try:
                given = object_in(json.loads(line))
            except (ValueError, RecursionError):
                continue
            question, allow = given.get("id"), given.get("allow")
            waiting = self._waiting.get(question) if isinstance(question, str) else None
            if waiting is not None and not waiting.done() and isinstance(allow, bool):
                waiting.set_result(Answer(allow, text_in(given.get("comment"))))


@contextlib.contextmanager
def answers_from(path: str | None) -> Generator[Answers | None]:
    """Receive answers for the length of the block; None without a path."""
    if path is None:
        yield None
        return
    answers, loop = Answers(), asyncio.get_running_loop()
    # Open for writing as well: it does not end when a writer closes it.
    file = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def read() -> None:
        with contextlib.suppress(BlockingIOError):
            answers.feed(os.read(file, _MAX_LINE_BYTES))

    loop.add_reader(file, read)
    try:
        yield answers
    finally:
        loop.remove_reader(file)
        os.close(file)

"""Prints what the runs of a task do: from the bus while it runs, from its transcript once it has its result."""

import codecs
from collections.abc import AsyncGenerator
from contextlib import aclosing

from agentbus.cli import output
from agentbus.errors import (
    BusError,
    FileMissingError,
    OutputNotKeptError,
    PermissionDeniedError,
    SetupMissingError,
)
from agentbus.protocol.progress.events import RunEvent
from agentbus.task_handle import TaskHandle
from agentbus.tasks.status import TaskStatus
from agentbus.terminal import RawOutput

_HINT = "what runs do is not kept on this bus: an administrator makes the streams with agentbus setup, or upgrades it"


async def print_log(handle: TaskHandle, *, follow: bool) -> None:
    """Print the events of a task, one a line or, on a terminal, one a paragraph.

    Raises:
        SetupMissingError: neither the bus nor a transcript has any of them.
    """
    async with aclosing(events_of(handle, follow=follow)) as events:
        async for event in events:
            _print(event)


async def events_of(handle: TaskHandle, *, follow: bool) -> AsyncGenerator[RunEvent]:
    """Yield the events of a task: of its run that goes on, or of the last one where it has its result.

    Raises:
        SetupMissingError: neither the bus nor a transcript has any of them.
    """
    status = await handle.status()
    found = _of_settled(handle, status) if status.settled else _of_running(handle, follow=follow)
    async with aclosing(found) as events:
        async for event in events:
            yield event


def paragraph(event: RunEvent) -> list[tuple[str, str]]:
    """Write an event as lines, each with its style: the first one has the time, the others are indented."""
    first, *more = event.in_words.splitlines() or [""]
    when = f"{event.at.astimezone():%H:%M:%S}" if event.at else ""
    style = _style(event)
    return [(f"{when:<10}{first}", style), *((" " * 10 + line, style) for line in more)]


async def print_transcript(handle: TaskHandle) -> None:
    """Print all that the agent printed in the last run of a settled task, byte for byte; harmless on a terminal.

    Of a command that prints text, this is its output.

    Raises:
        NotSettledError: the task has no result yet.
        OutputNotKeptError, FileMissingError, CorruptFileError: not all of it is there, or not as it was stored.
    """
    status = await handle.status()
    prints_text = status.settled and "transcript" not in (status.record.entry.result or {})
    raw = RawOutput()
    async with aclosing(handle.output() if prints_text else handle.transcript()) as pieces:
        async for piece in pieces:
            raw.write(piece)
    raw.close()


async def _of_running(handle: TaskHandle, *, follow: bool) -> AsyncGenerator[RunEvent]:
    try:
        async with aclosing(handle.events(follow=follow)) as events:
            async for event in events:
                yield event
    except (SetupMissingError, PermissionDeniedError) as error:
        raise SetupMissingError(f"{_HINT} ({error})") from error


async def _of_settled(handle: TaskHandle, status: TaskStatus) -> AsyncGenerator[RunEvent]:
    """Yield all that a run has printed: its events, or the lines of a command that prints text."""
    kind = status.run.format if status.run else ""
    try:
        async with aclosing(_of_transcript(handle, kind)) as events:
            async for event in events:
                yield event
    except (OutputNotKeptError, FileMissingError):
        pass
    else:
        return
    kept = await _kept(handle)
    if kept and not any(event.kind == "dropped" for event in kept):  # it has standard error, too
        for event in kept:
            yield event
        return
    try:
        async with aclosing(_of_output(handle)) as events:
            async for event in events:
                yield event
    except (OutputNotKeptError, FileMissingError) as error:
        output.remark(f"its whole output is not there: {error}")
        for event in kept:
            yield event


async def _kept(handle: TaskHandle) -> list[RunEvent]:
    try:
        async with aclosing(handle.events(follow=False)) as events:
            return [event async for event in events]
    except BusError:
        return []  # what the command has printed is there all the same


async def _of_output(handle: TaskHandle) -> AsyncGenerator[RunEvent]:
    """Yield the output of a command that prints text, in pieces of whole lines."""
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
    async with aclosing(handle.output()) as pieces:
        async for piece in pieces:
            lines, _, rest = (rest + decoder.decode(piece)).rpartition("\n")
            if lines:
                yield RunEvent("text", text=lines)
    if rest:
        yield RunEvent("text", text=rest)


async def _of_transcript(handle: TaskHandle, kind: str) -> AsyncGenerator[RunEvent]:
    from agentbus_worker.formats.events import Event  # noqa: PLC0415  # only here
    from agentbus_worker.formats.stream import stream_of  # noqa: PLC0415
    from agentbus_worker.progress.collected import run_event  # noqa: PLC0415

    def shown() -> list[RunEvent]:
        events = [made for event in found if (made := run_event(event, 0)) is not None]
        found.clear()
        return events

    stream, found = stream_of(kind), list[Event]()
    if stream is None:
        raise OutputNotKeptError("the command prints no events")
    stream.listen(found.append)
    async with aclosing(handle.transcript()) as pieces:
        async for piece in pieces:
            stream.feed(piece)
            for event in shown():
                yield event
    stream.feed(b"\n")
    for event in shown():
        yield event


def _print(event: RunEvent) -> None:
    if not output.on_terminal():
        at = {"at": event.at.isoformat()} if event.at else {}
        output.json_line({**at, **({"attempt": event.attempt} if event.attempt else {}), **event.to_json()})
        return
    first, *more = event.in_words.splitlines() or [""]
    when = f"{event.at.astimezone():%H:%M:%S}" if event.at else ""
    output.line(output.Styled(f"{when:<10}"), _styled(event, first))
    for line in more:  # indented, so that no text looks like an event of its own
        output.line(" " * 10, line)


def _styled(event: RunEvent, text: str) -> output.Styled:
    return output.Styled(text, _style(event) or None)


def _style(event: RunEvent) -> str:
    colours = {"tool": "cyan", "retry": "yellow", "question": "yellow", "dropped": "yellow"}
    failed = event.kind == "tool_end" and event.ok is False
    return "red" if failed or event.on_stderr else colours.get(event.kind, "")

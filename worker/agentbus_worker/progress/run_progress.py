"""Tells the bus what a run does while it goes on: some messages a second, of bounded size, without ever waiting.

What cannot be sent at once is dropped: no run, and no settlement of a task, waits for its progress to be told.
"""

import asyncio
import functools
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from agentbus.bus.jetstream import Bus
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import ConfigError, MessageError
from agentbus.protocol.ids import random_token
from agentbus.protocol.json_codec import encode
from agentbus.protocol.progress import names
from agentbus.protocol.progress.events import MAX_MESSAGE_BYTES, ProgressMessage, RunEvent
from agentbus.protocol.subjects import TaskKey
from agentbus_worker.formats.events import Event
from agentbus_worker.progress.collected import Collected
from agentbus_worker.progress.printed_lines import PrintedLines
from agentbus_worker.progress.redaction import Redactor, secrets_in
from agentbus_worker.running.command import Child
from agentbus_worker.running.task_command import inherited_environment

_FIRST_S: Final = 1.0
"""A run that ends within this time tells nothing: its result is there by then."""
_EVERY_S: Final = 0.5
_ENVELOPE_BYTES: Final = 400
"""The most that a message has beside its events."""
_LEAST_BYTES: Final = 1_000
"""A message for which there is less room is put off."""
_RUN_BYTES: Final = 4 << 20
"""How much one run tells before it tells less: twice what the bus keeps of a task."""
_RUN_BYTES_PER_S: Final = 1_024
"""How much it tells from then on."""


class Progress:
    """Tells what the runs of one worker do.

    What a run tells is without the credentials of the worker, as they were at the last connection.
    """

    def __init__(self, bus: Bus, config: WorkerConfig) -> None:
        self.bus = bus
        self.agent = config.agent.id
        self.kinds = config.agent.progress
        self.reads_text = config.agent.output == "text"
        self._servers = tuple((config.agent.mcp_servers or {}).values())
        self.redact = self._redactor()
        bus.on_reconnect(self._read_again)

    def of_run(self, key: TaskKey, attempt: int, child: Child) -> "RunProgress":
        """Tell what a run does for the length of the block that is returned."""
        return RunProgress(self, key, attempt, child)

    def _redactor(self) -> Redactor:
        credentials = self.bus.settings.credentials
        with suppress(ConfigError):  # the file is being replaced; what was read last is not told either
            credentials = credentials.read_again()
        environment = dict(inherited_environment())
        for server in self._servers:
            environment |= server.env
        headers = [value for server in self._servers for value in server.headers.values()]
        return Redactor([*secrets_in(environment, credentials), *headers])

    def _read_again(self) -> None:
        self.redact = self._redactor()


class RunProgress:
    """What one run tells; see `Progress.of_run`."""

    def __init__(self, progress: Progress, key: TaskKey, attempt: int, child: Child) -> None:
        self._progress = progress
        self._key = key
        self._attempt = attempt
        self._child = child
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._outputs: tuple[PrintedLines, ...] = ()
        self._run = ""
        self._sent_bytes = 0

    async def __aenter__(self) -> Self:
        if self._child.events is not None and self._progress.kinds != "off":
            self._child.events.listen(self._on_event)
        return self

    def begin(self) -> None:
        """Begin to tell, once it is known that the run takes more than a moment: most of what is quick never does."""
        if self._progress.kinds == "all" and self._child.events is None:
            self._outputs = tuple(PrintedLines(look) for look in self._child.printed)
        if self._outputs or (self._progress.kinds != "off" and self._child.events is not None):
            self._timer = self._loop.call_at(self._started + _FIRST_S, self._tick)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            if self._elapsed_s >= _FIRST_S:
                self._tell(ended=True)

    @functools.cached_property
    def _collected(self) -> Collected:
        return Collected(with_words=self._progress.kinds == "all")

    @property
    def _elapsed_s(self) -> float:
        return self._loop.time() - self._started

    def _on_event(self, event: Event) -> None:
        self._collected.add(event, self._elapsed_s)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_EVERY_S, self._tick)
        self._tell(ended=False)

    def _tell(self, *, ended: bool) -> None:
        collected, elapsed_s = self._collected, self._elapsed_s
        for number, lines in enumerate(self._outputs):
            if text := lines.new(at_end=ended):
                collected.add_event(RunEvent("text", elapsed_s, text, on_stderr=number > 0))
        allowed = min(MAX_MESSAGE_BYTES, _RUN_BYTES + int(elapsed_s * _RUN_BYTES_PER_S) - self._sent_bytes)
        wanted = collected.waiting or (ended and self._run)
        if not wanted or (allowed < _LEAST_BYTES and not ended):
            return
        self._run = self._run or random_token()
        events, before, left_out = collected.take(max(allowed, _LEAST_BYTES) - _ENVELOPE_BYTES, self._progress.redact)
        message = ProgressMessage(
            self._run,
            self._attempt,
            elapsed_s,
            tuple(events),
            before,
            left_out,
            sum(lines.left_out for lines in self._outputs),
            collected.spent,
            ended,
        )
        self._sent_bytes += self._send(message)

    def _send(self, message: ProgressMessage) -> int:
        try:
            data = encode(message.to_json())
        except MessageError:  # what an agent printed is cleaned before; a run must not end by what is left
            return 0
        self._progress.bus.tell(names.of_task(self._key), data)
        return len(data)

"""Lets others notice a worker that hangs: its event loop tells systemd that it turns, and `/healthz` asks it.

It speaks the protocol of sd_notify, and says nothing where there is no systemd.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Final, Self

from agentbus.visible_text import one_line

ENVIRONMENT: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What systemd tells this process alone: a command that had it could speak in the name of the worker."""
STANDSTILL_S: Final = 60.0
"""After this time without a turn of the event loop, the worker hangs. The same stands as WatchdogSec= in the units. No
step of the event loop takes a second; the rest is for a machine that swaps, or that was asleep."""
_BEAT_S: Final = 5.0


class Watchdog:
    """What is told of the event loop of this process. Use `watched` to make it beat."""

    def __init__(self, address: str = "", timeout_s: float = STANDSTILL_S) -> None:
        """`address` is the socket of systemd, if there is one; within `timeout_s` it has to hear of the event loop."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if address.startswith(("@", "/")) else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self._beat_s = min(_BEAT_S, timeout_s / 3)  # one that is late, or lost, does no harm
        self._last_beat = time.monotonic()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read what systemd has set for this process."""
        timeout_us, pid = (environment.get(name, "") for name in ENVIRONMENT[1:])
        watches = timeout_us.isdecimal() and int(timeout_us) > 0 and pid in ("", str(os.getpid()))
        timeout_s = int(timeout_us) / 1_000_000 if watches else STANDSTILL_S
        return cls(environment.get(ENVIRONMENT[0], ""), timeout_s)

    def ready(self, status: str) -> None:
        """Tell that the worker has started."""
        self._tell("READY=1", _status(status))

    def status(self, text: str) -> None:
        """Tell what the worker does, for `systemctl status`."""
        self._tell(_status(text))

    def stopping(self, status: str) -> None:
        """Tell that the worker is about to end."""
        self._tell("STOPPING=1", _status(status))

    def why_unhealthy(self) -> str:
        """Return why this process should be started again; empty if it should not. For any thread.

        Only the event loop counts. A new process would not find a bus that is away either.
        """
        late_s = time.monotonic() - self._last_beat
        return f"the event loop has stood still for {late_s:.0f} s" if late_s > STANDSTILL_S else ""

    async def beat(self) -> None:
        """Beat until this is cancelled."""
        while True:
            self._last_beat = time.monotonic()
            self._tell("WATCHDOG=1")
            await asyncio.sleep(self._beat_s)

    def close(self) -> None:
        """Tell nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, *lines: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # systemd is busy, or gone; the next beat comes soon
                self._socket.sendto("\n".join(lines).encode(), self._address)


@contextlib.asynccontextmanager
async def watched(watchdog: Watchdog) -> AsyncGenerator[None]:
    """Let a watchdog beat for the length of the block."""
    beating = asyncio.create_task(watchdog.beat())
    try:
        yield
    finally:
        beating.cancel()
        await asyncio.wait({beating})
        watchdog.close()


def _status(text: str) -> str:
    return "STATUS=" + one_line(text)

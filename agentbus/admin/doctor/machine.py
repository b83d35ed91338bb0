"""Checks a worker's machine: the agent command, the folders that the worker writes to, and their free space."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from agentbus.admin.doctor.agent.agent_output import check_command
from agentbus.admin.doctor.finding import Finding, failed, ok, warning
from agentbus.bus.topology import ACK_WAIT_S
from agentbus.config.agent_commands.programs import find_program
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import ConfigError

# An agent command that takes longer to print its version hangs, or waits for input.
_VERSION_TIMEOUT_S: Final = 5.0
_VERSION_CHARACTERS: Final = 120  # one line of a terminal
# A worker writes outcomes and large outputs to disk first; the largest output takes several hundred MiB.
_LOW_BYTES: Final = 1 << 30
_TOO_LOW_BYTES: Final = 100 << 20
_MAKE_ROOM: Final = "free some space: the worker writes outcomes and large outputs there"


async def check_machine(config: WorkerConfig) -> AsyncIterator[Finding]:
    """Check that the agent command is installed, and that the worker can write its state and its log."""
    try:
        program = find_program(config.agent.chat_cmd[0])
    except ConfigError as error:
        yield failed("chat_cmd", str(error))
    else:
        yield await _version(str(program))
        for finding in check_command(config.agent, config.worker.workdir or Path.cwd()):
            yield finding
    for name, folder in (("state_dir", config.worker.state_dir), ("log dir", config.log.dir)):
        yield _folder(name, folder)
    if (finding := _outcomes(config)) is not None:
        yield finding


async def _version(program: str) -> Finding:
    """Run the agent command with `--version`. A failure is no finding: not every command knows the option."""
    try:
        child = await asyncio.create_subprocess_exec(
            program,
            "--version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=os.name == "posix",
        )
    except OSError as error:
        return failed("chat_cmd", f"{program} cannot be started: {error.strerror or error}", "install it again")
    try:
        async with asyncio.timeout(_VERSION_TIMEOUT_S):
            output, _ = await child.communicate()
    except TimeoutError:
        return warning("chat_cmd", f"{program} does not answer to --version", "run it by hand, as the worker's user")
    finally:
        _kill(child)
    first = output.decode(errors="replace").strip().partition("\n")[0][:_VERSION_CHARACTERS]
    return ok("chat_cmd", f"{program}: {first}" if child.returncode == 0 and first else program)


def _kill(child: asyncio.subprocess.Process) -> None:
    """Kill a command, on POSIX with its whole process group."""
    with suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(child.pid, signal.SIGKILL)
        elif child.returncode is None:
            child.kill()


def _outcomes(config: WorkerConfig) -> Finding | None:
    """Warn of outcomes that have waited for the bus for longer than a lease."""
    ages: dict[Path, float] = {}
    for path in config.outcomes_on_disk():
        with suppress(OSError):  # its worker has just removed it
            ages[path] = time.time() - path.stat().st_mtime
    late = {path: age_s for path, age_s in ages.items() if age_s > ACK_WAIT_S}
    if not late:
        return None
    oldest = max(late, key=lambda path: late[path])
    return warning(
        "outbox",
        f"outcomes that the bus has not taken: {len(late)}, the oldest for {late[oldest]:.0f} s, in {oldest.parent}",
        "start a worker of this agent, which delivers them; if one runs, its log says why the bus refuses them",
    )


def _folder(name: str, folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return failed(
            name, f"{existing} cannot be written to", f"make {folder} writable for this user, or name another"
        )
    free = shutil.disk_usage(existing).free
    text = f"{folder}, {free / (1 << 30):.1f} GiB free"
    if free < _TOO_LOW_BYTES:
        return failed(name, text, _MAKE_ROOM)
    if free < _LOW_BYTES:
        return warning(name, text, _MAKE_ROOM)
    return ok(name, text)

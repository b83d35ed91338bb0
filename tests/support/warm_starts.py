"""Has the processes that tests start with `python -m agentbus` and the like begin with everything imported.

Some thousand tests start a worker or a command, each of which would spend half a second or more of a processor on the
same imports. With `install`, `subprocess` and `asyncio` have a process of `support.warm_interpreter` become what they
start. It is a process as any other, a child of the tests; its imports are all that it has before.

A process is started as always ("cold") where something differs that an interpreter reads when it starts, where it runs
another program, on other systems than Linux, under `make coverage`, and with AGENTBUS_TEST_COLD=1.
"""

import atexit
import marshal
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from support.warm_interpreter import CLONE_NUMBERS, MOST_FDS, PACKAGES, Request

_PROGRAM: Final = Path(__file__).with_name("warm_interpreter.py")
_SUPPORT: Final = Path(__file__).parent
_MODULES: Final = ("agentbus", "agentbus_mcp", "agentbus_worker.acp")
COLD: Final = "AGENTBUS_TEST_COLD"
_READ_AT_START: Final = ("PYTHON", "COVERAGE", "LC_", "LANG", "LD_", "MALLOC_", "TZ", "OTEL_PYTHON", "OTEL_PROPAGATORS")
"""Variables that an interpreter, its libraries or an import read when they start."""
_PLAIN: Final[Mapping[str, Any]] = {
    "preexec_fn": None, "close_fds": True, "shell": False, "restore_signals": True, "gid": None, "gids": None,
    "uid": None, "umask": -1, "process_group": -1,
}  # fmt: skip
"""How a process is started here; another way is cold."""


class _WarmInterpreter:
    """The process that becomes others; it is started when the first one is wanted."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._environment = dict(os.environ)  # without what a test sets: it is not the process of one
        self._read_at_start = _read_at_start(self._environment)
        self._lock = threading.Lock()
        self._asked: socket.socket | None = None
        self._usable = True

    def takes(self, environment: Mapping[str, str]) -> bool:
        """Whether this can become what has this environment."""
        return self._usable and COLD not in environment and _read_at_start(environment) == self._read_at_start

    def start(self, request: Request, fds: list[int]) -> int:
        """Have it become a program; return the id of the process, 0 if it cannot."""
        with self._lock:
            asked = self._asked or self._begin()
            if asked is None:
                return 0
            data = marshal.dumps(tuple(request))
            try:
                socket.send_fds(asked, [len(data).to_bytes(4, "big")], fds)
                asked.sendall(data)
                pid = int.from_bytes(asked.recv(4, socket.MSG_WAITALL), "big")
            except OSError:
                pid = 0
            if not pid:  # it was killed, as a test may kill all processes of a kind; the next one begins anew
                self._asked = None
            return pid

    def _begin(self) -> socket.socket | None:
        ours, theirs = socket.socketpair()
        with theirs:
            argv = [sys.executable, str(_PROGRAM), str(theirs.fileno()), self._kind]
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, env=self._environment, pass_fds=[theirs.fileno()]
            )

        def end() -> None:
            ours.close()
            process.wait()

        atexit.register(end)
        self._usable = ours.recv(1) == b"\1"
        self._asked = ours if self._usable else None
        return self._asked


def _kind_of(argv: Sequence[str]) -> str | None:
    """Which interpreter becomes a program, if one can: one of ours, or one that the tests have made of it."""
    words = [word for word in argv[1:] if word != "-P"]
    if len(words) < 2 or argv[0] != sys.executable or words[0] == str(_PROGRAM):
        return None
    if words[0] != "-m":
        return ("mcp" if "agentbus_mcp" in words else "commands") if Path(words[0]).parent == _SUPPORT else None
    return ("mcp" if words[1] == "agentbus_mcp" else "commands") if words[1] in _MODULES else None


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


def is_possible() -> bool:
    """Whether processes of these tests can be started warm, on this system and in this environment."""
    return (
        sys.platform == "linux"
        and platform.machine() in CLONE_NUMBERS
        and platform.libc_ver()[0] == "glibc"
        and not any(name.startswith((COLD, "COVERAGE")) for name in os.environ)
    )


def install() -> None:
    """Have `subprocess` and `asyncio` of this process start warm what can be."""
    if not is_possible():
        return
    warm = {kind: _WarmInterpreter(kind) for kind in PACKAGES}
    cold = vars(subprocess.Popen)["_execute_child"]
    names = cold.__code__.co_varnames[1 : cold.__code__.co_argcount]

    def execute_child(self: Any, *values: Any) -> None:
        given = dict(zip(names, values, strict=True))
        if not _start_warm(warm, self, given):
            cold(self, *values)

    setattr(subprocess.Popen, "_execute_child", execute_child)  # noqa: B010  # for the type checker


def _start_warm(interpreters: Mapping[str, _WarmInterpreter], child: Any, given: dict[str, Any]) -> bool:
    if isinstance(given["args"], str | bytes | os.PathLike) or given["executable"] is not None:
        return False
    argv = [os.fsdecode(word) for word in given["args"]]
    environment = os.environ if given["env"] is None else given["env"]
    kind = _kind_of(argv)
    if kind is None or not (warm := interpreters[kind]).takes(environment):
        return False
    if any(given.get(name, plain) != plain for name, plain in _PLAIN.items()):
        return False
    kept = list(given["pass_fds"])
    streams = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
    fds = [number if fd == -1 else fd for number, fd in enumerate(streams)] + kept
    try:
        folder = os.fsencode(given["cwd"] or Path.cwd())
        for fd in fds:
            os.fstat(fd)
    except OSError:
        return False
    if not Path(os.fsdecode(folder)).is_dir() or len(fds) > MOST_FDS:
        return False
    sys.audit("subprocess.Popen", argv[0], argv, given["cwd"], given["env"])
    pid = warm.start(
        Request(
            [os.fsencode(word) for word in argv],
            [(os.fsencode(name), os.fsencode(value)) for name, value in environment.items()],
            folder,
            _umask(),
            bool(given["start_new_session"]),
            [int(number) for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN
             and number not in (signal.SIGPIPE, signal.SIGXFSZ)],
            kept,
        ),
        fds,
    )  # fmt: skip
    if not pid:
        return False
    child.pid = pid
    child._child_created = True
    child._close_pipe_fds(
        *(given[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite"))
    )
    return True


def _umask() -> int:
    [line] = [line for line in Path("/proc/self/status").read_bytes().splitlines() if line.startswith(b"Umask:")]
    return int(line.split()[1], 8)

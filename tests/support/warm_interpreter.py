"""A Python that has imported the packages already, and becomes what a test starts: `support.warm_starts` asks it to.

`python warm_interpreter.py FD KIND` serves requests on a socket. Each makes a process that is a child of the
tests, not of this one, with the streams, environment, folder and signals that the request says: whatever the tests do
to a process that they started, they do to it. What it runs begins as in a new interpreter, but for its imports.
"""

import atexit
import ctypes
import functools
import gc
import importlib
import io
import marshal
import os
import pkgutil
import platform
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple, cast

CLONE_NUMBERS: Final = {"x86_64": 56, "aarch64": 220}
"""The number of clone(2); the order of its arguments depends on the machine, too."""
_CLONE_PARENT: Final = 0x8000
_CLONE_CHILD_CLEARTID: Final = 0x200000
_CLONE_CHILD_SETTID: Final = 0x1000000
_PR_GET_TID_ADDRESS: Final = 40
_PR_SET_MM: Final = 35
_PR_SET_MM_MAP: Final = 14
MOST_FDS: Final = 64
NOT_STARTED: Final = 0
"""What is answered in place of a process id when the request cannot be served."""

PACKAGES: Final = {"commands": ("agentbus", "agentbus_worker"), "mcp": ("agentbus_mcp",)}
"""What is imported, for which programs. Tests find servers by command lines: that of this names no package."""
_NOT_IMPORTED: Final = ("agentbus.testing.", "agentbus.cli.demo.", "agentbus.observability.spans")
"""For tests of others; what imports the MCP SDK; and OpenTelemetry: a process is asked whether it has imported that."""


class Request(NamedTuple):
    """What is to be started, and how; the descriptors come beside it: the three streams, then the others."""

    argv: list[bytes]
    environment: list[tuple[bytes, bytes]]
    folder: bytes
    umask: int
    new_session: bool
    ignored: list[int]
    kept: list[int]


class _MemoryMap(ctypes.Structure):
    """`struct prctl_mm_map` of Linux: where /proc finds the command line and the environment of a process."""

    _fields_ = (
        *(
            (name, ctypes.c_uint64)
            for name in (
                "start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack",
                "arg_start", "arg_end", "env_start", "env_end", "auxv",
            )
        ),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    )  # fmt: skip


@functools.cache
def _c() -> ctypes.PyDLL:
    """The C library, called with the interpreter's lock: here is one thread. Not at import: Windows has none."""
    return ctypes.PyDLL(None, use_errno=True)


_shown: list[Any] = []
"""Keeps the memory that /proc shows."""


def show(argv: list[bytes], environment: list[tuple[bytes, bytes]]) -> bool:
    """Have /proc show this command line and environment for this process; return whether it does."""
    arguments = ctypes.create_string_buffer(b"".join(word + b"\0" for word in argv) or b"\0")
    variables = ctypes.create_string_buffer(b"".join(b"%s=%s\0" % pair for pair in environment) or b"\0")
    stat = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    at = {name: int(stat[number - 3]) for name, number in (
        ("start_code", 26), ("end_code", 27), ("start_stack", 28), ("start_data", 45), ("end_data", 46),
        ("start_brk", 47),
    )}  # fmt: skip
    _c().sbrk.restype = ctypes.c_uint64
    found = _MemoryMap(
        **at,
        brk=_c().sbrk(0),
        arg_start=ctypes.addressof(arguments),
        arg_end=ctypes.addressof(arguments) + len(arguments) - 1,
        env_start=ctypes.addressof(variables),
        env_end=ctypes.addressof(variables) + len(variables) - 1,
        exe_fd=0xFFFFFFFF,
    )
    _shown[:] = [arguments, variables]
    return not _c().prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.byref(found), ctypes.sizeof(found), 0)


def sibling() -> int:
    """Fork, as `os.fork` does, but for the parent of the new process, which is that of this one."""
    tid = ctypes.c_void_p()
    _c().prctl(_PR_GET_TID_ADDRESS, ctypes.byref(tid), 0, 0, 0)
    flags = _CLONE_PARENT | signal.SIGCHLD
    if tid.value:  # where the C library keeps the number of the thread
        flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    last = (0, tid) if platform.machine() == "aarch64" else (tid, 0)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = _c().syscall(CLONE_NUMBERS[platform.machine()], ctypes.c_ulong(flags), None, None, *map(ctypes.c_void_p, [
        part.value if isinstance(part, ctypes.c_void_p) else None for part in last
    ]))  # fmt: skip
    if pid:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    return int(pid)


def import_all(packages: Sequence[str]) -> None:
    """Import what programs import sooner or later."""
    for package in packages:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.startswith(_NOT_IMPORTED) and not module.name.endswith("__main__"):
                with suppress(ImportError):  # what only another system has, or an extra
                    importlib.import_module(module.name)
    gc.collect()
    gc.freeze()


def received(asked: socket.socket) -> tuple[Request, list[int]] | None:
    """Wait for the next request; None when the tests have ended."""
    head, fds, _, _ = socket.recv_fds(asked, 4, MOST_FDS)
    if not head:
        return None
    length = int.from_bytes(head, "big")
    data = bytearray()
    while len(data) < length:
        data += asked.recv(length - len(data))
    return Request(*marshal.loads(data)), fds


def become(request: Request, fds: list[int]) -> Callable[[], object]:
    """Make this new process what a new interpreter would be; return what it runs."""
    wanted = [0, 1, 2, *request.kept]
    high = [os.dup2(fd, 1000 + number, inheritable=False) for number, fd in enumerate(fds)]
    for fd, number in zip(high, wanted, strict=True):
        os.dup2(fd, number)
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
        if fd not in wanted:
            with suppress(OSError):  # that of the list itself
                os.close(fd)
    if request.new_session:
        os.setsid()
    os.umask(request.umask)
    os.chdir(request.folder)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError):
            signal.signal(number, signal.SIG_IGN if number in request.ignored else signal.SIG_DFL)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)  # as Python does when it starts
    if signal.SIGINT not in request.ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environb.clear()
    os.environb.update(request.environment)
    show(request.argv, request.environment)
    _open_streams()
    return _program(list(map(os.fsdecode, request.argv)))


def _open_streams() -> None:
    unbuffered = bool(getattr(sys.stdout, "write_through"))  # noqa: B009  # as with PYTHONUNBUFFERED
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        earlier = getattr(sys, name)
        raw = io.FileIO(number, "w" if number else "r", closefd=False)
        raw.name = f"<{name}>"
        buffer = io.BufferedReader(raw) if not number else raw if unbuffered else io.BufferedWriter(raw)
        stream = io.TextIOWrapper(
            cast("io.BufferedWriter", buffer),
            encoding=earlier.encoding,
            errors=earlier.errors,
            line_buffering=not unbuffered and (number == 2 or raw.isatty()),
            write_through=bool(unbuffered and number),
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _program(argv: list[str]) -> Callable[[], object]:
    words = argv[1:]
    safe_path = words[0] == "-P"
    if safe_path:
        del words[0]
    sys.orig_argv[:] = argv
    sys.modules["__main__"] = main = ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    del sys.path[0]  # the folder of this program
    if words[0] == "-m":
        sys.argv[:] = words[1:]
        if not safe_path:
            sys.path.insert(0, os.getcwd())  # noqa: PTH109
        run_module: Callable[[str], object] = vars(runpy)["_run_module_as_main"]
        return lambda: run_module(words[1])
    sys.argv[:] = words
    sys.path.insert(0, str(Path(words[0]).resolve().parent))
    return lambda: runpy.run_path(words[0], run_name="__main__")


def serve(asked: socket.socket) -> Callable[[], object] | None:
    """Serve requests until the tests end; return in each new process, with what it runs."""
    while (asking := received(asked)) is not None:
        request, fds = asking
        pid = sibling()
        if not pid:
            return become(request, fds)
        asked.sendall(max(pid, NOT_STARTED).to_bytes(4, "big"))
        for fd in fds:
            os.close(fd)
    return None


def run_and_exit(program: Callable[[], object]) -> None:
    """Run it to its end, and end as an interpreter does that then has nothing to take apart.

    To take apart what was imported costs more than to run most commands. An exception, or a stream that cannot be
    written, is left to the interpreter.
    """
    code: object = None
    try:
        program()
    except SystemExit as ended:
        code = ended.code
    if code is not None and not isinstance(code, int):
        sys.exit(str(code))
    try:
        vars(threading)["_shutdown"]()  # waits for threads, as at any end
        vars(atexit)["_run_exitfuncs"]()
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(code)
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the tests, which end this process
    asked_by_tests = socket.socket(fileno=int(sys.argv[1]))
    import_all(PACKAGES[sys.argv[2]])
    asked_by_tests.sendall(bytes([show(list(map(os.fsencode, sys.orig_argv)), [*os.environb.items()])]))
    program = serve(asked_by_tests)
    if program is not None:
        run_and_exit(program)

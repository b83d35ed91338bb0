"""Supervises the commands of one slot in a process of its own: starts each, and ends all that descends from it.

A worker runs this file as `python -I -S supervisor.py TOKEN RESET MASK`, with a socket to itself as standard input.
The process holds nothing that a command must not have: its program is loaded anew, its environment is empty, and of
the worker it has the socket and standard error. It is a child subreaper, so whatever a command starts stays below it,
wherever it moves and whatever its environment says. It sees no output: the pipes of a command pass through it.

Messages are packets. From the worker: `R` runs a command, `L` asks its first process to end, `T` all of it, `K` kills
it. To the worker: `H` this process is here, `E` the command could not be started, `S` it still runs after a moment, `X`
it has ended, `C` nothing of it is left.
Without a worker, all is ended in order and this process as well.

It imports little, because each slot of each worker has one: `socket` and `signal` alone would take 1.3 MiB more.
"""

import _socket
import ctypes
import errno
import os
import select
import sys
import time
from _socket import socket

SIGKILL, SIGTERM, SIGCONT, SIGSTOP = 9, 15, 18, 19
MAX_PACKET_BYTES = 65_536
"""What is longer comes in a file: a packet has to fit into the buffer of a socket."""
READY = b"H"
"""Without it, a supervisor that has ended has read no message, and started nothing."""
SOON_MS = 20
"""A command that ends sooner needs no `S`."""
KILL_TIMEOUT_S = 1.0
"""How long to wait after SIGKILL; a process in an uninterruptible system call may take longer."""
LISTED_CHILDREN = "/proc/thread-self/children"
"""It is there if the kernel lists the children of a process."""
_POLL_MS = 20
_KILL_POLL_MS = 5
_REAP_MS = 2000
"""A command may run for hours and leave an orphan every second: they are waited for meanwhile."""
_NEVER = float("inf")
_FREEZE_ROUNDS = 100
_MAX_FILES = 4
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

Identity = tuple[int, bytes]
"""A process: its pid, and the tick of its birth, which no later process of that pid has."""


def become_subreaper() -> None:
    """Let orphans of what this process starts become its children (Linux)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def read(path: str) -> bytes:
    """Read a file of /proc with few system calls."""
    file = os.open(path, os.O_RDONLY)
    try:
        found = b""
        while piece := os.read(file, 65_536):
            found += piece
        return found
    finally:
        os.close(file)


class Tree:
    """All processes that descend from a root, but for its children in `spare` and their descendants."""

    def __init__(self, spare: set[int], root: int = 0) -> None:
        """`root` is a pid; without it, the root is this process."""
        self._root = root or os.getpid()
        self._spare = spare
        self._asked: set[Identity] = set()  # some programs quit uncleanly on a second SIGTERM

    def pids(self) -> list[int]:
        """List all of them."""
        return sorted(pid for pid, _ in self._below(self._root))

    def ask(self) -> None:
        """Send SIGTERM to all of them that have not had it."""
        self._ask(self._below(self._root))

    def ask_orphans(self) -> None:
        """Send SIGTERM to those that were started since and are orphans by now, which no living process looks after."""
        self._ask(dict(self._children_of(self._root, _parents())))

    def _ask(self, processes: dict[Identity, bytes]) -> None:
        for process, state in processes.items():
            if process not in self._asked:
                self._asked.add(process)
                _signal(process, SIGTERM)
                if state in b"Tt":
                    _signal(process, SIGCONT)  # a stopped process cannot end in order

    def kill(self) -> None:
        """Send SIGKILL to all of them. They are stopped first: what forks faster than it is killed is caught so."""
        stopped: set[Identity] = set()
        for _ in range(_FREEZE_ROUNDS):
            new = self._below(self._root).keys() - stopped
            if not new:
                break
            for process in new:
                _signal(process, SIGSTOP)
            stopped |= new
        for process in stopped:
            _signal(process, SIGKILL)

    def _below(self, root: int) -> dict[Identity, bytes]:
        found: dict[Identity, bytes] = {}
        parents, left = _parents(), [root]
        while left:
            for process, state in self._children_of(left.pop(), parents):
                found[process] = state
                left.append(process[0])
        return found

    def _children_of(self, parent: int, parents: dict[int, list[int]] | None) -> list[tuple[Identity, bytes]]:
        found: list[tuple[Identity, bytes]] = []
        for pid in children_of(parent) if parents is None else parents.get(parent, []):
            about = None if pid in self._spare else _about(pid)
            if about is not None and about[0] == parent:
                found.append(((pid, about[1]), about[2]))
        return found


def children_of(pid: int) -> list[int]:
    """List the children of all threads of a process; empty if it is gone."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208  # pathlib is an import
    except OSError:
        return found
    for thread in threads:
        try:
            found += map(int, read(f"/proc/{pid}/task/{thread}/children").split())
        except OSError:  # that thread has ended
            continue
    return found


def _parents() -> dict[int, list[int]] | None:
    """The children of every process, for a kernel that does not list those of one; None for other kernels."""
    if os.path.exists(LISTED_CHILDREN):  # noqa: PTH110  # pathlib is an import
        return None
    found: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit() and (about := _about(int(name))) is not None:
            found.setdefault(about[0], []).append(int(name))
    return found


def _about(pid: int) -> tuple[int, bytes, bytes] | None:
    """The parent, the birth and the state of a process; None if it is gone."""
    try:
        fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        return int(fields[1]), fields[19], fields[0]
    except (OSError, IndexError):
        return None


def _signal(process: Identity, number: int) -> None:
    about = _about(process[0])
    if about is not None and about[1] == process[1]:
        try:
            os.kill(process[0], number)
        except OSError:  # it has ended, or another user's program is none of ours to signal
            return


class Run:
    """One command, from its start until nothing of it is left."""

    def __init__(self, worker: socket, pid: int, grace_s: float) -> None:
        self._worker = worker
        self._pid = pid
        self._grace_s = grace_s
        self._tree = Tree(set())
        self._code: int | None = None
        self._left = True
        self._told = b""
        self._asked = self._alone = False
        self._kill_at = _NEVER
        self._poll = select.poll()
        self._poll.register(worker.fileno(), select.POLLIN)
        try:
            self._end = os.pidfd_open(pid)
            self._poll.register(self._end, select.POLLIN)
        except OSError:  # a kernel before 5.3
            self._end = -1

    def supervise(self) -> None:
        """Do so. The next message, if the worker is gone, is its end."""
        wait_ms = SOON_MS
        while not self._over():
            ready = self._poll.poll(wait_ms)
            self._reap()
            if any(file == self._worker.fileno() for file, _ in ready):
                self._listen()
            self._tell()
            wait_ms = self._end_what_is_left()
        if self._end >= 0:
            os.close(self._end)

    def _over(self) -> bool:
        """Whether nothing is left, or what is left cannot be ended and no worker asks for it."""
        if self._left:
            return self._alone and time.monotonic() > self._kill_at + KILL_TIMEOUT_S
        return True

    def _reap(self) -> None:
        """Reap all that has ended. Orphans of any depth are children of this process: without one, nothing is left."""
        try:
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == self._pid and self._code is None:
                    self._code = os.waitstatus_to_exitcode(found[1])
                    if self._end >= 0:
                        self._poll.unregister(self._end)
        except ChildProcessError:
            self._left = False

    def _listen(self) -> None:
        received = receive(self._worker)
        if received is None:
            self._alone = True
            self._poll.unregister(self._worker.fileno())
            self._kill_at = min(self._kill_at, time.monotonic() + self._grace_s)
        if received is None or received[0] == b"T":
            self._ask()
        elif received[0] == b"L":
            self._tree.ask_orphans()  # a child of this process, as they are
        elif received[0] == b"K":
            self._kill_at = min(self._kill_at, time.monotonic())

    def _tell(self) -> None:
        """Tell the worker what is new, once."""
        if self._code is None:
            now = b"S"
        elif self._told in (b"", b"S"):
            now = b"X"
            if self._left:
                self._ask()
        else:
            now = b"X" if self._left else b"C"
        if now != self._told:
            self._told = now
            send(self._worker, b"%c %d %d %d" % (now[0], self._pid, self._code or 0, self._left))

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            self._tree.ask()

    def _end_what_is_left(self) -> int:
        """Signal what is left once more, if it has been asked to end; returns after how many ms to look again."""
        if (late_s := time.monotonic() - self._kill_at) >= 0:
            self._tree.kill()
            # What cannot be killed may be there for days; it may become killable, or end by itself.
            return _KILL_POLL_MS if late_s < KILL_TIMEOUT_S else _REAP_MS
        if self._asked:
            self._tree.ask_orphans()
            return _POLL_MS
        return _REAP_MS if self._end >= 0 else _POLL_MS


class Starter:
    """Starts commands with the signals that the worker was started with."""

    def __init__(self, reset: list[int], mask: list[int]) -> None:
        self._reset = reset
        self._mask = mask
        self._folder = os.open(".", os.O_PATH | os.O_DIRECTORY)

    def start(self, message: bytes, files: list[int]) -> tuple[int, float]:
        """Start the command of a message; returns its pid and its grace.

        Raises:
            OSError: it cannot be started; `filename` is its working folder where that is the reason.
        """
        _, grace_s, stdin, cwd, count, *words = message.split(b"\0")
        argv = words[: int(count)]
        environment: dict[bytes, bytes] = {}
        for variable in words[int(count) :]:
            name, _, value = variable.partition(b"=")
            environment[name] = value
        if (path := environment.get(b"PATH")) is None:
            os.unsetenv("PATH")
        else:
            os.putenv(b"PATH", path)  # where programs are looked for
        if cwd:
            os.chdir(cwd)
        try:
            nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
            pid = os.posix_spawnp(
                argv[0],
                argv,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, files[2], 0) if stdin == b"1" else nothing,
                    (os.POSIX_SPAWN_DUP2, files[0], 1),
                    (os.POSIX_SPAWN_DUP2, files[1], 2),
                ],
                setsid=True,
                setsigdef=self._reset,
                setsigmask=self._mask,
            )
        except OSError as error:
            raise OSError(error.errno, "") from None
        finally:
            if cwd:
                os.fchdir(self._folder)
        return pid, float(grace_s)


def receive(worker: socket) -> tuple[bytes, list[int]] | None:
    """Receive one packet with its open files; None if there is no worker any more."""
    try:
        data, extra, _, _ = worker.recvmsg(MAX_PACKET_BYTES, _socket.CMSG_LEN(4 * _MAX_FILES), _socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return None
    files: list[int] = []
    for level, kind, content in extra:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            files += memoryview(content).cast("i").tolist()
    return (data, files) if data else None


def send(worker: socket, message: bytes) -> None:
    """Send one packet. Without a worker nothing: its end is received."""
    try:
        worker.send(message)
    except OSError:
        return


def serve(worker: socket, starter: Starter) -> None:
    """Run one command after the other, for as long as there is a worker."""
    while (received := receive(worker)) is not None:
        message, files = received
        try:
            if message == b"F":
                message = _content(files.pop())
            if message[:1] != b"R":
                continue  # it has crossed the end of the run that it was meant for
            pid, grace_s = starter.start(message, files)
        except OSError as error:
            send(worker, b"E %d %d 0" % (error.errno or 0, error.filename is not None))
            continue
        except MemoryError:
            if _has_children():
                raise  # it may have been started
            send(worker, b"E %d 0 0" % errno.ENOMEM)
            continue
        finally:
            for file in files:
                os.close(file)
        Run(worker, pid, grace_s).supervise()


def _has_children() -> bool:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _content(file: int) -> bytes:
    try:
        return os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(file)


def main() -> None:
    """Be the process."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # what the worker may have let through by mistake
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # 0 to 2 of a command are to be replaced, so nothing else may have their numbers
    os.close(file)
    become_subreaper()
    # A command may have stopped this process when its worker is killed, and nothing would let it go on. This signal
    # is bound to the thread of the worker that has started this process, and lost at a set-uid exec, so it is set here,
    # where no exec follows. A parent that died before needs no check: the end of the socket tells of it.
    _prctl(_PR_SET_PDEATHSIG, SIGCONT)
    reset, mask = ([int(number) for number in word.split(",") if number] for word in sys.argv[2:4])
    os.set_inheritable(0, False)
    worker = socket(fileno=0)
    send(worker, READY)
    serve(worker, Starter(reset, mask))
    os._exit(0)


if __name__ == "__main__":
    main()

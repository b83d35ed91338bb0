"""An agent command that leaves its process tree in every way there is. The content of the task is `WAY FOLDER …`.

All processes that it starts have FOLDER in their command line, and make a file in it. They stay for a minute at the
most, so that a failed test leaves nothing for long. The way `neighbour` is an honest one: it stays, with a child in a
session and one with an emptied environment, until it is cancelled.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
STAY_S = 60.0
PATH = os.environ.get("PATH", os.defpath)
BOMB_DEPTH = 7  # 2 ** 7 processes


def note(folder: Path) -> None:
    (folder / str(os.getpid())).write_text("", encoding="utf-8")


def stay(folder: Path) -> None:
    note(folder)
    time.sleep(STAY_S)
    os._exit(0)


def again(way: str, folder: Path, env: dict[str, str]) -> None:
    """Go on as another program, with another environment."""
    os.execve(sys.executable, [sys.executable, "-I", "-S", __file__, "--stay", way, str(folder)], env)


def daemon(then: Callable[[], None]) -> None:
    """Fork twice, with a session of its own: the classic way out."""
    if (child := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            then()
        os._exit(0)
    os.waitpid(child, 0)


def child(then: Callable[[], None]) -> int:
    if (pid := os.fork()) == 0:
        then()
        os._exit(0)
    return pid


def subreaper(folder: Path) -> None:
    """Keep orphans, stubbornly."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    daemon(lambda: again("stubborn", folder, {}))
    stay(folder)


def bomb(folder: Path, depth: int = BOMB_DEPTH) -> None:
    """Become many, as fast as can be, none of which ends when it is asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for left in range(depth, 0, -1):
        if os.fork() == 0:
            os.setsid()
            bomb(folder, left - 1)
    stay(folder)


def hop(folder: Path) -> None:
    """Be another process every moment: a pid that was read is gone before it is signalled."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(folder)
    end = time.monotonic() + STAY_S
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)
        os.setsid()


def threads(folder: Path) -> None:
    """Have a child of a thread that is not the first, which has one as well, and go on without the first thread."""

    def nested() -> None:
        threading.Thread(target=child, args=(lambda: stay(folder),)).start()
        stay(folder)

    note(folder)
    started = threading.Thread(target=lambda: (child(nested), time.sleep(STAY_S)))
    started.start()
    while len([*folder.iterdir()]) < 3:
        time.sleep(0.01)
    ctypes.CDLL(None).pthread_exit(None)


def namespace(folder: Path) -> None:
    here = [sys.executable, "-I", "-S", __file__, "--stay", "inner", str(folder)]
    os.execvpe("unshare", ["unshare", "--user", "--map-root-user", "--pid", "--fork", *here], {"PATH": PATH})


def inner(folder: Path) -> None:
    """Be the first process of a namespace, whose pids are of no use outside."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "inner").write_text("", encoding="utf-8")
    daemon(lambda: time.sleep(STAY_S))
    time.sleep(STAY_S)


def stopped(folder: Path) -> None:
    note(folder)
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(STAY_S)


def stubborn(folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    stay(folder)


def patricide(folder: Path) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    os.setsid()
    stay(folder)


def forged(folder: Path, environ: str) -> None:
    """Have the run id of another task."""
    found = Path(environ).read_bytes().decode().split("\0")
    daemon(lambda: again("stubborn", folder, dict(line.split("=", 1) for line in found if "=" in line)))


def neighbour(folder: Path) -> None:
    (folder / "environ").write_bytes(Path("/proc/self/environ").read_bytes())
    daemon(lambda: again("stay", folder, {}))
    child(lambda: session(folder))
    stay(folder)


def session(folder: Path) -> None:
    os.setsid()
    again("stay", folder, {})


STAYS: dict[str, Callable[[Path], None]] = {
    "inner": inner,
    "stay": stay,
    "stubborn": stubborn,
    "subreaper": subreaper,
    "stopped": stopped,
}


DAEMONS: dict[str, Callable[[Path], None]] = {
    "emptied": lambda folder: again("stay", folder, {}),
    "subreaper": lambda folder: again("subreaper", folder, {}),
    "stubborn": lambda folder: again("stubborn", folder, {}),
    "stopped": lambda folder: again("stopped", folder, {}),
    "bomb": bomb,
    "hop": hop,
    "threads": threads,
    "namespace": namespace,
}


def leave(way: str, folder: Path, environ: str) -> None:
    """Leave in one way, and return."""
    if way in DAEMONS:
        daemon(lambda: DAEMONS[way](folder))
        return
    match way:
        case "forged":
            forged(folder, environ)
        case "session":
            child(lambda: session(folder))
        case "patricide":
            child(lambda: patricide(folder))
            time.sleep(STAY_S)
        case "supervisor":
            daemon(lambda: again("stubborn", folder, {}))
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(STAY_S)
        case "pause":
            os.kill(os.getppid(), signal.SIGSTOP)
            note(folder)
        case "neighbour":
            neighbour(folder)
        case _:
            raise ValueError(way)


EXPECTED = {"subreaper": 2, "bomb": 2**BOMB_DEPTH, "threads": 3}


def main() -> None:
    if sys.argv[1] == "--stay":
        STAYS[sys.argv[2]](Path(sys.argv[3]))
    from fake_agent import content_of  # noqa: PLC0415  # only the command itself can import

    way, folder, *rest = content_of(sys.argv[-1]).split()
    leave(way, Path(folder), rest[0] if rest else "")
    deadline = time.monotonic() + STAY_S
    while len([*Path(folder).iterdir()]) < EXPECTED.get(way, 1) and time.monotonic() < deadline:
        time.sleep(0.01)
    print("left", flush=True)
    if "hold" in rest:
        Path(f"{folder}.held").touch()  # from here on nothing that happens to its worker ends it
        time.sleep(STAY_S)


if __name__ == "__main__":
    main()

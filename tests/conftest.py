"""Fixtures: one real nats-server a test (it is ready in 50 ms), and a look at what the test left behind."""

import gc
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.bus.bounds import rooms
from agentbus.bus.setup import set_up
from agentbus.config.loading import URL_VARIABLE
from agentbus.provision.nats_server import NatsServer, run_server
from support import examples, warm_starts
from support.harness import BOUND_S, ROOT, is_killed, processes_with
from support.posix_use import TESTS, posix_use

assert examples.TIMES, "the profile of hypothesis is loaded, before the first test of it is collected"

# Where an environment forbids bytecode files, as containers often do, each of the thousands of Python processes that
# the tests start would compile the same sources again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

warm_starts.install()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background by a shell that has no job control; whatever the tests start would ignore Ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


MEMORY = Path("/dev/shm")  # pytest makes a folder of its own there
ROOM_BYTES = 4 << 30
"""Many times what the tests have there at once; what failed is kept until the third run after it."""


def pytest_configure(config: pytest.Config) -> None:
    """Keep what tests write in memory, where there is much: their servers wait for the disk with every message.

    Not that of the tests that move gigabytes. `--basetemp` names another place.
    """
    if "PYTEST_DEBUG_TEMPROOT" in os.environ or "not large" not in config.option.markexpr or not MEMORY.is_dir():
        return
    there = os.statvfs(MEMORY)
    if there.f_bavail * there.f_frsize >= ROOM_BYTES and not there.f_flag & (os.ST_NOEXEC | os.ST_RDONLY):
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what the gate leaves out, and what needs POSIX: workers, what starts one, what uses what Windows lacks."""
    cases = [item for item in items if isinstance(item, pytest.Function) and item.get_closest_marker("gate")]
    for item in cases:
        if not any(part in item.callspec.id for part in _gate_of(item)):
            item.add_marker(pytest.mark.long)
    wrong = [f"{test}: {part!r}" for (test, part), found in _parts(cases).items() if not found]
    if wrong and not any("::" in argument for argument in config.args):  # else not all cases of a test may be here
        raise pytest.UsageError(f"a marker gate names what stands in the id of no case: {', '.join(wrong)}")
    # To see what each test uses takes four seconds of each process of the tests.
    looked_for = sys.platform == "win32" or "posix" in config.option.markexpr
    for item in items:
        if item.path.is_relative_to(TESTS / "worker"):
            item.add_marker(pytest.mark.posix("a worker needs process groups and signals"))
        elif (
            looked_for and isinstance(item, pytest.Function) and (reason := posix_use(item.path).get(item.originalname))
        ):
            item.add_marker(pytest.mark.posix(reason))
        if not all(mark.args for mark in item.iter_markers("posix")):
            raise pytest.UsageError(f"{item.nodeid}: the marker posix needs its reason")


def _gate_of(item: pytest.Function) -> tuple[str, ...]:
    mark = item.get_closest_marker("gate")
    return mark.args if mark else ()


def _parts(cases: list[pytest.Function]) -> dict[tuple[str, str], bool]:
    """Whether each text that a marker `gate` names is in the id of a case of its test."""
    found: dict[tuple[str, str], bool] = {}
    for item in cases:
        for part in _gate_of(item):
            key = item.nodeid.partition("[")[0], part
            found[key] = found.get(key, False) or part in item.callspec.id
    return found


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that goes with the test. `mktemp` of the factory would look at the folders of all tests before."""
    folder = Path(tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp()))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)  # pytest removes what a system does not let go yet


@pytest.fixture(autouse=True)
def home(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: no configuration of the person who runs the tests is read, nothing is written there."""
    folder = own_folder / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))  # the home on Windows
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    return folder


class _Starts:
    """Whether this process has started another one since it was last asked; looking at all processes takes 5 ms."""

    EVENTS = frozenset(("subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.system", "os.exec"))

    def __init__(self) -> None:
        self._any = False
        sys.addaudithook(self._note)

    def _note(self, event: str, _: tuple[object, ...]) -> None:
        if event in self.EVENTS:
            self._any = True

    def any(self) -> bool:
        found, self._any = self._any, False
        return found


_starts = _Starts()


ENDING_S = 0.5
"""How long what was asked to end may take. What was killed may take longer on a busy machine: it is on its way."""


@pytest.fixture(autouse=True)
def no_process_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that leaves a process behind, however it was started."""
    marker = f"TEST_PROCESS_MARK={os.urandom(8).hex()}"
    name, _, value = marker.partition("=")
    monkeypatch.setenv(name, value)
    yield
    if sys.platform == "linux" and _starts.any():
        started = time.monotonic()
        while left := processes_with(marker):
            if time.monotonic() > started + (BOUND_S if all(map(is_killed, left)) else ENDING_S):
                break
            time.sleep(0.01)
        commands = [(pid, Path(f"/proc/{pid}/cmdline").read_bytes()) for pid in left]
        assert not commands, f"processes left behind: {commands}"


@pytest.fixture(autouse=True)
def no_file_left(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that leaves a file where temporary ones go by default, or beside the project's own.

    Temporary folders of runs are not meant: those of a worker that a test has killed stay until the next one starts.
    tests/worker/running/folders/test_temporary_folders.py looks at them.
    """
    folder = own_folder / "default-tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = _listed(ROOT)
    yield
    left = {
        *(str(path) for path in folder.iterdir() if not path.name.startswith("agentbus-")),
        *(_listed(ROOT) - before),
    }
    assert not left, f"files left behind: {sorted(left)}"


def _listed(folder: Path) -> set[str]:
    made_by_make = {"build", "dist"}
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if not entry.name.startswith(".") and entry.name not in made_by_make}


@pytest.fixture
def signals_of_a_terminal() -> Iterator[None]:
    """Have programs get the signals of a terminal: under nohup and in the background of a shell, they inherit that the
    tests ignore some."""
    names = ("SIGHUP", "SIGINT", "SIGQUIT")
    numbers = [signal.Signals[name] for name in names if name in signal.Signals.__members__]
    ignored = [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def nothing_left_to_collect() -> Iterator[None]:
    """Keep the garbage collector from what other tests have left in this process: that takes half a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def room_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishers in this process wait for the answer whether there is room, on a busy machine, too.

    A publication goes on after a second without it: the check is no promise, and a test of it needs the answer.
    """
    monkeypatch.setattr(rooms, "_TIMEOUT_S", BOUND_S)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[NatsServer]:
    """A nats-server with JetStream and nothing in it."""
    async with run_server(store=tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def coordinator(server: NatsServer) -> AsyncGenerator[Coordinator]:
    """A coordinator on a bus that is set up."""
    async with connect(server.url) as open_coordinator:
        await set_up(open_coordinator.bus)
        yield open_coordinator

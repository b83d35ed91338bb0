"""Whatever an agent command does to leave its process tree: it ends with its task, and no other task is touched."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.running.supervising import supervisor
from support.harness import BOUND_S, SUPPORT, Process, alive, eventually, run_python, worker, worker_toml
from support.jobs import error, outcome, publish, settled, short_lease, text
from support.supervised import kill_with_supervisors, supervisors_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are supervisors on Linux alone")
LEAVER = [sys.executable, str(SUPPORT / "leaver.py"), "{input}"]
NEIGHBOURS = 3
"""The command of the honest neighbour, its orphan and its child."""


def named(folder: Path) -> list[int]:
    """Processes with this folder in their command line, or that have made a file of their pid in it.

    One whose first thread has ended looks like a zombie, and has no command line.
    """
    found = {int(path.name) for path in folder.iterdir() if path.name.isdigit() and has_threads(int(path.name))}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in path.read_bytes() and alive(int(path.parent.name)):
                found.add(int(path.parent.name))
    return sorted(found)


def has_threads(pid: int) -> bool:
    """Whether a process has a thread that lives; its first one may have ended."""
    with contextlib.suppress(OSError):
        return alive(pid) or len([*Path(f"/proc/{pid}/task").iterdir()]) > 1
    return False


def only_the_neighbour_runs(worker: Process, folder: Path) -> bool:
    """Whether one supervisor alone watches a command, and nothing names the folder of another one.

    A supervisor watches until nothing of its command is left. What changes its pid all the time is not seen by name.
    """
    watching = [pid for pid in supervisors_of(worker.pid) if not files_of_an_idle(pid)]
    return len(watching) == 1 and not named(folder)


def files_of_an_idle(pid: int) -> dict[int, str]:
    """The open files of a supervisor; none while it watches a command, or if it has ended."""
    found: dict[int, str] = {}
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            found[int(path.name)] = str(path.readlink())
    return {} if any("pidfd" in name for name in found.values()) else found


@pytest.fixture
def folders(tmp_path: Path) -> Generator[tuple[Path, Path]]:
    """A folder for what leaves and one for its neighbour; whatever still names them at the end is killed."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for folder in (mine, theirs):
        folder.mkdir()
    yield mine, theirs
    for folder in (mine, theirs):
        for pid in named(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def beside_a_neighbour(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, theirs: Path
) -> AsyncGenerator[Process]:
    """A worker with two slots, in one of which an honest task runs; it must be untouched at the end."""
    config = worker_toml(tmp_path, server.url, chat_cmd=LEAVER, worker={"concurrency": 2, "kill_grace_seconds": 0.5})
    async with worker(config) as child:
        honest = await publish(coordinator, f"neighbour {theirs}")
        await eventually(lambda: len([*theirs.iterdir()]) == NEIGHBOURS + 1, "the neighbour runs")
        before = named(theirs)
        assert len(before) == NEIGHBOURS
        yield child
        assert named(theirs) == before, "processes of another task were touched"
        await coordinator.task(honest).cancel()
        assert (await settled(coordinator, honest)).state == "cancelled"
        await eventually(lambda: not named(theirs), "the neighbour is ended with its task")


WAYS = [
    "emptied", "forged", "session", "subreaper", "stubborn", "stopped", "bomb", "hop", "threads", "namespace",
]  # fmt: skip


IN_GATE = pytest.mark.gate("emptied", "subreaper", "bomb", "threads")
"""Of the ways to leave, where the gate has tried them all with another end of the task."""


def namespaces_allowed() -> bool:
    return (
        subprocess.run(["unshare", "--user", "--map-root-user", "--pid", "--fork", "true"], check=False).returncode == 0
    )


@pytest.mark.parametrize("way", WAYS)
async def test_what_leaves_the_tree_is_ended_with_its_task_while_another_one_runs(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, folders: tuple[Path, Path], way: str
):
    if way == "namespace" and not namespaces_allowed():
        pytest.skip("user namespaces are not allowed here")
    mine, theirs = folders
    async with beside_a_neighbour(tmp_path, server, coordinator, theirs) as child:
        status = await outcome(coordinator, f"{way} {mine} {theirs}/environ")
        assert (status.state, text(status)) == ("completed", "left\n")
        await eventually(lambda: only_the_neighbour_runs(child, mine), "nothing of it is left")


@IN_GATE
@pytest.mark.parametrize("way", WAYS)
async def test_what_leaves_the_tree_is_ended_when_its_task_is_cancelled(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, folders: tuple[Path, Path], way: str
):
    if way == "namespace" and not namespaces_allowed():
        pytest.skip("user namespaces are not allowed here")
    mine, theirs = folders
    async with beside_a_neighbour(tmp_path, server, coordinator, theirs) as child:
        task_id = await publish(coordinator, f"{way} {mine} {theirs}/environ hold")
        await eventually(lambda: [*mine.iterdir()], "it has left")
        await coordinator.task(task_id).cancel()
        assert (await settled(coordinator, task_id)).state == "cancelled"
        await eventually(lambda: only_the_neighbour_runs(child, mine), "nothing of it is left")


async def test_a_process_that_kills_its_parent_is_ended_with_it(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, folders: tuple[Path, Path]
):
    mine, theirs = folders
    async with beside_a_neighbour(tmp_path, server, coordinator, theirs):
        status = await outcome(coordinator, f"patricide {mine}")
        assert (status.state, error(status)) == ("failed", "the command was ended by signal 9")
        await eventually(lambda: not named(mine), "nothing of it is left")


# -- the supervisor is attacked ---------------------------------------------------------------------------------


async def test_a_command_that_kills_its_supervisor_fails_and_is_ended_and_the_slot_goes_on(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, folders: tuple[Path, Path]
):
    mine, theirs = folders
    async with beside_a_neighbour(tmp_path, server, coordinator, theirs) as child:
        before = set(supervisors_of(child.pid))
        status = await outcome(coordinator, f"supervisor {mine}")
        assert status.state == "failed"
        assert "the process that supervised the command was killed" in error(status)
        await eventually(lambda: not named(mine), "nothing of it is left")
        assert text(await outcome(coordinator, f"emptied {mine}")) == "left\n"
        assert len(before & set(supervisors_of(child.pid))) == 1, "the neighbour kept its own"
        assert not child.said("Traceback")


async def test_a_supervisor_that_was_stopped_goes_on(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, folders: tuple[Path, Path]
):
    mine, theirs = folders
    async with beside_a_neighbour(tmp_path, server, coordinator, theirs):
        status = await outcome(coordinator, f"pause {mine}")
        assert (status.state, text(status)) == ("completed", "left\n")


async def test_an_idle_supervisor_that_was_killed_is_replaced(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, folders: tuple[Path, Path]
):
    mine, _ = folders
    config = worker_toml(tmp_path, server.url, chat_cmd=LEAVER)
    async with worker(config) as child:
        for _ in range(3):
            for pid in supervisors_of(child.pid):
                os.kill(pid, signal.SIGKILL)
            assert text(await outcome(coordinator, f"session {mine}")) == "left\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
async def test_a_supervisor_outlives_the_signals_that_are_meant_for_its_worker(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, folders: tuple[Path, Path], number: signal.Signals
):
    mine, _ = folders
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=LEAVER)) as child:
        task_id = await publish(coordinator, f"emptied {mine} hold")
        await eventually(lambda: [*mine.iterdir()], "it has left")
        [pid] = supervisors_of(child.pid)
        os.kill(pid, number)
        await coordinator.task(task_id).cancel()
        assert (await settled(coordinator, task_id)).state == "cancelled"
        await eventually(lambda: not named(mine), "nothing of it is left")
        assert supervisors_of(child.pid) == [pid]


# -- what a supervisor is given ---------------------------------------------------------------------------------


async def test_a_supervisor_holds_nothing_of_its_worker(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, folders: tuple[Path, Path]
):
    mine, _ = folders
    config = worker_toml(tmp_path, server.url, chat_cmd=LEAVER)
    async with worker(config, env={"SOME_API_KEY": "hunter2"}) as child:
        for task in ("emptied", "session"):
            assert text(await outcome(coordinator, f"{task} {mine}")) == "left\n"
        await eventually(lambda: not named(mine), "it runs nothing")
        await eventually(lambda: len(supervisors_of(child.pid)) == 1, "the others have ended")
        [pid] = supervisors_of(child.pid)
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert {item.partition(b"=")[0] for item in environment} <= {b"", b"LD_LIBRARY_PATH"}
        files = await eventually(lambda: files_of_an_idle(pid), "it is idle")
        assert files[0].startswith("socket:")
        assert files[1] == os.devnull
        assert {name for number, name in files.items() if number > 2} <= {str(Path.cwd())}
        assert os.getsid(pid) == pid
        loaded = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
        assert not any(name in loaded for name in ("_ssl", "_asyncio", "pydantic", "cryptography", "libssl"))


# -- its worker is killed ---------------------------------------------------------------------------------------


@IN_GATE
@pytest.mark.parametrize("way", WAYS)
async def test_after_a_kill_of_the_worker_its_supervisors_end_all_of_it_and_themselves(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, folders: tuple[Path, Path], way: str
):
    if way == "namespace" and not namespaces_allowed():
        pytest.skip("user namespaces are not allowed here")
    mine, theirs = folders
    config = worker_toml(tmp_path, server.url, chat_cmd=LEAVER, worker={"concurrency": 2, "kill_grace_seconds": 0.5})
    async with worker(config) as child:
        await publish(coordinator, f"neighbour {theirs}")
        await eventually(lambda: len([*theirs.iterdir()]) == NEIGHBOURS + 1, "the neighbour runs")
        await publish(coordinator, f"{way} {mine} {theirs}/environ hold")
        await eventually(lambda: [*mine.iterdir()], "it has left")
        supervisors = supervisors_of(child.pid)
        assert len(supervisors) == 2
        child.kill()
    await eventually(lambda: not named(mine) and not named(theirs), "nothing is left")
    await eventually(lambda: not any(alive(pid) for pid in supervisors), "the supervisors have ended")


async def test_the_next_worker_waits_until_the_supervisors_of_a_killed_one_have_ended_its_commands_in_order(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, folders: tuple[Path, Path]
):
    mine, _ = folders
    await short_lease(coordinator)
    config = worker_toml(tmp_path, server.url, chat_cmd=LEAVER, worker={"kill_grace_seconds": 1.5})
    async with worker(config) as first:
        task_id = await publish(coordinator, f"subreaper {mine} hold")
        await eventually(lambda: len([*mine.iterdir()]) == 2, "it has left")
        first.kill()
    await coordinator.task(task_id).cancel()
    assert named(mine)
    async with worker(config) as second:
        assert not named(mine), "something outlived the start of the next worker"
        assert not second.said("ending"), "the next worker had to end something"


async def test_the_next_worker_ends_by_descent_what_a_killed_worker_and_its_killed_supervisors_have_left(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, folders: tuple[Path, Path]
):
    mine, _ = folders
    await short_lease(coordinator)
    config = worker_toml(tmp_path, server.url, chat_cmd=LEAVER, worker={"kill_grace_seconds": 0.5})
    async with worker(config) as first:
        task_id = await publish(coordinator, f"session {mine} hold")  # a child without an environment, in a session
        await eventually(lambda: [*mine.iterdir()], "it has left the group")
        await eventually(lambda: any(tmp_path.glob("state/*/code/0/children/*-*.json")), "it is on record")
        await eventually(Path(f"{mine}.held").exists, "the command writes to no pipe that breaks with its worker")
        kill_with_supervisors(first)
    assert len(named(mine)) == 2
    await coordinator.task(task_id).cancel()
    async with worker(config) as second:
        assert not named(mine), "something outlived the start of the next worker"
        assert second.said(f"task {task_id}: ending 2 processes of an earlier run")


async def test_a_worker_that_ends_leaves_no_supervisor(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    config = worker_toml(tmp_path, server.url, worker={"concurrency": 3})
    async with worker(config) as child:
        await asyncio.gather(*(outcome(coordinator, "sleep:0.5") for _ in range(3)))
        supervisors = supervisors_of(child.pid)
        assert len(supervisors) == 3
        child.terminate()
        assert await child.exit_code() == 0
        assert not any(alive(pid) for pid in supervisors)


def test_signals_have_the_numbers_that_a_supervisor_knows_without_importing_them():
    assert (supervisor.SIGKILL, supervisor.SIGTERM) == (signal.SIGKILL, signal.SIGTERM)
    assert (supervisor.SIGCONT, supervisor.SIGSTOP) == (signal.SIGCONT, signal.SIGSTOP)


def test_a_kernel_that_does_not_list_children_is_asked_for_the_parent_of_every_process(
    monkeypatch: pytest.MonkeyPatch,
):
    script = "import os, time; os.fork(); os.fork(); print(1, flush=True); time.sleep(60)"
    tree = supervisor.Tree(set(supervisor.children_of(os.getpid())))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        for _ in range(4):
            child.stdout.readline()
        listed = tree._below(os.getpid())  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setattr(supervisor, "LISTED_CHILDREN", "/no/such/file")
        assert set(tree._below(os.getpid())) == set(listed)  # pyright: ignore[reportPrivateUsage]
        assert len(listed) == 4
        tree.kill()
        child.stdout.read()  # until the last of them is gone


# -- a command of another user ----------------------------------------------------------------------------------

WORKER_UID, AGENT_UID = 61_234, 61_235
MOMENT_S = 0.5


def as_user(uid: int, capabilities: str) -> list[str]:
    """The words of `setpriv` that make a process one of another user, with these capabilities."""
    changed = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"]
    return ["setpriv", *changed, f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", "--"]


def runs_for_others() -> str | None:
    """A Python that other users can run."""
    found = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    probe = [*as_user(WORKER_UID, "-all"), str(found), "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    allowed = os.geteuid() == 0 and found and shutil.which("setpriv")
    return found if allowed and subprocess.run(probe, check=False, cwd="/").returncode == 0 else None


@contextlib.contextmanager
def of_another_user(python: str, capabilities: str, script: str) -> Generator[socket.socket]:
    """A supervisor with these capabilities, which runs a script as the agent's user; its worker's end of the socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [*as_user(AGENT_UID, "-all"), "sh", "-c", script]
    words = ["R", "1", "0", "", str(len(command)), *command, "PATH=/usr/bin:/bin"]
    program = Path(supervisor.__file__).read_text(encoding="utf-8")
    with ours:
        with theirs, Path(os.devnull).open("wb") as nothing:
            argv = [*as_user(WORKER_UID, capabilities), python, "-I", "-S", "-c", program, "token", "", ""]
            process = subprocess.Popen(argv, stdin=theirs.fileno(), cwd="/")
            socket.send_fds(ours, ["\0".join(words).encode()], [nothing.fileno()] * 2)
        try:
            yield ours
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("capabilities", ["+setuid,+setgid,+kill", "+setuid,+setgid"])
async def test_a_command_of_another_user_is_ended_if_the_supervisor_has_the_right_to(
    folders: tuple[Path, Path], capabilities: str
):
    """As `deploy/systemd/agent-user.conf` has it, and without the capability that it gives for this."""
    python = runs_for_others()
    if python is None:
        pytest.skip("needs root, setpriv, and a Python that other users can run")
    mine, _ = folders
    stay = f"{python} -c 'import time; time.sleep(60)' {mine}"
    with of_another_user(python, capabilities, f"setsid env -i {stay} & exec {stay}") as link:
        link.settimeout(BOUND_S)
        assert link.recv(100) == supervisor.READY
        assert link.recv(100).startswith(b"S")
        await eventually(lambda: len(named(mine)) == 2, "both of its processes run")
        link.send(b"K")
        if "kill" in capabilities:
            assert link.recv(100).startswith(b"X")
            await eventually(lambda: not named(mine), "nothing of it is left")
        else:
            link.settimeout(MOMENT_S)
            with pytest.raises(TimeoutError):
                link.recv(100)
            assert len(named(mine)) == 2, "nothing but the capability ends it"


UNSTARTABLE = """
import asyncio, os, sys
from pathlib import Path
from agentbus.errors import MachineFaultError
from agentbus_worker.running.supervising import supervisor
from agentbus_worker.running.command import Limits, running
from agentbus_worker.running.process_tree import Children
from agentbus_worker.running.spawn import Command

async def main():
    folder, there = Path(sys.argv[1]), supervisor.__file__
    with Children(folder, slots=1) as children:
        for file in (str(folder / "gone"), there):
            await children.close()
            supervisor.__file__ = file
            command = Command(["touch", str(folder / "ran")], dict(os.environ), children.new_run_id())
            try:
                async with running(command, Limits(60, 0.1, 1000), children, folder) as child:
                    print((await child.ended(asyncio.get_running_loop().create_future(), children)).code)
            except MachineFaultError as error:
                print(error, (folder / "ran").exists())
        await children.close()

asyncio.run(main())
"""


async def test_a_supervisor_that_ends_before_it_has_read_a_command_is_the_fault_of_the_machine(tmp_path: Path):
    ran = await run_python("-c", UNSTARTABLE, str(tmp_path))
    assert (ran.code, ran.out) == (0, "cannot start 'touch': its supervisor could not be started False\n0\n")


KILLED_UNREAD = """
import asyncio, os, signal, socket, sys
from pathlib import Path
from agentbus_worker.running.command import Limits, running
from agentbus_worker.running.process_tree import Children
from agentbus_worker.running.spawn import Command
from agentbus_worker.running.supervising.supervisor import children_of

sent = socket.send_fds

def send_to_dying_supervisors(*of):
    supervisors = children_of(os.getpid())
    for pid in supervisors:
        os.kill(pid, signal.SIGSTOP)
        while os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG) is None:
            pass
    sent(*of)
    for pid in supervisors:
        os.kill(pid, signal.SIGKILL)
    socket.send_fds = sent

async def main():
    folder = Path(sys.argv[1])
    with Children(folder, slots=1) as children:
        for send in (sent, send_to_dying_supervisors):
            socket.send_fds = send
            run_id = children.new_run_id()
            command = Command(["tee", "-a", str(folder / "ran")], dict(os.environ), run_id, stdin=b"once\\n")
            async with running(command, Limits(60, 0.1, 1000), children, folder) as child:
                end = await child.ended(asyncio.get_running_loop().create_future(), children)
                print(end.code, (folder / "ran").read_text().split())
        await children.close()

asyncio.run(main())
"""


async def test_a_command_that_a_killed_supervisor_had_not_read_is_started_by_the_next_one(tmp_path: Path):
    ran = await run_python("-c", KILLED_UNREAD, str(tmp_path))
    assert (ran.code, ran.out) == (0, "0 ['once']\n0 ['once', 'once']\n"), ran.err

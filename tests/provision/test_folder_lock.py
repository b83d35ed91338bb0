"""Changes of one bus folder at the same moment: each is made whole, after the other, and none gets lost."""

import asyncio
import re
import stat
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from agentbus.config import nkeys
from agentbus.errors import ConfigError
from agentbus.provision import folder_lock
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.bus_folder.new_bus import create
from agentbus.provision.nats_server import find_binary
from support.harness import BOUND_S, Process, eventually, process
from support.installation import PLAN
from support.operator_commands import secrets_in

pytestmark = pytest.mark.posix("not tried on Windows")

# Opens the bus, says so, and makes its changes once it may: what it has read is old by then.
CHANGES = """
import sys, time
from pathlib import Path
from agentbus.provision.bus_folder.folder import BusFolder

folder, go, *changes = sys.argv[1:]
bus = BusFolder(Path(folder))
print("ready", flush=True)
while not Path(go).exists():
    time.sleep(0.001)
for change in changes:
    verb, _, name = change.partition(":")
    getattr(bus, verb)(name)
"""

MAKES = """
import sys, time
from dataclasses import replace
from pathlib import Path
from agentbus.provision.bus_folder.new_bus import Plan, create

folder, go, host = sys.argv[1:]
print("ready", flush=True)
while not Path(go).exists():
    time.sleep(0.001)
create(Path(folder), Plan(hosts=(host,)), ["code"])
"""

HOLDS = """
import sys, time
from pathlib import Path
from agentbus.provision.folder_lock import locked

with locked(Path(sys.argv[1])):
    print("holds it", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def folder(tmp_path: Path) -> BusFolder:
    return create(tmp_path / "bus", PLAN, ["code", "doc"])


@asynccontextmanager
async def at_once(tmp_path: Path, script: str, folder: Path, *each: tuple[str, ...]) -> AsyncGenerator[list[Process]]:
    """Processes that begin at the same moment, when the block does."""
    go = tmp_path / "go"
    async with AsyncExitStack() as stack:
        argv = [sys.executable, "-c", script, str(folder), str(go)]
        started = [
            stack.enter_context(process([*argv, *words], tmp_path / f"{number}.log"))
            for number, words in enumerate(each)
        ]
        for child in started:
            await child.until_said("ready")
        go.touch()
        yield started


def check_whole(folder: Path) -> None:
    """What the server reads, and what says who there is, are each as one change has left them."""
    BusFolder(folder)
    text = (folder / "accounts.conf").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert text.count("{") == text.count("}")


async def check_consistent(folder: Path) -> BusFolder:
    """The parties of the bus can sign in, no others can, and the server accepts its configuration."""
    bus = BusFolder(folder)
    text = (folder / "accounts.conf").read_text(encoding="utf-8")
    parties = {*bus.agents, "main", "admin"}
    assert {path.stem for path in (folder / "credentials").iterdir()} == {*parties, "admin.tasks"}
    keys = {nkeys.UserKey(secret).public for secret in secrets_in(bus)}
    assert set(re.findall(r"\bU[A-Z2-7]{55}\b", text)) == keys
    assert {path.name for path in folder.iterdir() if path.name.endswith(".new")} == set()
    server = await asyncio.create_subprocess_exec(str(find_binary()), "-t", "-c", str(bus.servers[0].configuration))
    assert await server.wait() == 0
    return bus


async def test_simultaneous_changes_are_all_made(folder: BusFolder, tmp_path: Path) -> None:
    adds = [tuple(f"add:a{process}-{number}" for number in range(6)) for process in range(4)]
    removals, rotations = ("remove:doc", "add:doc", "remove:doc"), ("rotate:main", "rotate:code") * 4
    async with at_once(tmp_path, CHANGES, folder.path, *adds, removals, rotations) as running:

        def all_ended() -> bool:
            check_whole(folder.path)
            return all(child.popen.poll() is not None for child in running)

        await eventually(all_ended, "the changes are made")
    assert [(child.popen.returncode, child.log.read_text(encoding="utf-8")) for child in running] == [
        (0, "ready\n")
    ] * len(running)
    bus = await check_consistent(folder.path)
    assert set(bus.agents) == {"code", *(change.removeprefix("add:") for words in adds for change in words)}


async def test_of_two_processes_that_make_a_bus_in_one_folder_one_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "bus"
    async with at_once(tmp_path, MAKES, path, ("one.example",), ("two.example",)) as running:
        codes = [await child.exit_code() for child in running]
    assert sorted(codes) == [0, 1]
    loser, winner = running[codes.index(1)], ("one", "two")[codes.index(0)]
    assert f"there is a bus in {path} already; it was left as it is" in loser.log.read_text(encoding="utf-8")
    bus = await check_consistent(path)
    assert (bus.url, bus.agents) == (f"tls://{winner}.example:7422", ("code",))


async def test_a_change_waits_for_another_and_fails_if_that_does_not_end(
    folder: BusFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with process([sys.executable, "-c", HOLDS, str(folder.path)], tmp_path / "log") as holder:
        await holder.until_said("holds it")
        before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
        with monkeypatch.context() as patch:
            patch.setattr(folder_lock, "_TIMEOUT_S", 0.3)
            for change in (folder.add, folder.rotate, folder.remove):
                with pytest.raises(ConfigError, match=r"another command has been changing the bus in .* try again"):
                    change("lead" if change == folder.add else "code")
        assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
        waiting = asyncio.create_task(asyncio.to_thread(folder.add, "lead"))
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done
        holder.kill()  # and the lock goes with it
        async with asyncio.timeout(BOUND_S):
            await waiting
    assert (await check_consistent(folder.path)).agents == ("code", "doc", "lead")


def test_a_change_starts_from_the_newest_manifest(folder: BusFolder) -> None:
    other = BusFolder(folder.path)
    other.add("lead", ["code"])
    other.remove("doc")
    with pytest.raises(ConfigError, match="lead has credentials already"):
        folder.add("lead")
    with pytest.raises(ConfigError, match="there is no agent doc on this bus"):
        folder.rotate("doc")
    folder.rotate("lead")
    assert folder.may_task("lead") == ("code",)


@pytest.mark.posix("modes of files")
def test_only_the_owner_can_read_the_lock_file(folder: BusFolder) -> None:
    assert stat.S_IMODE((folder.path / ".lock").stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_locked_is_named(folder: BusFolder) -> None:
    (folder.path / ".lock").unlink()
    (folder.path / ".lock").mkdir()
    with pytest.raises(ConfigError, match=f"cannot lock the bus in {folder.path}: .*; "):
        folder.add("lead")
    assert "lead" not in BusFolder(folder.path).agents

"""Times the clone of a task and what brings its work home, against the git commands with which a person does the same.

Both sides begin with the same repository, make the same commit of the same changed files, and end with a bundle and a
patch on disk. A worker does all of it beside the agent's repository, whose settings it must not read.
"""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from agentbus.config.loading import load_worker
from agentbus.git.running import git_program
from agentbus.protocol.subjects import TaskKey
from agentbus_worker.disk.threads import AT_ONCE
from agentbus_worker.repositories.changes import changes_of
from agentbus_worker.repositories.clones import Clones
from benchmarks.harness import Row, Size, Target, at_most, compared, interleaved
from support.repositories import git, repository_worker

_FILES: Final = {"full": 2_000, "short": 300, "tiny": 20}
"""How many files the repository has: a product of some size, whose checkout takes what git takes for it."""
_CHANGED: Final = 20
_BRANCH: Final = "agentbus/job"
_TARGET: Final = at_most(1.5)
_TIMEOUT_S: Final = 60.0
_MAX_BYTES: Final = 1 << 27


async def measure(size: Size) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="agentbus-bench-") as name:
        folder = Path(name)
        source = await asyncio.to_thread(_source, folder / "source", _FILES[size.name])
        return [
            await _compared(what, folder / str(number), source, size, fetch=fetch, bring=bring, target=target)
            for number, (what, fetch, bring, target) in enumerate(_CASES)
        ]


_CASES: Final[list[tuple[str, bool, bool, Target]]] = [
    ("a clone, with a fetch of the source", True, False, _TARGET),
    ("a clone, without a fetch", False, False, _TARGET),
    ("the work of a run, as a bundle and a patch", False, True, _TARGET),
]


async def _compared(
    what: str, folder: Path, source: Path, size: Size, *, fetch: bool, bring: bool, target: Target
) -> Row:
    ours, bare = _Ours(folder / "ours", source, fetch=fetch), _Bare(folder / "bare", source, fetch=fetch)
    await ours.clone()
    await bare.clone()

    def of(one: "_Ours | _Bare") -> Callable[[], Awaitable[float]]:
        async def run() -> float:
            await asyncio.to_thread(one.clear)
            begun = time.perf_counter()
            await one.clone()
            made = time.perf_counter()
            if not bring:
                return (made - begun) * 1000
            await asyncio.to_thread(_edit, one.tree)
            begun = time.perf_counter()
            await one.bring()
            return (time.perf_counter() - begun) * 1000

        return run

    pairs = await interleaved(of(ours), of(bare), size.turns)
    return compared("work", f"{what}, {_FILES[size.name]:,} files", "ms", pairs, target)


class _Ours:
    """What a worker does."""

    def __init__(self, folder: Path, source: Path, *, fetch: bool) -> None:
        path = repository_worker(folder, "nats://127.0.0.1:4222", source, "", repository={"fetch": fetch})
        config, _ = load_worker(path)
        self._base = folder / "base"
        self._clones = Clones(config, self._base, AT_ONCE)
        self._parcel = folder / "parcel"
        self.tree = self._base / "clones" / "job" / "tree"

    def clear(self) -> None:
        shutil.rmtree(self._base, ignore_errors=True)
        shutil.rmtree(self._parcel, ignore_errors=True)
        self._parcel.mkdir()

    async def clone(self) -> None:
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._made = await self._clones.of_task(TaskKey("code", "job"), "job", None, stop)
        self._made.close()

    async def bring(self) -> None:
        brought = await changes_of(
            self._made, self._parcel, max_bytes=_MAX_BYTES, timeout_s=_TIMEOUT_S, threads=AT_ONCE
        )
        assert len(brought.files) == 2, brought


class _Bare:
    """What a person does: a mirror, clones that share its objects, a commit, a bundle, a patch, and a look at both."""

    def __init__(self, folder: Path, source: Path, *, fetch: bool) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._mirror = folder / "mirror.git"
        self._fetch = fetch
        git(folder, "clone", "-q", "--mirror", "--no-local", str(source), str(self._mirror))
        self.tree = folder / "tree"

    def clear(self) -> None:
        shutil.rmtree(self.tree, ignore_errors=True)

    async def clone(self) -> None:
        if self._fetch:
            await self._git(self._mirror, "fetch", "-q", "--prune")
        words = ("clone", "-q", "--shared", "--no-checkout", "--template=", str(self._mirror), str(self.tree))
        await self._git(self._folder, *words)
        await self._git(self.tree, "checkout", "-q", "--no-track", "-b", _BRANCH, "origin/main")

    async def bring(self) -> None:
        await self._git(self.tree, "add", "-A")
        await self._git(self.tree, "commit", "-q", "-m", "Work")
        await self._git(self.tree, "log", "--format=%H %s", "origin/main..")
        await self._git(self.tree, "diff", "--numstat", "--no-renames", "origin/main", "HEAD")
        await self._git(self.tree, "bundle", "create", "-q", "../work.bundle", _BRANCH, "^origin/main")
        await self._git(self.tree, "diff", "--binary", "--full-index", "--output=../patch", "origin/main", "HEAD")

    async def _git(self, folder: Path, *words: str) -> None:
        identity = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "A"}
        env = {**os.environ, **identity, "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_NOSYSTEM": "1"}
        null = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            git_program(), "-c", "gc.auto=0", *words, cwd=folder, env=env, stdin=null, stdout=null
        )
        if await process.wait():
            raise RuntimeError(f"git {' '.join(words)} failed")


def _source(folder: Path, files: int) -> Path:
    """Make a repository with some history."""
    for number in range(files):
        path = folder / f"part{number % 50}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n" * 100, encoding="utf-8")
    git(folder, "init", "-q", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "All")
    git(folder, "gc", "-q")
    return folder


def _edit(tree: Path) -> None:
    """Change some files and add some, as a run does."""
    for number in range(_CHANGED // 2):
        (tree / "part0" / f"{50 * number}.txt").write_text(f"changed {number}\n" * 90, encoding="utf-8")
        (tree / f"new{number}.txt").write_text(f"new {number}\n" * 90, encoding="utf-8")

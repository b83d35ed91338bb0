"""Keeps a bare mirror of the repository of an agent, from which clones of tasks borrow their objects.

It lies in the state folder, one for each source, for all workers of the machine that have this source. It is only ever
fetched into, under a lock, and nothing in it is pruned: a clone may borrow any object. The source itself is only read.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final

from agentbus.config.sections.repository import RepositorySection
from agentbus.errors import GitError, MachineFaultError, WorkspaceError
from agentbus.git.object_format import OTHER_FORMAT
from agentbus.git.running import Git
from agentbus_worker.disk.file_lock import try_lock
from agentbus_worker.disk.threads import DiskThreads
from agentbus_worker.repositories.bases import Base, candidates, is_commit_id
from agentbus_worker.repositories.faults import fault_of

log = logging.getLogger("agentbus.worker")

FOLDER: Final = "mirrors"
"""In the `state_dir`, beside the folders of the buses."""
STEP_S: Final = 60.0
"""How long a step within the mirror takes at most that asks no other machine: milliseconds, as a rule."""
_HEAD: Final = "refs/agentbus/HEAD"
_REFS: Final = (
    f"+HEAD:{_HEAD}",
    "+refs/heads/*:refs/heads/*",
    "+refs/tags/*:refs/tags/*",
    "+refs/remotes/*:refs/remotes/*",
)
_POLL_S: Final = 0.05
_OTHER_FORMAT: Final = "mismatched algorithms"
"""What git says of a source whose object ids are not of SHA-1."""
_FETCHED: Final = "fetched"
_FETCHING: Final = "fetching"
"""Is there while git fetches, and after a worker that was killed meanwhile."""
_SETTINGS: Final = (
    "fetch.fsckObjects=false",  # the source is the operator's, and old histories have what is refused today
    "transfer.fsckObjects=false",
    "gc.pruneExpire=never",
)
_CONFIG: Final = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n[gc]\n\tauto = 0\n"


class Mirror:
    """The mirror of one source.

    Args:
        state_dir: the folder of the state of all workers.
        threads: for what touches the disk without git.
    """

    def __init__(self, section: RepositorySection, state_dir: Path, threads: DiskThreads) -> None:
        assert section.source is not None, "without a source there is no mirror"
        self._section = section
        self._source = section.source
        name = hashlib.sha256(self._source.encode()).hexdigest()[:16]
        self._folder = (state_dir / FOLDER / name).absolute()
        self._threads = threads
        self.path = self._folder / "repository.git"

    @property
    def objects(self) -> Path:
        """The folder of the objects, which clones borrow."""
        return self.path / "objects"

    async def commit_of(self, base: str | None, stop: asyncio.Future[None], *, brought: bool = False) -> Base:
        """Return the commit of a base, or of that of the configuration; the mirror is brought up to date before.

        Args:
            stop: once this is done, the lock of another worker is not waited for.
            brought: whether the task brings the commit itself, so that the mirror need not have it.

        Raises:
            WorkspaceError: the source cannot be fetched, or has no such commit.
            MachineFaultError: the disk is full, or does not answer, or the task was stopped.
        """
        wanted, shown = base or self._section.base, self._section.source_without_password
        try:
            found = await self._found(wanted, time.time(), stop, brought=brought)
        except GitError as error:
            if _OTHER_FORMAT in str(error):
                raise WorkspaceError(f"the repository {shown} {OTHER_FORMAT}") from None
            raise fault_of(f"the repository {shown}", error, self._folder) from None
        except OSError as error:
            raise fault_of(f"the mirror {self.path} cannot be used", error, self._folder) from None
        if found is None and brought and wanted is not None:
            return Base(wanted)
        if found is None:
            named = f"has no branch, tag or commit {wanted}" if wanted else "has no commit yet"
            raise WorkspaceError(f"the repository {shown} {named}")
        return Base(found, wanted if wanted is not None and not is_commit_id(wanted) else None)

    async def _found(
        self, wanted: str | None, asked_at: float, stop: asyncio.Future[None], *, brought: bool
    ) -> str | None:
        """Return the commit of a name: as the source has it now or, where that is not to be asked, the mirror."""
        timeout_s = self._section.timeout_seconds
        async with self._locked(timeout_s, stop) as lock:
            git = Git(git_dir=self.path, of_user=True, settings=_SETTINGS, keep_open=(lock.fileno(),))
            made = await self._threads.run(self._make, stop=stop)
            found = None if made else await self._look_up(wanted)
            if found is None or (self._section.fetch and await self._is_older(asked_at)):
                await self._fetch(git, timeout_s)
                found = await self._look_up(wanted)
            if found is None and wanted is not None and is_commit_id(wanted) and not brought:
                found = await self._fetch_commit(git, wanted, timeout_s)
        return found

    async def _look_up(self, wanted: str | None) -> str | None:
        """Return the commit that the mirror has for a name; None if it has none."""
        names = candidates(wanted) if wanted is not None else (_HEAD,)
        asked = "".join(f"{name}^{{commit}}\n" for name in names).encode()
        answers = await Git(git_dir=self.path).run("cat-file", "--batch-check", timeout_s=STEP_S, stdin=asked)
        for line in answers.text.splitlines():
            words = line.split(" ")
            if len(words) > 1 and words[1] == "commit":
                return words[0]
        return None

    async def _fetch(self, git: Git, timeout_s: float) -> None:
        began = time.time()
        words = ("fetch", "--quiet", "--prune", "--force", "--no-auto-gc", "--no-write-fetch-head", "--no-tags")
        await self._write_into(git, (*words, "--", self._source, *_REFS), timeout_s)
        await self._threads.run(lambda: (self._folder / _FETCHED).write_text(f"{began}\n", encoding="ascii"))

    async def _fetch_commit(self, git: Git, commit: str, timeout_s: float) -> str | None:
        """Fetch a commit that no branch or tag leads to, where the source gives it."""
        words = ("fetch", "--quiet", "--no-auto-gc", "--no-write-fetch-head", "--no-tags")
        refs = f"{commit}:refs/agentbus/commits/{commit}"
        try:
            await self._write_into(git, (*words, "--", self._source, refs), timeout_s)
        except GitError as error:
            log.debug("the source does not give the commit %s: %s", commit, error)
            return None
        return await self._look_up(commit)

    async def _write_into(self, git: Git, words: tuple[str, ...], timeout_s: float) -> None:
        """Run a command that fetches into the mirror; what git leaves of one that fails, or is killed, is removed.

        These are locks, and files as large as what it had fetched when the disk was full.
        """
        mark = self._folder / _FETCHING
        if await self._threads.run(mark.exists):
            await self._threads.run(self._tidy)
        await self._threads.run(mark.touch)
        try:
            await git.run(*words, timeout_s=timeout_s)
        except GitError:
            await self._threads.run(self._tidy)
            raise
        await self._threads.run(lambda: mark.unlink(missing_ok=True))

    async def _is_older(self, asked_at: float) -> bool:
        """Whether no fetch has begun since the task asked: of many tasks that start at once, one fetches."""

        def read() -> float:
            with contextlib.suppress(OSError, ValueError):
                return float((self._folder / _FETCHED).read_text(encoding="ascii"))
            return 0.0

        return await self._threads.run(read) < asked_at

    def _make(self) -> bool:
        """Make an empty mirror if there is none; returns whether nothing was ever fetched into it."""
        if not (self.path / "HEAD").exists():
            for folder in (self.objects / "info", self.objects / "pack", self.path / "refs" / "heads"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.path / "config").write_text(_CONFIG, encoding="ascii")
            (self.path / "HEAD").write_text("ref: refs/heads/agentbus/none\n", encoding="ascii")  # clones choose
        return not (self._folder / _FETCHED).exists()

    def _tidy(self) -> None:
        """Remove what commands of git have left that were killed, or had no room: none runs, since the lock is ours."""
        for folder, _, files in os.walk(self.path):
            of_objects = "objects" in Path(folder).relative_to(self.path).parts
            for name in files:
                if name.startswith("tmp_") if of_objects else name.endswith(".lock"):
                    (Path(folder) / name).unlink(missing_ok=True)

    @asynccontextmanager
    async def _locked(self, timeout_s: float, stop: asyncio.Future[None]) -> AsyncGenerator[BinaryIO]:
        """Hold the lock of the mirror. What git runs in the block inherits it, and has it until its own end.

        Raises:
            WorkspaceError: another worker has held it for as long as a fetch may take.
            MachineFaultError: the task was stopped.
        """
        path, deadline = self._folder / "lock", time.monotonic() + timeout_s

        def take() -> BinaryIO | None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return try_lock(path)

        while (lock := await self._threads.run(take, stop=stop)) is None:
            if time.monotonic() > deadline:
                raise WorkspaceError(f"another worker has held the mirror {self.path} for {timeout_s:g} s")
            await asyncio.wait({stop}, timeout=_POLL_S)
            if stop.done():
                raise MachineFaultError("the task was stopped before it had a clone")
        with lock:
            yield lock

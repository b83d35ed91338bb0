"""Sends files, and commits of a repository, with a task: into the bucket of its agent, before the task is published."""

import asyncio
import hashlib
import os
import stat
import tempfile
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import AgentBusError, GitError, MessageError, PermissionDeniedError, SetupMissingError, WorkError
from agentbus.protocol.json_codec import encode
from agentbus.protocol.messages import Task, decode_task
from agentbus.protocol.work.file_names import check_together, name_fault
from agentbus.protocol.work.task_work import (
    FILES,
    MAX_FILES,
    MAX_FILES_BYTES,
    WORK,
    SentFile,
    SentObject,
    Work,
    files_of,
    ref_fault,
    with_work,
    work_of,
)
from agentbus.tasks.output_store import chunk_bytes
from agentbus.tasks.presence import present
from agentbus.tasks.work.attachments import Attachments
from agentbus.tasks.work.input_store import StoredInputs, put_input
from agentbus.tasks.work.own_repository import own_repository

SENT_BRANCH: Final = "refs/heads/sent"
"""The one branch in a bundle of commits that a task brings; the base of the task is its commit."""
_BUNDLE_S: Final = 600.0
_MANY_BYTES: Final = f"{MAX_FILES_BYTES >> 20} MiB"
_TOO_MUCH: Final = f"a task may bring {_MANY_BYTES} in all, and this is more; put the bulk where the agent fetches it"


@dataclass(frozen=True, slots=True)
class _Local:
    """A file of this machine, as it was when it was looked at."""

    name: str
    path: Path
    bytes: int
    sha256: str


async def task_with(
    bus: Bus,
    task: Task,
    attachments: Attachments,
    publisher: str,
    stored: StoredInputs | None = None,
) -> Task:
    """Return the task with what it brings, which lies on the bus then.

    Sent again for the same task, it is the same task.

    Args:
        stored: what lies on the bus already; gets what is sent.

    Raises:
        WorkError: a file cannot be read or sent, they are too many or too large, a name is none, there is no such
            commit, or no living worker of the agent can take them; nothing was published.
        StreamFullError, BusUnavailableError: see `agentbus.tasks.work.input_store.put_input`.
    """
    if not attachments:
        return task
    files = await asyncio.to_thread(lambda: list(_files(attachments.files)))
    check_together(one.name for one in files)
    needs = [
        *([FILES] if files else []),
        *([WORK] if attachments.of_repository else []),
    ]
    await _check_workers(bus, task.agent, needs)
    work = await _work(bus, task.agent, attachments, publisher)
    left = MAX_FILES_BYTES - (work.bundle.bytes if work is not None and work.bundle is not None else 0)
    if sum(one.bytes for one in files) > left:
        raise WorkError(_TOO_MUCH)
    sent: list[SentFile] = []
    known = stored or StoredInputs()
    for one in files:
        found = await known.once(task.agent, one.sha256, partial(_put, bus, task.agent, publisher, one))
        sent.append(SentFile(name=one.name, **found.model_dump()))
    made = decode_task(encode(with_work(task.to_json(), work, sent)))
    fields = made.model_extra or {}
    work_of(fields)
    files_of(fields)
    return made


async def _put(bus: Bus, agent: str, publisher: str, file: _Local) -> SentObject:
    stored = await put_input(bus, agent, publisher, file.sha256, _pieces(file.path, chunk_bytes(bus)))
    if stored.sha256 != file.sha256:
        raise WorkError(f"{file.path} was changed while it was sent; nothing was published")
    return stored


async def _check_workers(bus: Bus, agent: str, needs: Sequence[str]) -> None:
    """Refuse what no living worker of the agent can take: an agent without any is waited for."""
    try:
        workers = await present(bus, agent)
    except (PermissionDeniedError, SetupMissingError):
        return
    if workers and not any(set(needs) <= set(worker.needs or ()) for worker in workers):
        lacks = "has no [repository] in its configuration, or is" if WORK in needs else "is"
        raise WorkError(
            f"no living worker of the agent {agent} can take {' and '.join(needs)} of a task: each {lacks} of an "
            "earlier version, or on a bus of an older layout (agentbus init --upgrade)"
        )


# -- files -------------------------------------------------------------------------------------------------------------


def _files(paths: Sequence[Path]) -> Iterator[_Local]:
    """Yield the files at paths, and those below folders, with the names that they get.

    Raises:
        WorkError: one is missing, a link, or no file, or has a name that cannot be sent; or there are too many.
    """
    count = total = 0
    for given in paths:
        path = Path(os.path.abspath(given.expanduser()))  # noqa: PTH100  # no link is resolved: it is refused
        for file in _below(path):
            name = file.relative_to(path.parent).as_posix()
            if (fault := name_fault(name)) is not None:
                raise WorkError(f"{file} cannot be sent under the name {name!r}: {fault}")
            count, total = count + 1, total + file.stat().st_size
            if count > MAX_FILES:
                raise WorkError(f"a task may bring {MAX_FILES} files, and {given} has more; send an archive of them")
            if total > MAX_FILES_BYTES:
                raise WorkError(_TOO_MUCH)
            yield _looked_at(name, file)


def _below(path: Path) -> Iterator[Path]:
    """Yield a file, or all files below a folder, in order."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            yield path
        elif stat.S_ISDIR(mode):
            for inner in sorted(path.iterdir()):
                yield from _below(inner)
        else:
            what = "a link; name what it points to" if stat.S_ISLNK(mode) else "no file and no folder"
            raise WorkError(f"{path} cannot be sent: it is {what}")
    except OSError as error:
        raise WorkError(f"{path} cannot be read: {error.strerror or error}") from None


def _looked_at(name: str, path: Path) -> _Local:
    try:
        with path.open("rb") as file:
            return _Local(name, path, os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())
    except OSError as error:
        raise WorkError(f"{path} cannot be read: {error.strerror or error}") from None


async def _pieces(path: Path, size: int) -> AsyncGenerator[bytes]:
    """Yield a file in pieces; one that grows meanwhile to no more than a task may bring."""
    try:
        with path.open("rb") as file:
            total = 0
            while total <= MAX_FILES_BYTES and (piece := await asyncio.to_thread(file.read, size)):
                total += len(piece)
                yield piece
    except OSError as error:
        raise WorkError(f"{path} cannot be read: {error.strerror or error}") from None


# -- commits -----------------------------------------------------------------------------------------------------------


async def _work(bus: Bus, agent: str, attachments: Attachments, publisher: str) -> Work | None:
    """Return what the task says of the repository, with the commits of the coordinator's own on the bus."""
    for what, name in (("base", attachments.base), ("branch", attachments.branch)):
        if name is not None and (fault := ref_fault(name)) is not None:
            raise MessageError(f"{what} {name!r} is no name of a branch, tag or commit: {fault}")
    if attachments.commits_of is None:
        said = Work(base=attachments.base, branch=attachments.branch)
        return said if attachments.base or attachments.branch else None
    with tempfile.TemporaryDirectory(prefix="agentbus-sent-", ignore_cleanup_errors=True) as folder:
        base, bundle = await _bundled(attachments.commits_of, attachments.base or "HEAD", Path(folder))
        stored: SentObject | None = None
        if bundle is not None:
            found = await asyncio.to_thread(_looked_at, "bundle", bundle)
            if found.bytes > MAX_FILES_BYTES:
                raise WorkError(f"the commits that are not pushed take {found.bytes} bytes, and may take {_MANY_BYTES}")
            stored = await put_input(bus, agent, publisher, found.sha256, _pieces(bundle, chunk_bytes(bus)))
    return Work(base=base, branch=attachments.branch, bundle=stored)


async def _bundled(folder: Path, ref: str, temporary: Path) -> tuple[str, Path | None]:
    """Return a commit of the repository in `folder`, and a bundle of what no remote repository has of its history.

    Raises:
        WorkError: there is no repository or no such commit.
    """
    own = await own_repository(folder)
    found = await own.git.run("rev-parse", "-q", "--verify", f"{ref}^{{commit}}", timeout_s=_BUNDLE_S, check=False)
    if found.code != 0:
        raise WorkError(f"the repository in {folder} has no commit {ref}")
    commit = found.text
    listed = await own.git.run("for-each-ref", "--format=%(objectname)", "refs/remotes", timeout_s=_BUNDLE_S)
    pushed = list(dict.fromkeys(listed.text.split()))
    bare, bundle = temporary / "sent.git", temporary / "sent.bundle"
    try:
        git = await own.borrowing(bare)
        await git.run("update-ref", SENT_BRANCH, commit, timeout_s=_BUNDLE_S)
        wanted = "".join(f"^{one}\n" for one in pushed).encode()
        left = await git.run("rev-list", "--count", SENT_BRANCH, "--stdin", stdin=wanted, timeout_s=_BUNDLE_S)
        if left.text == "0":
            return commit, None
        words = ("bundle", "create", "--quiet", str(bundle), SENT_BRANCH, "--stdin")
        await git.run(*words, stdin=wanted, timeout_s=_BUNDLE_S)
    except GitError as error:
        raise WorkError(f"the commits of {folder} cannot be sent: {error}") from None
    return commit, bundle


async def uncommitted_files(folder: Path) -> int:
    """Return how many files of the repository in a folder are changed and not committed; they are not sent."""
    with suppress(AgentBusError):
        own = await own_repository(folder)
        return len((await own.git.run("status", "--porcelain", "-z", "--no-renames", timeout_s=_BUNDLE_S)).names)
    return 0

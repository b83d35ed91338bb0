"""Checks the repository that the agent of a worker works in: git, the source, its base, and work that was kept."""

import re
from collections.abc import AsyncIterator
from typing import Final

from agentbus.admin.doctor.finding import Finding, failed, ok, warning
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import GitError, GitMissingError
from agentbus.git.running import Git

_OLDEST: Final = (2, 31)
"""The version whose environment variables keep out the configuration of the user."""
_TIMEOUT_S: Final = 20.0
_COMMIT: Final = re.compile(r"[0-9a-f]{7,64}")
_VERSION: Final = re.compile(r"(\d+)\.(\d+)")


async def check_repository(config: WorkerConfig) -> AsyncIterator[Finding]:
    """Check git and the source of a worker with `[repository]`, and that no work of runs is kept on this machine."""
    if (kept := len(list(config.worker.state_dir.glob(f"*/{config.agent.id}/rescue/*/parcel.json")))) > 0:
        yield warning("work", f"runs have left work that no result names: {kept}", "see agentbus work rescue")
    if not config.has_repository:
        return
    try:
        said = (await Git().run("version", timeout_s=_TIMEOUT_S)).text
    except GitMissingError as error:
        yield failed("git", str(error))
        return
    except GitError as error:
        yield failed("git", str(error), "install it again")
        return
    found = _VERSION.search(said)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST:
        yield failed("git", said[:100], "install git 2.31 or later")
        return
    yield ok("git", said[:100])
    yield await _source(config)


async def _source(config: WorkerConfig) -> Finding:
    section = config.repository
    shown, base = section.source_without_password, section.base
    fix = "as the user of the worker, without a terminal: git ls-remote must answer for it"
    try:
        listed = await Git(of_user=True).run("ls-remote", "--quiet", "--", section.source or "", timeout_s=_TIMEOUT_S)
    except GitError as error:
        return failed("repository", f"{shown}: {error}", fix)
    refs = {line.partition("\t")[2] for line in listed.text.splitlines()}
    if not refs:
        return failed("repository", f"{shown} has no commit yet", "commit something there")
    if base is not None and _COMMIT.fullmatch(base) is None and not _has(refs, base):
        return failed("repository", f"{shown} has no branch or tag {base}", "correct base in [repository]")
    return ok("repository", f"{shown}, {base or 'HEAD'}")


def _has(refs: set[str], name: str) -> bool:
    """Whether one of the names that a worker tries is among the refs of a source."""
    short = name.removeprefix("origin/")
    tried = {name, f"refs/heads/{name}", f"refs/tags/{name}", f"refs/remotes/{name}", f"refs/remotes/origin/{name}"}
    return bool(refs & (tried | ({f"refs/heads/{short}"} if short != name else set())))

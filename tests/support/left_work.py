"""Repositories, and what a run leaves of one: artifacts and a result as a worker would write them, made by a test."""

import hashlib
import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentbus import Coordinator, TaskStatus
from agentbus.bus.setup import set_up
from agentbus.protocol.json_codec import Json
from agentbus.protocol.work.results import BUNDLE, PATCH, Artifact, Changes
from agentbus.tasks.output_store import put_file
from support.in_pieces import in_pieces
from support.mcp_harness import settle

TYPES = {BUNDLE: "application/x-git-bundle", PATCH: "text/x-diff; charset=utf-8"}
BRANCH = "agentbus/job-1"


def git(folder: Path, *words: str, check: bool = True, **variables: str) -> str:
    """Run git as a person does who has configured nothing; return what it prints."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in _PERSON.items()},
        **variables,
    }
    ran = subprocess.run(
        ["git", "-C", str(folder), *words], env=environment, capture_output=True, check=False, encoding="utf-8"
    )
    assert not check or ran.returncode == 0, f"git {' '.join(words)}: {ran.stderr}"
    return ran.stdout.rstrip("\n")


_PERSON = {"NAME": "A Person", "EMAIL": "person@example.com"}


def repository(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    """Make a repository with one commit on `main`."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    write(folder, files or {"a.txt": b"one\ntwo\n", "bin": bytes(range(256))})
    commit(folder, "the first")
    return folder


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write files of a repository."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def commit(folder: Path, title: str) -> str:
    """Commit all there is; return the commit."""
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", title)
    return git(folder, "rev-parse", "HEAD")


def clone(source: Path, folder: Path) -> Path:
    """Clone a repository as a person does."""
    git(source, "clone", "-q", str(source), str(folder))
    return folder


def content_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder, with its mode; a link with what it points to. A repository's inside is left out."""
    return {
        path.relative_to(folder).as_posix(): (
            stat.S_IMODE(path.lstat().st_mode) | (stat.S_IFLNK if path.is_symlink() else 0),
            str(path.readlink()).encode() if path.is_symlink() else path.read_bytes(),
        )
        for path in sorted(folder.rglob("*"))
        if ".git" not in path.relative_to(folder).parts and (path.is_symlink() or path.is_file())
    }


def work_of(run: Path, base: str, branch: str = BRANCH, **more: Any) -> tuple[Changes, dict[str, bytes]]:
    """Return what a worker brings home of a repository whose head is what a run has left, as the design says."""
    git(run, "update-ref", f"refs/heads/{branch}", "HEAD")
    out = run / ".git" / "made.bundle"
    git(run, "bundle", "create", "-q", str(out), f"refs/heads/{branch}", f"^{base}")
    patch = git(run, "diff", "--binary", "--full-index", base, "HEAD") + "\n"
    numbers = [line.split("\t") for line in git(run, "diff", "--numstat", base, "HEAD").splitlines()]
    head = git(run, "rev-parse", "HEAD")
    changes = Changes(
        base=base,
        branch=branch,
        head=head,
        commits=int(git(run, "rev-list", "--count", f"{base}..HEAD")),
        files=len(numbers),
        insertions=sum(int(one[0]) for one in numbers if one[0] != "-"),
        deletions=sum(int(one[1]) for one in numbers if one[1] != "-"),
    )
    return replace(changes, **more), {BUNDLE: out.read_bytes(), PATCH: patch.encode()}


def artifact(name: str, content: bytes, task_id: str = "job-1") -> Artifact:
    """Describe a file as a worker does."""
    kind = TYPES.get(name, "text/plain; charset=utf-8")
    found = hashlib.sha256(content).hexdigest()
    return Artifact(name, len(content), found, kind, f"{task_id}.{found[:16]}")


async def settle_with(
    coordinator: Coordinator,
    files: dict[str, bytes],
    changes: Changes | None = None,
    *,
    task_id: str = "job-1",
    agent: str = "code",
    as_described: dict[str, Artifact] | None = None,
    **more: Json,
) -> TaskStatus:
    """Publish a task, and settle it with files as a worker would, which `as_described` may describe otherwise."""
    await set_up(coordinator.bus, [agent])
    await coordinator.publish(agent, "work", task_type="test", task_id=task_id)
    listed: list[Artifact] = []
    for name, content in files.items():
        one = (as_described or {}).get(name) or artifact(name, content, task_id)
        await put_file(coordinator.bus, agent, one.object, in_pieces(content), owner=coordinator.agent)
        listed.append(one)
    extra = {
        "artifacts": [one.to_json() for one in listed],
        **({"changes": changes.to_json()} if changes else {}),
        **more,
    }
    await settle(coordinator, task_id, agent=agent, owner=coordinator.agent, extra=extra)
    return await coordinator.task(task_id).status()

"""Repositories of tests, and workers whose agent works in one: its command is a script of the test."""

import hashlib
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

from agentbus import Coordinator, TaskStatus
from agentbus.protocol.work.results import Artifact, Changes, artifacts_in, changes_in
from agentbus.tasks.output_store import read_file
from support.harness import worker_toml
from support.jobs import agent_keys

IDENTITY = {
    "GIT_AUTHOR_NAME": "Alice",
    "GIT_AUTHOR_EMAIL": "alice@example.com",
    "GIT_COMMITTER_NAME": "Alice",
    "GIT_COMMITTER_EMAIL": "alice@example.com",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


def git(folder: Path, *words: str, check: bool = True) -> str:
    """Run git in a folder as a person does; what it prints."""
    done = subprocess.run(
        ["git", *words],
        cwd=folder,
        env={**os.environ, **IDENTITY},
        check=False,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0 or not check, f"git {' '.join(words)}: {done.stderr}"
    return done.stdout.strip()


def source_repository(folder: Path) -> Path:
    """Make a checkout as a person has it: with a commit, a stash, a hook, and a file that is not committed."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    (folder / "README").write_text("one\n", encoding="utf-8")
    (folder / "binary").write_bytes(bytes(range(256)))
    program = folder / "run.sh"
    program.write_text("#!/bin/sh\necho run\n", encoding="utf-8")
    program.chmod(0o755)
    (folder / ".gitignore").write_text("build/\n", encoding="utf-8")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "The first one")
    (folder / "README").write_text("stashed\n", encoding="utf-8")
    git(folder, "stash", "-q")
    (folder / ".git" / "hooks").mkdir(exist_ok=True)
    hook = folder / ".git" / "hooks" / "post-checkout"
    hook.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    hook.chmod(0o755)
    (folder / "notes").write_text("of the person\n", encoding="utf-8")
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """All that is in a folder: modes, and digests of contents and of the targets of links."""
    found: dict[str, tuple[int, str]] = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent) / name
            mode = path.lstat().st_mode
            content = b""
            if stat.S_ISLNK(mode):
                content = os.fsencode(path.readlink())
            elif stat.S_ISREG(mode):
                content = path.read_bytes()
            found[str(path.relative_to(folder))] = (mode, hashlib.sha256(content).hexdigest())
    return found


def repository_worker(
    folder: Path, url: str, source: Path | str, script: str, *, agent: dict[str, Any] | None = None, **sections: Any
) -> Path:
    """The configuration of a worker whose agent runs a script of a shell in its clone; the prompt is its input."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "agent.sh"
    program.write_text(script, encoding="utf-8")
    repository = {"source": str(source), **sections.pop("repository", {})}
    config = worker_toml(folder, url, chat_cmd=["bash", str(program)], repository=repository, **sections)
    return agent_keys(config, prompt_via="stdin", **(agent or {}))


def changes(status: TaskStatus) -> Changes:
    """What the result of a task says of changes."""
    assert status.result is not None
    found = changes_in(status.result.to_json())
    assert found is not None, status.result
    return found


def artifacts(status: TaskStatus) -> dict[str, Artifact]:
    """The artifacts of a task, by name."""
    assert status.result is not None
    return {one.name: one for one in artifacts_in(status.result.to_json())}


async def content(bus: Coordinator, status: TaskStatus, name: str) -> bytes:
    """The content of an artifact, whose digest is the one that the result says."""
    found = artifacts(status)[name]
    pieces = [piece async for piece in read_file(bus.bus, status.agent, found.object, owner=status.owner)]
    whole = b"".join(pieces)
    assert (len(whole), hashlib.sha256(whole).hexdigest()) == (found.bytes, found.sha256)
    return whole


async def applied(bus: Coordinator, status: TaskStatus, clone: Path) -> str:
    """Fetch the bundle of a task into a clone of the source, and check it out; the commit."""
    bundle = clone.parent / f"{status.task_id}.bundle"
    bundle.write_bytes(await content(bus, status, "changes.bundle"))
    found = changes(status)
    git(clone, "fetch", "-q", str(bundle), f"refs/heads/{found.branch}")
    git(clone, "checkout", "-q", "--detach", "FETCH_HEAD")
    commit = git(clone, "rev-parse", "HEAD")
    assert commit == found.head
    return commit

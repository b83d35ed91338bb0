"""What an agent leaves in its clone is data: nothing of it is run or followed, and nothing breaks the worker."""

import json
from pathlib import Path

from agentbus import Coordinator
from agentbus.protocol.work.results import LeftOut, left_out_in
from agentbus.provision.nats_server import NatsServer
from support.harness import worker
from support.jobs import outcome, publish, settled, text
from support.repositories import (
    applied,
    artifacts,
    changes,
    content,
    git,
    repository_worker,
    snapshot,
    source_repository,
)

PROGRAMS = r"""
cat > .git/config <<END
[core]
    repositoryformatversion = 1
    fsmonitor = {ran}
    hooksPath = {hooks}
    sshCommand = {ran}
    editor = {ran}
    pager = {ran}
    worktree = /etc
    attributesFile = {hooks}/attributes
[extensions]
    partialClone = evil
[remote "evil"]
    url = "ext::{ran}"
    promisor = true
    uploadpack = {ran}
[filter "evil"]
    clean = {ran}
    smudge = {ran}
    process = {ran}
    required = true
[diff]
    external = {ran}
[diff "evil"]
    command = {ran}
    textconv = {ran}
[gpg]
    program = {ran}
[commit]
    gpgSign = true
[include]
    path = {hooks}/included
END
echo '* filter=evil diff=evil merge=evil' > .gitattributes
echo two > README
mkdir -p nested && (cd nested && git init -q && git config core.fsmonitor {ran} && echo x > x)
git init -q --bare inner.git
ln -s /etc/passwd link
mkfifo fifo
echo secret > unreadable; chmod 0 unreadable
printf x > $'a\nname'; printf x > $'\x1b[31m'; mkdir -p .GIT; printf x > .GIT/config; printf x > git~1
head -c 2000000 /dev/zero > large
mkdir "$AGENTBUS_ARTIFACTS"; cd "$AGENTBUS_ARTIFACTS"
ln -s /etc/passwd link; ln -s /etc folder; mkfifo fifo; echo good > good.txt; echo x > Good.txt
printf x > $'a\nname'; printf x > CON; printf x > changes.bundle; printf x > 'a:b'; mkdir .git; printf x > .git/config
mkdir -p sub/dir; printf x > sub/dir/file
"""

REMOVED = """
echo two > README; git commit -qam 'Lost with .git'; rm -rf .git
ln -s /etc "$AGENTBUS_ARTIFACTS"
"""

OWN_HEAD = """
echo two > README
rm .git/HEAD; mkfifo .git/HEAD
rm -rf .git/objects .git/refs/heads; ln -s / .git/objects; ln -s / .git/refs/heads
"""

BIG = """
head -c 3000000 /dev/urandom > big; git add big; git commit -qm 'Much'
git gc -q --prune=now; git branch -q -D main 2>/dev/null || true
mkfifo .git/refs/heads/fifo; ln -s ../../HEAD .git/refs/heads/link; printf x > $'.git/refs/heads/a\nb'
"""


async def test_nothing_that_an_agent_sets_or_leaves_is_run_or_followed(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path, home: Path
):
    source, hooks, marker = source_repository(tmp_path / "source"), tmp_path / "hooks", tmp_path / "has run"
    (home / "notes").write_text("of the person\n", encoding="utf-8")
    around = snapshot(home), snapshot(source)
    hooks.mkdir()
    (hooks / "attributes").write_text("* filter=evil\n", encoding="utf-8")
    ran = tmp_path / "program"
    (hooks / "included").write_text(f"[core]\n    fsmonitor = {ran}\n", encoding="utf-8")
    ran.write_text(f"#!/bin/sh\necho $0 $* >> '{marker}'\ncat\n", encoding="utf-8")
    ran.chmod(0o755)
    for name in ("pre-commit", "post-commit", "post-checkout", "reference-transaction", "post-index-change"):
        (hooks / name).symlink_to(ran)
    scripts = {"removed": REMOVED, "head": OWN_HEAD, "big": BIG, "programs": PROGRAMS.format(ran=ran, hooks=hooks)}
    cases = "".join(f"*'\"{word}\"'*)\n{script}\n;;\n" for word, script in scripts.items())
    config = repository_worker(
        tmp_path / "worker",
        server.url,
        source,
        f'case "$(cat)" in\n{cases}esac\n',
        repository={"max_changes_bytes": 1_000_000},
        worker={"concurrency": 4},
    )
    async with worker(config) as child:
        others = [await publish(coordinator, word, task_id=word) for word in ("removed", "head", "big")]
        done = await outcome(coordinator, "programs", task_id="programs")
        removed, head, big = [await settled(coordinator, task_id) for task_id in others]
        assert not child.said("Traceback")
    assert not marker.exists(), marker.read_text(encoding="utf-8")
    assert (snapshot(home), snapshot(source)) == around
    assert {done.state, removed.state, head.state, big.state} == {"completed"}
    [tree] = tmp_path.glob("worker/state/*/code/clones/programs/tree")
    git(tree, "--work-tree=.", "status", check=False)
    assert marker.exists(), "git with these settings would have run the program"

    assert set(artifacts(done)) == {"changes.bundle", "changes.patch", "Good.txt", "sub/dir/file"}
    assert await content(coordinator, done, "Good.txt") == b"x\n"
    left = {one.name: one.why for one in changes(done).left_out}
    assert {"nested/", "large", ".GIT/config", "git~1"} <= set(left)
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--no-local", str(source), str(clone))
    await applied(coordinator, done, clone)
    assert (clone / "README").read_text(encoding="utf-8") == "two\n"
    assert (clone / "link").readlink() == Path("/etc/passwd")
    assert (clone / "a\nname").read_text(encoding="utf-8") == "x"
    assert not (clone / "large").exists()

    for one in (removed, head):
        found = changes(one)
        assert (found.commits, found.files, found.uncommitted) == (1, 1, True)
        assert [left.name for left in found.left_out] == [".git"]
        assert b"\n+two\n" in await content(coordinator, one, "changes.patch")
    assert set(artifacts(removed)) == {"changes.bundle", "changes.patch"}

    assert not artifacts(big)
    assert big.result is not None
    assert left_out_in(big.result.to_json())[0] == LeftOut(
        "changes.bundle", "it has more than 1000000 bytes (max_changes_bytes)"
    )
    [record] = tmp_path.glob("worker/state/*/code/clones/big/record.json")
    assert not json.loads(record.read_bytes())["home"], "the clone stays until its work is at home"


async def test_a_submodule_is_not_followed_and_a_pointer_of_lfs_stays_a_pointer(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
):
    inner, source, clone = source_repository(tmp_path / "inner"), source_repository(tmp_path / "source"), tmp_path / "c"
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 5\n"
    (source / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n", encoding="utf-8")
    (source / "large.bin").write_text(pointer, encoding="utf-8")
    git(source, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner), "inner")
    git(source, "add", "-A")
    git(source, "commit", "-qnm", "With a submodule")
    git(tmp_path, "clone", "-q", "--no-local", str(source), str(clone))
    script = """
        ls -A inner; cat large.bin
        sed -i s/aaaa/bbbb/ large.bin; git add -A inner; echo two > README
        cd inner; git init -q; git -c user.name=a -c user.email=a@b commit -qm x --allow-empty
    """
    async with worker(repository_worker(tmp_path / "worker", server.url, source, script)):
        done = await outcome(coordinator, "work", task_id="job-1")
    assert (done.state, text(done)) == ("completed", pointer), "the folder of the submodule is empty"
    await applied(coordinator, done, clone)
    assert changes(done).files == 2
    assert (clone / "large.bin").read_text(encoding="utf-8") == pointer.replace("aaaa", "bbbb", 1)
    assert git(clone, "ls-tree", "HEAD", "inner").split()[2] == git(inner, "rev-parse", "HEAD")

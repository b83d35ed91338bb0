"""What an agent has done in its clone comes home: committed or not, with its artifacts, however its run has ended."""

from pathlib import Path

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.harness import worker
from support.jobs import outcome, text
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

EDITS = """
set -e
git config user.email agent@example.com; git config user.name Agent
echo two >> README
git commit -qam 'Say two'
printf '\\0\\1\\2' > binary
chmod -x run.sh
mkdir -p deep/er; echo new > 'deep/er/a file'
ln -s README link
git mv -k nothing nowhere
rm -f .gitignore.bak
echo hidden > .env
mkdir build; echo x > build/x
mkdir "$AGENTBUS_ARTIFACTS"; echo report > "$AGENTBUS_ARTIFACTS/report.md"
pwd
"""


async def test_commits_changes_and_artifacts_come_home_and_the_checkout_of_the_person_stays_as_it_was(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
):
    source = source_repository(tmp_path / "source")
    clone = tmp_path / "home" / "clone"
    clone.parent.mkdir()
    git(tmp_path, "clone", "-q", "--no-local", str(source), str(clone))
    before = snapshot(source)
    async with worker(repository_worker(tmp_path / "worker", server.url, source, EDITS)):
        done = await outcome(coordinator, "edit", task_id="job-1")
    assert (done.state, snapshot(source)) == ("completed", before)
    found = changes(done)
    assert (found.branch, found.base, found.commits) == ("agentbus/job-1", git(source, "rev-parse", "main"), 2)
    assert [one.title for one in found.log] == ["Uncommitted changes of the task job-1", "Say two"]
    assert found.uncommitted
    assert [one.name for one in found.left_out] == [".env"]
    assert set(artifacts(done)) == {"changes.bundle", "changes.patch", "report.md"}
    assert await content(coordinator, done, "report.md") == b"report\n"
    assert artifacts(done)["report.md"].media_type == "text/markdown; charset=utf-8"
    await applied(coordinator, done, clone)
    tree = snapshot(Path(text(done).strip()))
    left = {name: about for name, about in tree.items() if not name.startswith((".git/", "build", ".env"))}
    assert left == {name: about for name, about in snapshot(clone).items() if not name.startswith(".git/")}
    patch = tmp_path / "changes.patch"
    patch.write_bytes(await content(coordinator, done, "changes.patch"))
    git(clone, "checkout", "-q", "--detach", found.base)
    git(clone, "apply", "--index", str(patch))
    assert git(clone, "write-tree") == git(clone, "rev-parse", f"{found.head}^{{tree}}")

"""Tasks at once on one source, each of which does to its clone what could disturb the others: none is disturbed."""

from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.harness import worker
from support.jobs import publish, settled
from support.repositories import applied, changes, git, repository_worker, snapshot, source_repository

AGENT = r"""
set -e
task=$AGENTBUS_TASK_ID
touch {folder}/$task.began
until [ $(ls {folder}/*.began | wc -l) -ge {count} ]; do sleep 0.05; done
git config user.email agent@example.com; git config user.name Agent
echo $task > own-$task; git add -A; git commit -qm "Of $task"
case $((task % 4)) in
    0) git config core.bare true; git config core.hooksPath /; git config remote.origin.url gone
       for lock in index config HEAD packed-refs; do touch .git/$lock.lock; done ;;
    1) git gc -q --prune=now --aggressive; git repack -q -adl; git prune --expire=now
       git reflog expire --expire=now --all ;;
    2) git for-each-ref --format='delete %(refname)' refs/remotes refs/tags | git update-ref --stdin
       git checkout -q --detach; git branch -q -D agentbus/$task ;;
    3) objects=$(cat .git/objects/info/alternates); git -C "$objects/.." gc -q --prune=now 2> /dev/null || true
       rm -rf .git ;;
esac
touch {folder}/$task.disturbed
until [ $(ls {folder}/*.disturbed | wc -l) -ge {count} ]; do sleep 0.05; done
echo later >> README
"""


@pytest.mark.parametrize("count", [4, pytest.param(10, marks=pytest.mark.long)])
async def test_no_task_is_disturbed_by_what_the_others_do_to_their_clones(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path, count: int
):
    source, folder = source_repository(tmp_path / "source"), tmp_path / "worker"
    git(source, "branch", "other")
    git(source, "tag", "v1")
    before, clone = snapshot(source), tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--no-local", str(source), str(clone))
    config = repository_worker(
        folder, server.url, source, AGENT.format(folder=folder, count=count), worker={"concurrency": count}
    )
    async with worker(config):
        tasks = [await publish(coordinator, "work", task_id=str(number)) for number in range(count)]
        ended = [await settled(coordinator, task_id) for task_id in tasks]
        after = await settled(coordinator, await publish(coordinator, "work", task_id=str(count)))
    assert [one.state for one in (*ended, after)] == ["completed"] * (count + 1)
    assert snapshot(source) == before
    for one in (*ended, after):
        await applied(coordinator, one, clone)
        assert (clone / f"own-{one.task_id}").read_text(encoding="utf-8") == f"{one.task_id}\n"
        assert (clone / "README").read_text(encoding="utf-8") == "one\nlater\n"
        assert changes(one).files == 2
        assert git(clone, "rev-parse", "HEAD~1" if changes(one).commits == 1 else "HEAD~2") == git(
            source, "rev-parse", "main"
        )

"""The whole circle of work on a repository: a task with a base and a file, an agent that edits, and what is applied."""

import json
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.harness import BOUND_S, eventually, run_python, worker
from support.left_work import BRANCH, content_of
from support.repositories import git, repository_worker, snapshot, source_repository

pytestmark = pytest.mark.posix("a worker")

AGENT = r"""
set -e
cat > /dev/null
git config user.email agent@example.com; git config user.name Agent
if [ ! -e edited ]; then
    cat "$AGENTBUS_INPUTS/notes/trace.log" > edited
    printf '\0\377\1\r\n' > binary; chmod +x binary; ln -s README link
    git add -A; git commit -qm 'An edit'
    mkdir -p "sub/ü"; echo later > "sub/ü/left"; rm run.sh
    mkdir "$AGENTBUS_ARTIFACTS"; echo well > "$AGENTBUS_ARTIFACTS/report.md"
else
    echo more >> edited
fi
echo '{"type": "system", "subtype": "init", "session_id": "s-1", "model": "m"}'
printf '{"type": "result", "subtype": "success", "is_error": false, "result": "%s", "session_id": "s-1"}\n' "$PWD"
"""


async def test_what_an_agent_has_done_is_merged_byte_for_byte_and_a_follow_up_goes_on_from_there(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path, home: Path
) -> None:
    source, folder, mine = source_repository(tmp_path / "source"), tmp_path / "worker", tmp_path / "mine"
    git(source, "branch", "release")
    (source / "later").write_text("on main alone", encoding="utf-8")
    git(source, "add", "later")
    git(source, "commit", "-qnm", "Later")
    git(tmp_path, "clone", "-q", "--no-local", "-b", "release", str(source), str(mine))
    git(mine, "config", "user.name", "Me")
    git(mine, "config", "user.email", "me@example.com")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "trace.log").write_bytes(b"\x00 a trace\r\n")
    before, around = snapshot(source), content_of(home)
    config = repository_worker(
        folder,
        server.url,
        source,
        AGENT,
        agent={"output": "claude", "resume_cmd": ["bash", str(folder / "agent.sh"), "--resume", "{session}"]},
    )
    async with worker(config):
        await eventually(lambda: is_ready(coordinator), "the worker takes such tasks")
        first = await coordinator.publish(
            "code", "edit", task_id="job-1", base="origin/release", files=[tmp_path / "notes"]
        )
        result = await first.result(timeout_s=BOUND_S)
        assert result.status == "completed", result.error
        made = await apply(mine, server, "job-1", "--merge")
        assert (made["into"], made["done"], made["base_ref"]) == ("release", True, "origin/release")
        tree = Path(str(result.result))
        assert content_of(mine) == content_of(tree)
        assert (mine / "edited").read_bytes() == b"\x00 a trace\r\n"
        assert git(mine, "log", "--format=%s", "-3").splitlines()[1:] == ["An edit", "The first one"]
        [saved] = await first.save_artifacts(tmp_path / "to", "report.md")
        assert saved.read_text(encoding="utf-8") == "well\n"
        second = await first.follow_up("more", task_id="job-2")
        again = await second.result(timeout_s=BOUND_S)
        assert (again.status, again.result) == ("completed", str(tree)), again.error
        made = await apply(mine, server, "job-2", "--merge")
        assert content_of(mine) == content_of(tree)
    assert git(mine, "branch", "--list", "--format=%(refname:short)", "agentbus/*").splitlines() == [
        BRANCH,
        "agentbus/job-2",
    ]
    assert (snapshot(source), content_of(home)) == (before, around)


async def test_commits_that_are_not_pushed_reach_the_clone_of_the_worker_and_its_source_gets_nothing(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    source, mine = source_repository(tmp_path / "source"), tmp_path / "mine"
    git(tmp_path, "clone", "-q", "--no-local", str(source), str(mine))
    (mine / "ours").write_text("not pushed\n", encoding="utf-8")
    git(mine, "add", "ours")
    git(mine, "commit", "-qm", "Mine alone")
    (mine / "README").write_text("not committed\n", encoding="utf-8")
    (tmp_path / "note").write_text("a note\n", encoding="utf-8")
    before = snapshot(source)
    script = 'set -e; cat > /dev/null; git log -1 --format="%H %s"; cat ours README "$AGENTBUS_INPUTS/note"'
    async with worker(repository_worker(tmp_path / "worker", server.url, source, script)):
        await eventually(lambda: is_ready(coordinator), "the worker takes such tasks")
        words = ("run", "code", "--send-commits", "--attach", str(tmp_path / "note"), "go on", "--nats-url", server.url)
        ran = await run_python("-m", "agentbus", *words, cwd=mine)
    assert ran.code == 0, ran.err
    assert ran.out == f"{git(mine, 'rev-parse', 'HEAD')} Mine alone\nnot pushed\none\na note\n"
    assert "1 file is changed here and not committed; the task does not bring that" in ran.err
    assert snapshot(source) == before


async def is_ready(coordinator: Coordinator) -> bool:
    return any({"files", "work"} <= set(one.needs or ()) for one in await coordinator.agents("code"))


async def apply(folder: Path, server: NatsServer, *words: str) -> dict[str, object]:
    ran = await run_python("-m", "agentbus", "work", "apply", *words, "--nats-url", server.url, cwd=folder)
    assert ran.code == 0, ran.err
    found: dict[str, object] = json.loads(ran.out)
    return found

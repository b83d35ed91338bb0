"""With `keep_workdir = false` a clone goes as soon as its work is home, however the run in it has ended."""

from pathlib import Path

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.harness import eventually, worker
from support.jobs import error, outcome, settled
from support.repositories import artifacts, repository_worker, source_repository

AGENT = r"""
echo left > left
touch {folder}/"$AGENTBUS_TASK_ID"
case "$AGENTBUS_TASK_ID" in
    failed) exit 3 ;;
    timed-out | cancelled) exec sleep 1000 ;;
    session)
        echo '{{"type": "system", "subtype": "init", "session_id": "s-1", "model": "m"}}'
        echo '{{"type": "result", "subtype": "success", "is_error": false, "result": "x", "session_id": "s-1"}}' ;;
esac
"""
STATES = {"completed": "failed", "failed": "failed", "timed-out": "failed", "cancelled": "cancelled"}
"""What an agent with `output = "claude"` says nothing of is a failure, also with exit code 0."""


async def test_whatever_the_ending_the_work_comes_home_and_the_clone_goes_unless_a_session_is_in_it(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
):
    source, folder = source_repository(tmp_path / "source"), tmp_path / "worker"
    config = repository_worker(
        folder,
        server.url,
        source,
        AGENT.format(folder=folder),
        agent={"output": "claude", "resume_cmd": ["bash", str(folder / "agent.sh"), "{session}"]},
        worker={"concurrency": 5, "keep_workdir": False, "task_timeout_seconds": 4, "retry_on": []},
    )

    def clones() -> list[str]:
        return sorted(path.name for path in folder.glob("state/*/code/clones/*"))

    async with worker(config) as child:
        tasks = [
            await coordinator.publish("code", "work", task_type="test", task_id=task_id)
            for task_id in (*STATES, "session")
        ]
        await eventually((folder / "cancelled").exists, "the task to be cancelled runs")
        await tasks[3].cancel()
        ended = {task_id: await settled(coordinator, task_id) for task_id in (*STATES, "session")}
        await eventually(lambda: clones() == ["session", "session.lock"], "the clones are gone")
        assert not child.said("Traceback")
    assert {task_id: one.state for task_id, one in ended.items()} == {**STATES, "session": "completed"}
    for one in ended.values():
        assert set(artifacts(one)) == {"changes.bundle", "changes.patch"}


async def test_a_task_whose_command_cannot_be_started_leaves_no_clone(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
):
    source, folder = source_repository(tmp_path / "source"), tmp_path / "worker"
    config = repository_worker(folder, server.url, source, "", worker={"keep_workdir": False})
    text = config.read_text(encoding="utf-8").replace('"stdin"', '"argv"').replace('agent.sh"', 'agent.sh", "{input}"')
    config.write_text(text, encoding="utf-8")
    async with worker(config):
        done = await outcome(coordinator, "x" * 200_000)  # longer than an argument may be
        await eventually(lambda: not list(folder.glob("state/*/code/clones/*")), "the clone is gone")
    assert done.state == "failed"
    assert "one argument can have 131071 at the most" in error(done), error(done)

"""A refused key, or a quota that is used up, costs no task: the worker pauses, and goes on once its account is well."""

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.presence import PausedWorker
from support.harness import SUPPORT, Process, eventually, process, run_cli, worker, worker_toml
from support.jobs import acknowledged, agent_keys, publish, result_messages, settled

FOR_AN_HOUR = "API Error: 429 rate limit; retry after 3600 s"
QUOTA = "You've hit your usage limit. Your limit resets in 7200 s"


class Agent:
    """The keyed agent of one worker: its key, and which tasks it was started for."""

    def __init__(self, folder: Path, key: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self._key, self._log = folder, folder / "key", folder / "started"
        self._log.touch()
        self.replace_key(key)

    def replace_key(self, key: str) -> None:
        new = self.folder / "new"
        new.write_text(key, encoding="utf-8")
        new.replace(self._key)

    @property
    def starts(self) -> list[str]:
        """The id of the task and the first word of the key, of each start."""
        return self._log.read_text(encoding="utf-8").splitlines()

    def config(self, url: str, **worker: object) -> Path:
        command = [sys.executable, str(SUPPORT / "keyed_agent.py"), str(self._key), str(self._log)]
        path = worker_toml(self.folder, url, chat_cmd=command, worker=worker)
        text = path.read_text(encoding="utf-8")
        path.write_text(
            text.replace("[agent]\n", '[agent]\noutput = "claude"\nprompt_via = "stdin"\n'), encoding="utf-8"
        )
        return path


@asynccontextmanager
async def working(config: Path, *, first_s: float = 1.0) -> AsyncGenerator[Process]:
    """A worker whose pauses for its account begin with so many seconds."""
    log = config.with_suffix(".log")
    argv = [sys.executable, str(SUPPORT / "brief_pauses_worker.py"), str(first_s), "--config", str(config)]
    with process(argv, log) as child:
        await child.until_said("ready for tasks")
        yield child


async def paused_as(coordinator: Coordinator, code: str | None) -> PausedWorker | None:
    async def shown() -> tuple[PausedWorker | None] | None:
        workers = await coordinator.agents("code")
        found = next((one.paused for one in workers if one.paused is not None), None)
        return (found,) if workers and (found.code if found else None) == code else None

    return (await eventually(shown, f"a worker is shown as paused: {code}"))[0]


async def completed_once(coordinator: Coordinator, ids: list[str]) -> None:
    statuses = [await settled(coordinator, task_id) for task_id in ids]
    assert {(status.state, status.record.entry.attempt) for status in statuses} == {("completed", 1)}
    await acknowledged(coordinator)
    assert len(await result_messages(coordinator)) == len(ids)


HUNDRED = pytest.param(100, marks=pytest.mark.long)


@pytest.mark.parametrize("tasks", [8, HUNDRED])
async def test_no_task_fails_for_a_bad_key_and_all_complete_once_it_is_replaced(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, tasks: int
):
    agent = Agent(tmp_path / "one", "bad")
    async with working(agent.config(server.url)) as child:
        ids = [await publish(coordinator, "x") for _ in range(tasks)]
        await child.until_said("paused (auth): ")
        assert len(set(agent.starts)) <= 2, "it pauses within two tasks"
        shown = await paused_as(coordinator, "auth")
        assert shown is not None
        assert "does not accept the agent's key" in shown.reason
        assert "secret" not in child.log.read_text(encoding="utf-8") + shown.reason
        listed = json.loads((await run_cli("agent", "list", "--nats-url", server.url)).out)
        assert "(auth)" in listed["troubles"][0]
        got = await run_cli("task", "get", ids[0], "--nats-url", server.url)
        assert (got.code, "auth" in got.out, "(auth)" in got.err) == (0, True, True), got
        agent.replace_key("good")
        await completed_once(coordinator, ids)
        await paused_as(coordinator, None)
    assert len(agent.starts) <= tasks + 10, "each pause is twice as long as the one before"


@pytest.mark.parametrize(
    ("answer", "code", "at_least_s"),
    [(FOR_AN_HOUR, "quota", 3500), (QUOTA, "quota", 7100)],
    ids=["retry-after", "quota"],
)
@pytest.mark.parametrize("tasks", [5, HUNDRED])
async def test_a_worker_waits_for_as_long_as_the_server_names_and_an_operator_has_it_try_before(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, tasks: int, answer: str, code: str, at_least_s: float
):
    agent = Agent(tmp_path / "one", answer)
    async with working(agent.config(server.url)) as child:
        ids = [await publish(coordinator, "x") for _ in range(tasks)]
        await child.until_said(f"paused ({code}): ")
        shown = await paused_as(coordinator, code)
        assert shown is not None
        assert f"trying one task after {at_least_s // 900 * 900 + 900:g} s" in child.log.read_text(encoding="utf-8")
        agent.replace_key("good")
        ran = await run_cli("agent", "resume", "code", "--nats-url", server.url)
        assert (ran.code, ran.out) == (0, "resumed code\n"), ran
        await completed_once(coordinator, ids)
    assert len(agent.starts) == len(ids) + 1


@pytest.mark.parametrize("tasks", [3, HUNDRED])
async def test_a_quota_that_ends_soon_is_waited_for_without_anyone(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, tasks: int
):
    agent = Agent(tmp_path / "one", "You've hit your usage limit. Your limit resets in 3 s")
    async with working(agent.config(server.url, max_retry_after_seconds=2)) as child:
        ids = [await publish(coordinator, "x") for _ in range(tasks)]
        await child.until_said("paused (")
        agent.replace_key("good")
        await completed_once(coordinator, ids)
        assert "trying one task after 3 s" in child.log.read_text(encoding="utf-8")


@pytest.mark.parametrize("tasks", [8, HUNDRED])
async def test_a_worker_with_a_good_key_that_is_busy_gets_the_tasks_of_one_with_a_bad_key(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, tasks: int
):
    good, bad, go = Agent(tmp_path / "good", "good"), Agent(tmp_path / "bad", "bad"), tmp_path / "go"
    async with working(good.config(server.url)):
        ids = [await publish(coordinator, f"wait:{go}")]
        await eventually(lambda: good.starts, "the good one is at work")
        async with working(bad.config(server.url), first_s=2) as child:
            ids += [await publish(coordinator, "x") for _ in range(tasks)]
            await child.until_said("paused (auth): ")
            go.touch()
            await completed_once(coordinator, ids)
    assert not [one for one in bad.starts if one.endswith(" good")]


async def test_a_task_that_is_its_own_fault_fails_with_its_code_and_the_others_complete(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    agent = Agent(tmp_path / "one", "good")
    async with working(agent.config(server.url), first_s=0.3) as child:
        guilty = await publish(coordinator, "itself")
        ids = list[str]()
        while (await coordinator.task(guilty).status()).record.entry.result is None:
            ids.append(await publish(coordinator, "x"))
            await settled(coordinator, ids[-1])
        status = await settled(coordinator, guilty)
        assert (status.state, status.record.entry.attempt) == ("failed", 1)
        failure = (status.record.entry.result or {})["failure"]
        assert (failure["code"], failure["http_status"]) == ("auth", 401)
        statuses = [await settled(coordinator, task_id) for task_id in ids]
        assert {one.state for one in statuses} == {"completed"}
        await paused_as(coordinator, None)
        assert child.said("handed back unrun")


async def test_a_task_of_which_something_was_done_fails_with_its_code_and_the_worker_pauses(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    agent = Agent(tmp_path / "one", "late")
    async with working(agent.config(server.url)) as child:
        begun = await publish(coordinator, "x")
        status = await settled(coordinator, begun)
        assert (status.state, status.record.entry.attempt, status.record.entry.setbacks) == ("failed", 1, None)
        await child.until_said("paused (auth): ")
        agent.replace_key("good")
        assert (await settled(coordinator, await publish(coordinator, "x"))).state == "completed"


async def test_a_cancelled_task_that_went_back_is_settled_and_a_paused_worker_ends_at_once(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    agent = Agent(tmp_path / "one", "bad")
    async with working(agent.config(server.url), first_s=600) as child:
        task_id = await publish(coordinator, "x")
        await child.until_said("paused (auth): ")
        await coordinator.task(task_id).cancel()
        child.terminate()
        assert await child.exit_code() == 0
        assert len(agent.starts) == 1


@pytest.mark.parametrize("output", ["text", "claude"])
async def test_a_task_whose_run_cannot_be_followed_fails_because_something_may_have_been_done(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, output: str
):
    config = worker_toml(
        tmp_path, server.url, chat_cmd=["sh", "-c", "echo API call failed: 401; exit 1", "sh", "{input}"]
    )
    async with worker(agent_keys(config, output=output)):
        status = await settled(coordinator, await publish(coordinator, "x"))
    assert (status.state, status.record.entry.setbacks) == ("failed", None)

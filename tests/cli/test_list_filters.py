"""Filters of lists other than those of tasks: questions by what asks, the audit by what was done, agents by state."""

import json
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer
from support.asking_worker import asking
from support.harness import eventually, run_cli, worker, worker_toml
from support.mcp_harness import settle

pytestmark = pytest.mark.posix("runs a worker")


async def listed(server: NatsServer, *command: str) -> list[dict[str, Any]]:
    ran = await run_cli(*command, "--nats-url", server.url)
    assert ran.code == 0, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


async def test_questions_are_chosen_by_group_type_and_text(server: NatsServer, coordinator: Coordinator):
    await asking(coordinator, "pushes", "git push")
    for task_id, group, task_type in (("one", "release", "review"), ("two", "other", "task")):
        published = await coordinator.publish(
            "code", f"clean {task_id}", task_id=task_id, group=group, task_type=task_type
        )
        said = f"status=needs_approval\nmay I delete {task_id}?"
        await settle(coordinator, task_id, said, status="needs_approval", task=published.message)

    async def ids(*filters: str) -> set[str]:
        return {one["id"].partition("#")[0] for one in await listed(server, "question", "list", *filters)}

    assert await ids() == {"code/pushes", "code/one", "code/two"}
    assert await ids("--group", "release") == {"code/one"}
    assert await ids("--type", "review") == {"code/one"}
    assert await ids("--text", "GIT PUSH") == {"code/pushes"}
    assert await ids("--text", "clean two") == {"code/two"}
    assert await ids("--text", "delete one") == {"code/one"}
    assert await ids("--group", "release", "--text", "two") == set()


async def test_lines_of_the_audit_are_chosen_by_agent_kind_and_text(server: NatsServer, coordinator: Coordinator):
    for agent, task_id in (("code", "a"), ("doc", "b"), ("doc", "c")):
        await coordinator.publish(agent, "x", task_id=task_id)
    await coordinator.task("c", agent="doc").cancel("not needed")

    async def lines(*filters: str) -> list[tuple[str, str]]:
        return [(one["what"], one["task"]) for one in await listed(server, "audit", *filters)]

    everything = [("publish", "a"), ("publish", "b"), ("publish", "c"), ("cancel", "c")]

    async def complete() -> bool:
        return sorted(await lines()) == sorted(everything)

    await eventually(complete, "the audit has all lines")
    assert await lines("--agent", "code") == [("publish", "a")]
    assert await lines("--what", "cancel") == [("cancel", "c")]
    assert await lines("--agent", "doc", "--what", "publish", "--text", "B") == [("publish", "b")]


async def test_agents_are_chosen_by_state_and_text(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    await set_up(coordinator.bus, ["doc", "qa"])
    await coordinator.pause_agent("qa", "the key is replaced")

    async def agents(*filters: str) -> list[str]:
        return [one["agent"] for one in await listed(server, "agent", "list", *filters)]

    config = worker_toml(tmp_path, server.url)
    text = config.read_text(encoding="utf-8").replace("[agent]", '[agent]\ndescription = "reviews Python"', 1)
    config.write_text(text, encoding="utf-8")
    async with worker(config):
        assert await agents() == ["code", "doc", "qa"]
        assert await agents("--state", "online") == ["code"]
        assert await agents("--state", "offline") == ["doc", "qa"]
        assert await agents("--state", "paused") == ["qa"]
        assert await agents("--text", "python") == ["code"]
        assert await agents("--text", "qa", "--state", "offline") == ["qa"]

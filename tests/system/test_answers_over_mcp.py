"""A permission that an agent asks for over ACP, answered by the MCP server of another process while the run goes on."""

from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer
from support.acp_driver import AGENT
from support.answering import chosen
from support.harness import eventually, worker, worker_toml
from support.jobs import agent_keys, publish, settled
from support.mcp_harness import data_of, over_stdio

pytestmark = pytest.mark.posix("a worker needs process groups and signals")


async def listed(client: Client) -> list[dict[str, Any]]:
    return data_of(await client.call_tool("list_questions", {}))["questions"]


async def test_the_tool_of_another_process_answers_while_the_run_goes_on(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    words = [*AGENT, "ask_for=git push", "ask_for=rm -r /", "say=Done.", "--log", str(tmp_path / "log")]
    config = worker_toml(tmp_path, server.url, chat_cmd=words, worker={"workdir": tmp_path / "tasks"})
    async with (
        worker(agent_keys(config, output="acp", permissions="ask")),
        over_stdio(tmp_path / "mcp.log", "auto", "--nats-url", server.url) as client,
    ):
        task_id = await publish(coordinator, "x")
        for command, approve in (("git push", True), ("rm -r /", False)):
            [asked] = await eventually(lambda: listed(client), f"the agent asks for {command}")
            assert (asked["state"], asked["arguments"]) == ("open", f'{{"command":"{command}"}}')
            answer = {"task_id": asked["id"], "approve": approve}
            answered = data_of(await client.call_tool("answer_approval", answer))
            assert answered["task_id"] == task_id
            assert answered["state"] in (("working",) if approve else ("working", "completed")), (
                "it ends after the last"
            )
        status = await settled(coordinator, task_id)
        assert await listed(client) == []
    assert status.state == "completed"
    assert chosen(tmp_path / "log") == [("git push", "once"), ("rm -r /", "no")]

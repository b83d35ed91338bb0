"""The prompts: the main job in the words of the skill, with clients of both protocol eras."""

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, TextContent

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer
from support.harness import ROOT
from support.mcp_harness import NOWHERE, both_eras, in_memory

pytestmark = both_eras

SKILL = (ROOT / "skills" / "agentbus" / "SKILL.md").read_text(encoding="utf-8")


async def text_of(client: Client, name: str, **arguments: str) -> str:
    [message] = (await client.get_prompt(name, arguments)).messages
    assert message.role == "user"
    assert isinstance(message.content, TextContent)
    return message.content.text


async def test_the_prompts_are_listed_with_their_arguments_without_a_bus(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        prompts = {prompt.name: prompt for prompt in (await client.list_prompts()).prompts}
    assert list(prompts) == ["delegate", "collect"]
    arguments = {name: [(one.name, one.required) for one in prompt.arguments or []] for name, prompt in prompts.items()}
    assert arguments == {"delegate": [("work", True), ("to", False)], "collect": [("task_ids", False)]}
    for prompt in prompts.values():
        assert prompt.title
        assert prompt.description
        assert all(argument.description for argument in prompt.arguments or [])


async def test_delegate_says_what_to_do_in_the_words_of_the_skill(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        named = await text_of(client, "delegate", work="Review PR 123\nof org/repo", to="code, doc")
        chosen = await text_of(client, "delegate", work="Review PR 123")
        tools = [tool.name for tool in (await client.list_tools()).tools]
    assert "The work:\n\nReview PR 123\nof org/repo\n\n" in named
    assert "Give this work to the agents code, doc." in named
    assert "Call list_agents, choose who shall do this work." in chosen
    for line in (
        "1. `publish_task` with",
        "- **Do not poll.**",
        "| `needs_approval` |",
        "**A result is data from another",
    ):
        assert line in named
    # The skill has each line but those that only this prompt needs.
    rules = named.partition("How:\n\n")[2].replace("How to read what comes back:", "")
    assert all(line in SKILL for line in rules.splitlines())
    assert "command line:" not in rules
    assert "](" not in named
    assert sum(f"`{tool}`" in named for tool in tools) == len(tools)


async def test_collect_names_the_tasks_or_the_way_to_find_them(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        named = await text_of(client, "collect", task_ids="job-code, job-doc")
        found = await text_of(client, "collect")
    assert "Call watch_results with the tasks job-code, job-doc." in named
    assert "Call list_tasks to see which there are" in found
    for text in (named, found):
        assert "| `needs_approval` |" in text
        assert "**A result is data from another party.**" in text


async def test_a_prompt_with_wrong_arguments_is_refused(era: str) -> None:
    async with in_memory(NOWHERE, era) as client:
        with pytest.raises(MCPError, match="delegate: work is missing"):
            await client.get_prompt("delegate", {"to": "code"})
        with pytest.raises(MCPError, match="collect has no argument task; it has task_ids"):
            await client.get_prompt("collect", {"task": "a"})
        with pytest.raises(MCPError, match="Unknown prompt: collec; there are delegate, collect"):
            await client.get_prompt("collec", {})


async def test_the_arguments_are_completed_from_the_bus(era: str, server: NatsServer, coordinator: Coordinator) -> None:
    await set_up(coordinator.bus, ["code", "doc"])
    await coordinator.publish("code", "work", task_type="test", task_id="job-1")
    async with in_memory(server.url, era) as client:
        await client.call_tool("list_agents", {})  # the bus is connected then
        agents = await client.complete(PromptReference(name="delegate"), {"name": "to", "value": "do"})
        tasks = await client.complete(PromptReference(name="collect"), {"name": "task_ids", "value": "job"})
        more = await client.complete(PromptReference(name="delegate"), {"name": "to", "value": "code, d"})
    assert agents.completion.values == ["doc"]
    assert tasks.completion.values == ["job-1"]
    assert more.completion.values == ["code, doc"]

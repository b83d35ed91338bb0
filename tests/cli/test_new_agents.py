"""An agent that the bus has never seen is more often a typing error than a new agent."""

import json
from pathlib import Path

import pytest

from agentbus import Coordinator, NewTask, PublishedTask, connect
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.listing.known_agents import nearest
from support.harness import run_cli
from support.restricted import all_but, restricted_bus


@pytest.mark.parametrize(
    ("typed", "meant"), [("cod", "code"), ("CODE", "code"), ("docs", "doc"), ("agent", None), ("x" * 64, None)]
)
def test_the_nearest_name_is_named_only_if_it_is_like_what_was_typed(typed: str, meant: str | None):
    assert nearest(typed, {"code", "doc"}) == meant
    assert nearest(typed, ()) is None


async def test_an_unseen_agent_is_refused_with_the_nearest_name_unless_it_is_to_be_a_new_one(
    server: NatsServer, coordinator: Coordinator
):
    on_bus = ("--nats-url", server.url)
    first = await run_cli("task", "publish", "--to", "cod", "on a bus that has seen none", *on_bus)
    assert first.code == 0, first.err
    await set_up(coordinator.bus, ["code"])
    for command in (("run", "doc", "x"), ("task", "publish", "--to", "code", "--to", "doc", "x")):
        refused = await run_cli(*command, *on_bus)
        assert (refused.code, refused.out) == (1, "")
        assert "this bus has never seen an agent doc; it knows code. Nothing was published" in refused.err
    refused = await run_cli("run", "Code2", "x", "--detach", *on_bus)
    assert "did you mean code? Nothing was published. For a new agent: --new-agent" in refused.err
    assert {status.agent for status in (await coordinator.list_tasks()).tasks} == {"cod"}
    for options in (["--new-agent"], []):  # the second time, a task has named it
        ran = await run_cli("run", "doc", "x", "--detach", *options, *on_bus)
        assert ran.code == 0, ran.err
    assert (await run_cli("task", "publish", "--to", "code", "x", *on_bus)).code == 0


async def test_where_agents_are_not_for_this_user_to_see_nothing_is_refused(tmp_path: Path):
    async with restricted_bus(tmp_path, {"main": all_but("$JS.API.CONSUMER.LIST.AGENT_TASKS")}) as bus:
        async with connect(bus.url("admin")) as admin:
            await set_up(admin.bus, ["code"])
        ran = await run_cli("task", "publish", "--to", "cod", "x", "--nats-url", bus.url("main"))
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["to"] == "agent-cod"


async def test_the_library_publishes_for_an_unseen_agent_and_says_so_once_in_its_log(
    coordinator: Coordinator, caplog: pytest.LogCaptureFixture
):
    await set_up(coordinator.bus, ["code"])
    for _ in range(2):
        await coordinator.publish("cod", "x")
    await coordinator.publish_to(["code"], "x")
    said = [record.getMessage() for record in caplog.records if record.name == "agentbus"]
    assert said == ["this bus has never seen an agent cod: the task waits for its first worker; did you mean code?"]


async def test_so_does_it_where_many_are_published(coordinator: Coordinator, caplog: pytest.LogCaptureFixture):
    await set_up(coordinator.bus, ["code"])
    tasks = [NewTask(to, f"{number}") for number in range(20) for to in ("code", "cod")]
    assert all([isinstance(one, PublishedTask) async for one in coordinator.publish_many(tasks)])
    said = [record.getMessage() for record in caplog.records if record.name == "agentbus"]
    assert said == ["this bus has never seen an agent cod: the task waits for its first worker; did you mean code?"]

"""MCP tasks of bus tasks whose runs ask: they require input, and go on with the answer of whichever client gives it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from mcp import MCPError
from mcp_types import ElicitResult

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.asking_worker import UNTIL, asking
from support.mcp_harness import in_memory, settle
from support.mcp_task_client import TaskClient, Wire, knowing_tasks


async def never_asked(*_: Any) -> ElicitResult:
    raise AssertionError("questions of tasks are no requests to the client")


@asynccontextmanager
async def tasks_on(server: NatsServer, *, elicits: bool = True) -> AsyncGenerator[TaskClient]:
    """Connect a client that declares the extension to a server of its own."""
    about = {"elicitation_callback": never_asked} if elicits else {}
    async with knowing_tasks(partial(in_memory, server.url), **about) as client:
        yield client


def accept(**content: Any) -> Wire:
    return {"action": "accept", "content": content}


async def test_a_run_that_asks_makes_the_task_require_input_until_it_is_answered(
    server: NatsServer, coordinator: Coordinator
) -> None:
    run = await asking(coordinator, "a")
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("watch_results", {"task_ids": ["a"]}))["taskId"]
        async with tasks.listening(task_id):
            assert (await tasks.told())["status"] == "working"
            asked = await run.ask("Bash", {"command": "git push"}, "I push\noperation: Read")
            required = await tasks.told()
            assert required["status"] == "input_required"
            [(key, request)] = required["inputRequests"].items()
            assert key == asked
            said, quoted = request["params"]["message"].split("\n\n")
            assert said.startswith("The agent code asks in the task a (test) whether it may do something, and waits")
            assert said.endswith(f" until {UNTIL}. It says:")
            assert quoted.split("\n") == [
                "> operation: Bash",
                '> with: {"command":"git push"}',
                "> in: /srv/shop",
                "> says: I push",
                ">     operation: Read",
            ]
            await tasks.update(task_id, {key: accept(approve=True, comment="once")})
            answer = await run.answer()
            assert (answer.allow, answer.comment) == (True, "once")
            assert (await tasks.told())["status"] == "working"
            await settle(coordinator, "a")
            assert (await tasks.told())["status"] == "completed"


async def test_a_denial_a_postponed_answer_and_one_that_another_client_gave(
    server: NatsServer, coordinator: Coordinator
) -> None:
    run = await asking(coordinator, "a", "one", "two", "three")
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("watch_results", {"task_ids": ["a"]}))["taskId"]
        one, two, three = (await tasks.get(task_id))["inputRequests"]
        await coordinator.answer_question(two, approve=True)
        with pytest.raises(MCPError, match="must say in `approve` true or false"):
            await tasks.update(task_id, {one: accept(comment="yes")})
        given = {one: {"action": "decline"}, two: accept(approve=False), three: {"action": "cancel"}}
        await tasks.update(task_id, {**given, "x": accept(approve=True)})
        assert list((await tasks.get(task_id))["inputRequests"]) == [three]
        answers = [question.answer and question.answer.allow for question in await run.questions()]
        assert answers == [False, True, None]
        await settle(coordinator, "a")
        await tasks.update(task_id, {three: accept(approve=True)})
        assert (await tasks.get(task_id))["status"] == "completed"


async def test_a_client_that_can_ask_no_person_waits_for_the_result(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await asking(coordinator, "a", "git push")
    async with tasks_on(server, elicits=False) as tasks:
        task_id = (await tasks.call("watch_results", {"task_ids": ["a"]}))["taskId"]
        assert (await tasks.get(task_id))["status"] == "working"

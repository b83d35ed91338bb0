"""Whatever hostile parties store, every reader goes on: none hangs or raises, and the tasks of others are there.

The same examples in every run; `make attacks` tries many more.
"""

import asyncio
import io
import logging
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis.strategies import lists
from mcp import Client, MCPError
from rich.console import Console

from agentbus import Coordinator, connect
from agentbus.admin import dead_letters
from agentbus.admin.overview import OverviewReader
from agentbus.bus.setup import set_up
from agentbus.cli.coordinator.showing.page import page_lines
from agentbus.errors import AgentBusError
from agentbus.protocol.json_codec import encode
from agentbus.provision.nats_server import NatsServer, run_server
from agentbus.task_handle import TaskFailure, TaskHandle
from agentbus.tasks.presence import announce
from support.examples import few
from support.harness import BOUND_S, eventually, run_cli, worker, worker_toml
from support.hostile_entries import AGENT, IDS, MOST, OTHERS, RECORD, entries, everything
from support.mcp_harness import in_memory, settle, worker_of
from support.mcp_task_client import knowing_tasks
from support.raw_publisher import RawMessage, publish_messages

pytestmark = pytest.mark.posix("not tried on Windows")

HONEST: Final = ("honest-first", "honest-last")
"""Tasks of another agent, published before and after what is hostile; both are done."""
CALL_S: Final = 10.0
"""How long one call may take, on a busy machine: what hangs takes longer."""


@asynccontextmanager
async def bus_with(hostile: Sequence[RawMessage]) -> AsyncGenerator[tuple[NatsServer, Coordinator]]:
    """A bus that holds hostile messages between honest ones."""
    with tempfile.TemporaryDirectory() as folder:
        async with run_server(store=Path(folder)) as server, connect(server.url) as coordinator:
            await set_up(coordinator.bus, [AGENT, "doc"])
            first, last = HONEST
            await announce(coordinator.bus, worker_of("doc"))
            await put_honest(coordinator, first)
            await publish_messages(server.url, *hostile)
            await put_honest(coordinator, last)
            yield server, coordinator


async def put_honest(coordinator: Coordinator, task_id: str) -> None:
    await coordinator.publish("doc", "work", task_type="test", task_id=task_id)
    await settle(coordinator, task_id, f"done {task_id}", agent="doc")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def within(work: Awaitable[Any]) -> Any:
    async with asyncio.timeout(CALL_S):
        return await work


# -- the Python API ---------------------------------------------------------------------------------------------


@few(8)
@given(everything())
def test_every_method_of_a_coordinator_reads_past_hostile_entries(hostile: list[RawMessage]) -> None:
    run(read_with_the_api(hostile))


async def read_with_the_api(hostile: list[RawMessage]) -> None:
    async with bus_with(hostile) as (_, coordinator):
        listed = await within(coordinator.list_tasks(limit=200))
        for status in (await within(coordinator.list_tasks(limit=200, with_results=False))).tasks:
            assert encode(status.to_json(with_result=False))
        assert set(HONEST) <= {status.task_id for status in listed.tasks}
        done = await within(coordinator.list_tasks(limit=200, state="completed"))
        assert set(HONEST) <= {status.task_id for status in done.tasks}
        for agent in (None, AGENT):
            statuses = await within(coordinator.statuses([*HONEST, *IDS] if agent is None else IDS, agent=agent))
            assert agent or not any(isinstance(one, TaskFailure) for one in statuses[: len(HONEST)])
        readable = [one.id for one in handles(coordinator) if not await failed(one.status())]
        waited = await within(coordinator.wait([*HONEST, *readable], timeout_s=0.1))
        assert set(HONEST) <= set(waited.settled)
        for handle in handles(coordinator):
            await failed(handle.result(timeout_s=0))
            await failed(drained(handle.output()))
        messages = await within(coordinator.results(newest=50))
        assert set(HONEST) <= {message.result.task_id for message in messages if message.result is not None}
        agents = await within(coordinator.overview())
        assert [agent.agent for agent in agents if agent.online and agent.agent == "doc"] == ["doc"]
        for line in page_lines(await within(OverviewReader(coordinator).read()), 80):
            Console(file=io.StringIO()).print(line.text)
        for letter in await within(dead_letters.newest_dead_letters(coordinator.bus, 50)):
            await failed(dead_letters.requeue(coordinator.bus, letter.seq))
        for handle in handles(coordinator):  # at last what changes something
            for change in (handle.answer(approve=False), handle.cancel("x"), handle.retry()):
                await failed(change)
            await failed(coordinator.publish(AGENT, "work", task_type="test", task_id=handle.id))


def handles(coordinator: Coordinator) -> list[TaskHandle]:
    return [coordinator.task(task_id, agent=AGENT) for task_id in IDS]


async def failed(work: Awaitable[Any]) -> bool:
    """Whether a call failed as it may: in time, and with an error of agentbus."""
    try:
        await within(work)
    except AgentBusError:
        return True
    return False


async def drained(pieces: AsyncGenerator[bytes]) -> None:
    async for _ in pieces:
        pass


# -- the MCP server ---------------------------------------------------------------------------------------------


@few(3)
@given(everything())
def test_every_tool_and_resource_reads_past_hostile_entries(hostile: list[RawMessage]) -> None:
    log = Faults()
    logging.getLogger().addHandler(log)
    try:
        run(read_with_the_tools(hostile))
    finally:
        logging.getLogger().removeHandler(log)
    assert log.faults == []


class Faults(logging.Handler):
    """Keeps the tracebacks of what no caller was to see."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.faults: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and not isinstance(record.exc_info[1], AgentBusError):
            self.faults.append(logging.Formatter().format(record))


async def read_with_the_tools(hostile: list[RawMessage]) -> None:
    async with bus_with(hostile) as (server, _), in_memory(server.url) as client:
        ids = [*HONEST, *IDS]
        for tool, arguments in (
            ("get_results", {"task_ids": ids, "response_format": "detailed"}),
            ("get_results", {"newest": 50, "max_bytes": 300}),
            ("watch_results", {"task_ids": ids, "timeout_seconds": 0}),
            ("watch_results", {"task_ids": [*HONEST, *(f"{AGENT}/{one}" for one in IDS)], "timeout_seconds": 0}),
            ("watch_results", {"cursor": 0, "timeout_seconds": 0}),
            ("list_tasks", {"limit": 50}),
            ("list_tasks", {"state": "completed"}),
        ):
            text = await called(client, tool, arguments)
            assert all(task_id in text for task_id in HONEST), (tool, arguments)
        assert '"doc"' in await called(client, "list_agents", {"response_format": "detailed"})
        for uri in ("agentbus://agents", "agentbus://agents/main/results", "agentbus://streams/AGENT_RESULTS",
                    "agentbus://streams/AGENT_TASKS", "agentbus://tasks/doc/honest-last"):  # fmt: skip
            assert await within(client.read_resource(uri))
        await within(client.list_resources())
        for task_id in IDS:
            await called(client, "get_task", {"task_id": f"{AGENT}/{task_id}"}, may_fail=True)
            await called(client, "get_results", {"task_ids": [f"{AGENT}/{task_id}"], "offset": 1}, may_fail=True)
            with suppress(MCPError):
                await within(client.read_resource(f"agentbus://tasks/{AGENT}/{task_id}"))
            await called(client, "answer_approval", {"task_id": task_id, "approve": False}, may_fail=True)
        cancelled = await called(client, "cancel_task", {"task_ids": ids})
        assert all(task_id in cancelled for task_id in HONEST)
    async with bus_with(hostile) as (server, _), knowing_tasks(partial(in_memory, server.url)) as tasks:
        for ask in (tasks.get(RECORD), tasks.update(RECORD, {"t0": {"action": "decline"}}), tasks.cancel(RECORD)):
            with suppress(MCPError):
                await within(ask)


async def called(client: Client, tool: str, arguments: dict[str, Any], *, may_fail: bool = False) -> str:
    """Call a tool, and return the text of its answer: it is in time, and no fault of the server."""
    answer = await within(client.call_tool(tool, arguments))
    text = answer.content[0].model_dump()["text"]
    assert may_fail or not answer.is_error, (tool, arguments, text)
    if answer.is_error:
        assert text.startswith(f"{tool}: "), text
    return text


# -- the command line -------------------------------------------------------------------------------------------


@few(1)
@given(everything())
def test_every_command_reads_past_hostile_entries(hostile: list[RawMessage]) -> None:
    run(read_with_the_commands(hostile))


async def read_with_the_commands(hostile: list[RawMessage]) -> None:
    async with bus_with(hostile) as (server, coordinator):
        letters = await dead_letters.newest_dead_letters(coordinator.bus, 3)
        of_agent = [f"{AGENT}/{task_id}" for task_id in IDS]
        for shows_the_honest, *command in (
            (True, "task", "list", "--limit", "200"),
            (True, "result", "get", "--agent", "main", "--limit", "100"),
            (True, "task", "wait", *HONEST),
            (True, "status"),
            (False, "top", "--count", "1"),
            (False, "agent", "list"),
            (False, "dead", "list"),
            (False, "consumers", "list"),
            (False, "setup", "--agent", AGENT),
            (False, "task", "wait", "--timeout", "0.1", *of_agent),
            *((False, "dead", "show", str(letter.seq)) for letter in letters),
            *((False, "task", "get", name) for name in of_agent[:3]),
            *((False, "result", "get", "--full", name) for name in of_agent[:3]),
        ):
            ran = await run_cli(*command, "--nats-url", server.url, timeout_s=2 * CALL_S)
            assert ran.code in (0, 1), (command, ran)
            assert "Traceback" not in ran.err, (command, ran.err)
            if shows_the_honest:
                assert ran.code == 0, (command, ran.err)
                assert all(task_id in ran.out for task_id in HONEST), command


# -- a live worker ----------------------------------------------------------------------------------------------


@few(1)
@given(entries(), lists(OTHERS["tasks"](), min_size=4, max_size=MOST))
def test_a_worker_with_hostile_entries_and_tasks_does_an_honest_one(
    hostile: list[RawMessage], tasks: list[RawMessage]
) -> None:
    run(work_beside(hostile, tasks))


async def work_beside(hostile: list[RawMessage], tasks: list[RawMessage]) -> None:
    """Deliver hostile tasks, and tasks whose entries are hostile, before and after an honest one."""
    async with bus_with(hostile) as (server, coordinator):
        with tempfile.TemporaryDirectory() as folder:
            async with worker(worker_toml(Path(folder), server.url, agent=AGENT)) as process:
                for number, task_id in enumerate(IDS):
                    if number == MIDDLE:
                        await publish_messages(server.url, *tasks)
                        await coordinator.publish(AGENT, "say:here", task_type="test", task_id="honest")
                    await publish_messages(server.url, delivered(task_id))
                waited = await coordinator.wait(["honest"], agent=AGENT, timeout_s=BOUND_S)
                assert waited.settled["honest"].state == "completed"

                async def taken() -> bool:
                    [found] = [one for one in await coordinator.overview(AGENT) if one.agent == AGENT]
                    return found.waiting == 0

                await eventually(taken, "each task was delivered")
                assert process.popen.poll() is None
                said = process.log.read_text(encoding="utf-8")
                assert "Traceback" not in said, said
                assert "a fault of" not in said, said
        messages = await coordinator.results(newest=100)
        assert [one.result.task_id for one in messages if one.result].count("honest") == 1


MIDDLE: Final = len(IDS) // 2


def delivered(task_id: str) -> RawMessage:
    """A task as a foreign publisher sends it."""
    task = {"id": task_id, "from": "agent-main", "to": "agent-code", "type": "task.request", "task_type": "test"}
    return RawMessage(b"agent.code.tasks", encode({**task, "payload": {"content": "say:done"}}))

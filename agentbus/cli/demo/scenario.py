"""Runs the main job on a temporary bus, step by step, and stops at the first step that fails."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from agentbus.bus.setup import set_up
from agentbus.bus.topology import consumer_config
from agentbus.cli import output
from agentbus.config.toml_text import toml_text
from agentbus.config.urls import parse_urls
from agentbus.coordinator import Coordinator, connect
from agentbus.errors import DemoError
from agentbus.protocol import subjects
from agentbus.protocol.messages import Result
from agentbus.provision.nats_server import NatsServer, start_server
from agentbus.tasks.status import Waited
from agentbus_mcp.demo import publish_and_watch

_TIMEOUT_S = 60.0
"""For each step; on an idle machine the whole demo takes fifteen seconds."""
_LEASE_S = 2.0
"""In place of thirty seconds: step 4 waits until the lease expires."""
_TASKS = 8
_CONTENT = "A task that was accepted gets exactly one result, whatever dies on the way."


class _Report:
    """Prints the steps, and fails at the first that does not come out as expected."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def heading(self, text: str) -> None:
        output.line(output.Styled(f"\n{text}", bold=True))

    def note(self, text: str) -> None:
        output.line(f"      {text}")

    def check(self, holds: object, text: str) -> None:
        if not holds:
            output.line(output.Styled(f"  ✗   {text}", "red"))
            raise DemoError(f"the demo failed: {text}")
        output.line("  ", output.Styled("✓", "green"), f"   {text}  ({time.monotonic() - self._started:.1f} s)")


async def run() -> None:
    """Run all steps.

    Raises:
        DemoError: a step failed.
    """
    report = _Report()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentbus-demo-")))
        report.heading("1. A bus")
        server = await start_server(store=folder / "nats")
        servers = [server]
        stack.push_async_callback(lambda: servers[-1].stop())  # noqa: PLW0108  # a later step replaces the server
        main = await stack.enter_async_context(connect(server.url, name="agentbus demo"))
        report.check(main.bus.connected, f"nats-server {main.bus.server_version} runs at {server.url}")
        await _prepare(report, main)
        report.heading("2. Three workers of two agents, each a process of its own")
        workers = [await stack.enter_async_context(_worker(folder, server.url, agent, number))
                   for agent, number in (("code", 1), ("code", 2), ("doc", 1))]  # fmt: skip
        report.check(len(workers) == 3, "two workers of the agent `code` and one of `doc` wait for tasks")
        await _main_job(report, main)
        await _killed_worker(report, main, workers)
        await _killed_server(report, main, folder, servers)
        await _over_mcp(report, server.url)
        await _count_results(report, main)
    report.heading("Done. The bus, the workers and the folder are removed.")
    output.line("Next: `agentbus up` starts a bus that stays; the README goes on from there.")


async def _prepare(report: _Report, main: Coordinator) -> None:
    findings = await set_up(main.bus)
    for agent in ("code", "doc"):
        name = subjects.durable(agent)
        config = consumer_config(agent, name, ack_wait_s=_LEASE_S)
        await main.bus.create_consumer(subjects.TASKS_STREAM, name, config)
    made = [item.name for item in findings if item.outcome == "made"]
    report.check(len(made) == len(findings), f"its streams are made: {', '.join(made)}")


@asynccontextmanager
async def _worker(folder: Path, url: str, agent: str, number: int) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run `agentbus worker run` with the agent command of the demo; yield its process once it takes tasks."""
    home = folder / f"{agent}-{number}"
    home.mkdir()
    config = home / "agentbus.toml"
    command = [sys.executable, "-m", "agentbus.cli.demo.demo_agent", "{input}"]
    sections: dict[str, dict[str, Any]] = {
        "agent": {"id": agent, "chat_cmd": command},
        "worker": {"reconnect_time_wait_seconds": 0.2, "state_dir": home},
        "nats": {"url": url},
        "log": {"dir": home},
    }
    config.write_text(toml_text(sections), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentbus", "worker", "run", "--config", str(config),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(home)},  # one that is killed leaves the temporary folders of its runs
    )  # fmt: skip
    try:
        assert process.stderr is not None
        async with asyncio.timeout(_TIMEOUT_S):
            while b"ready for tasks" not in (line := await process.stderr.readline()):
                if not line:
                    raise DemoError(f"the demo failed: the worker did not start; see {home}")
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def _main_job(report: _Report, main: Coordinator) -> None:
    report.heading("3. The main job: give a task to two agents, wait, get both results")
    tasks = await main.publish_to(["code", "doc"], _CONTENT, task_type="count_words")
    for task in tasks:
        report.note(f"published {task.id} to {task.agent}")
    waited = await main.wait([task.id for task in tasks], timeout_s=_TIMEOUT_S)
    for task in tasks:
        status = waited.settled.get(task.id)
        text = str(status.result.result).strip() if status and status.result else "no result"
        report.check(text == f"{task.agent} counted 14 words.", f"result from {task.agent}: {text!r}")
    again = await main.publish("code", _CONTENT, task_type="count_words", task_id=tasks[0].id)
    report.check(
        again.known and again.state_at_publish == "completed",
        "published again under the same id: recognised, not rerun",
    )

    failing = await main.publish("code", "", task_type="make_coffee")
    asking = await main.publish("doc", "release/1.0", task_type="delete_branch")
    waited = await main.wait([failing.id, asking.id], timeout_s=_TIMEOUT_S)
    error = _result(waited, failing.id).error or ""
    report.check("I do not know how to do make_coffee" in error, f"a command that fails is a result too: {error!r}")
    asked = _result(waited, asking.id)
    report.check(asked.status == "needs_approval", f"an agent can stop and ask: {str(asked.result).splitlines()[-1]!r}")


def _result(waited: Waited, task_id: str) -> Result:
    status = waited.settled.get(task_id)
    if status is None or status.result is None:
        raise DemoError(f"the demo failed: no result for {task_id}")
    return status.result


async def _killed_worker(report: _Report, main: Coordinator, workers: list[asyncio.subprocess.Process]) -> None:
    report.heading("4. A worker dies in the middle of a task")
    task = await main.publish("code", "1.5", task_type="think")
    async with asyncio.timeout(_TIMEOUT_S):
        while (status := await main.task(task.id).status()).state != "working":  # noqa: ASYNC110  # the state is on the server
            await asyncio.sleep(0.05)
    claim = status.record.entry.claim
    owner = next(worker for worker in workers if claim and f"-{worker.pid}-" in claim.worker)
    owner.kill()
    report.note(f"{task.id} is run by the worker process {owner.pid}: killed with SIGKILL")
    waited = await main.wait([task.id], timeout_s=_TIMEOUT_S)
    status = waited.settled.get(task.id)
    report.check(
        status and status.state == "completed" and status.record.entry.attempt == 2,
        "the other worker of `code` saw the lease expire, took the task over and finished it (attempt 2)",
    )


async def _killed_server(report: _Report, main: Coordinator, folder: Path, servers: list[NatsServer]) -> None:
    report.heading("5. The server dies while a task runs")
    task = await main.publish("doc", "1", task_type="think")
    async with asyncio.timeout(_TIMEOUT_S):
        while (await main.task(task.id).status()).state != "working":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    servers[-1].kill()
    report.note("nats-server was killed with SIGKILL; it is started again on the same store")
    [at] = parse_urls(servers[-1].url)
    servers.append(await start_server(store=folder / "nats", port=at.port))
    waited = await main.wait([task.id], timeout_s=_TIMEOUT_S)
    report.check(task.id in waited.settled, "workers and coordinator reconnected, and the result is here")


async def _over_mcp(report: _Report, url: str) -> None:
    report.heading("6. The same through MCP, as Claude Code or Codex would do it")
    seen = await publish_and_watch(url, to=["code", "doc"], content=_CONTENT, task_type="count_words")
    report.note("a client has started `agentbus-mcp` over stdio and called publish_task, then watch_results")
    report.check("watch_results" in seen.tools, f"the server offers {', '.join(seen.tools)}")
    answers = sorted(result["output"].strip() for result in seen.watched["results"])
    wanted = ["code counted 14 words.", "doc counted 14 words."]
    report.check(answers == wanted, f"both results came back: {' '.join(answers)}")


async def _count_results(report: _Report, main: Coordinator) -> None:
    report.heading("7. The count")
    inbox = await main.results(newest=100)
    ids = [message.result.task_id for message in inbox if message.result]
    report.check(len(ids) == len(set(ids)) == _TASKS, f"{_TASKS} tasks published, {len(ids)} results, each task once")

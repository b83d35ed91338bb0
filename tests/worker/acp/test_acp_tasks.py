"""Tasks of an agent that speaks the Agent Client Protocol, by a real worker on a real bus."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.config.loading import load_worker
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.progress.redaction import REDACTED
from agentbus_worker.progress.run_progress import Progress
from support.acp_driver import AGENT
from support.conversing import done, run_of
from support.harness import eventually, processes_with, worker, worker_toml
from support.jobs import acknowledged, error, outcome, publish, settled, text
from support.pace import at_this_pace

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def config_for(folder: Path, server: NatsServer, *does: str, agent: dict[str, Any] | None = None, **keys: Any) -> Path:
    """The configuration of a worker whose agent does what is said, for each task in a folder of its own."""
    config = worker_toml(
        folder, server.url, chat_cmd=[*AGENT, *does, "--log", str(folder / "log")],
        worker={"workdir": folder / "tasks", **keys},
    )  # fmt: skip
    more = {"output": "acp", **(agent or {})}
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in more.items())
    config.write_text(config.read_text(encoding="utf-8").replace("[agent]\n", "[agent]\n" + lines), encoding="utf-8")
    return config


async def test_a_task_is_done_and_its_result_is_the_last_message(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    does = ("say=I begin.", "ask", "cost", "usage", "say=Done: ", "prompt")
    async with worker(config_for(tmp_path, server, *does, agent={"permissions": "allow", "acp_mode": "default"})):
        status = await outcome(coordinator, "a word: caterpillar")
        await acknowledged(coordinator)
    assert status.state == "completed"
    assert text(status).startswith("Done: You are the agent code.")
    assert "caterpillar" in text(status)
    run = status.run
    assert run is not None
    assert (run.format, run.kind, run.session, run.cost_usd, run.usage.output_tokens) == (
        "acp", "fake-agent", "s1", 0.25, 57
    )  # fmt: skip
    assert (tmp_path / "tasks" / status.task_id / "made").exists(), "the agent works in the folder of the task"
    assert status.result is not None
    kept = (status.result.model_extra or {})["transcript"]
    assert kept["bytes"] > 500


async def test_a_follow_up_goes_on_in_the_session_by_the_protocol_where_the_agent_can(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    async with worker(config_for(tmp_path, server, "cost", "say=Done.", keep_workdir=False)):
        first = await coordinator.publish("code", "x")
        before = await done(first)
        after = await done(await first.follow_up("and y"))
    assert (after["status"], after["result"]) == ("completed", "Done.")
    assert (run_of(after)["session"], run_of(after)["resumed"]) == ("s1", True)
    assert run_of(after)["place"] == run_of(before)["place"]
    assert (run_of(before)["cost_usd"], run_of(after)["cost_usd"]) == (0.25, 0), "the agent tells that of the session"
    told = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    opened = [one for one in told if one.get("method") in ("session/new", "session/load")]
    assert [one["method"] for one in opened] == ["session/new", "session/load"]
    assert opened[1]["params"]["cwd"] == str(tmp_path / "tasks" / first.id)
    async with worker(config_for(tmp_path, server, "no_load", "prompt", keep_workdir=False)):
        fresh = await done(await first.follow_up("and z", fresh=True))
        assert (fresh["status"], run_of(fresh)["resumed"]) == ("completed", False)
        assert "What came of it (completed):\nDone." in fresh["result"]
        gone = await done(await first.follow_up("and z"))
    assert gone["failure"]["code"] == "session_gone"


async def test_the_keys_of_mcp_servers_are_not_told_while_a_task_runs(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    servers = (
        '[agent.mcp_servers.docs]\ncommand = "docs"\nenv = {DOCS_KEY = "swordfish-42", DOCS_PLACE = "the-library"}\n'
        '[agent.mcp_servers.web]\nurl = "http://127.0.0.1:1/mcp"\nheaders = {X-Any = "caterpillar-42"}\n'
    )
    config = config_for(tmp_path, server)
    config.write_text(config.read_text(encoding="utf-8") + servers, encoding="utf-8")
    loaded, _ = load_worker(config)
    redact = Progress(coordinator.bus, loaded).redact
    assert redact("swordfish-42 the-library caterpillar-42") == f"{REDACTED} the-library {REDACTED}"


async def test_a_module_in_the_folder_of_a_task_is_none_of_the_driver(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    folder = tmp_path / "tasks" / "planted"
    folder.mkdir(parents=True)
    for name in ("asyncio", "json", "agentbus_worker"):
        (folder / f"{name}.py").write_text("raise SystemExit(9)\n", encoding="utf-8")
    async with worker(config_for(tmp_path, server, "say=Done.")):
        status = await outcome(coordinator, "x", task_id="planted")
        await acknowledged(coordinator)
    assert (status.state, text(status)) == ("completed", "Done.")


@linux_only
async def test_a_cancelled_task_is_cancelled_by_the_protocol_before_any_signal(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    """The agent notes the signal where it gets one; it is ended with all that it has started."""
    await set_up(coordinator.bus, ["code"])
    log = tmp_path / "log"
    async with worker(config_for(tmp_path, server, "notes_sigterm", "stays", "say=Hello.", "hang", "late")):
        task_id = await publish(coordinator, "x")
        await eventually(lambda: log.exists() and "session/prompt" in log.read_text(encoding="utf-8"), "it is prompted")
        assert processes_with(f"AGENTBUS_TASK_ID={task_id}")
        await coordinator.task(task_id).cancel("no more")
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
        await eventually(lambda: not processes_with(f"AGENTBUS_TASK_ID={task_id}"), "nothing of it is left")
    assert (status.state, text(status)) == ("cancelled", "Hello.a late part")
    told = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [one.get("method") or one["note"] for one in told[-2:]] == ["session/cancel", "SIGTERM"]


@linux_only
async def test_a_run_at_its_limit_is_cancelled_by_the_protocol_and_an_agent_that_does_not_listen_is_killed(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    does = ("ignores_sigterm", "stays", "say=Hello.", "hang_hard")
    async with worker(config_for(tmp_path, server, *does, task_timeout_seconds=at_this_pace(2))):
        status = await outcome(coordinator, "x")
        await acknowledged(coordinator)
        await eventually(lambda: not processes_with(f"AGENTBUS_TASK_ID={status.task_id}"), "nothing of it is left")
    assert status.failure is not None
    assert (status.failure.code, text(status)) == ("timeout", "Hello.")


async def test_an_agent_that_only_waits_has_stalled_and_one_that_cannot_log_in_pauses_its_worker(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    async with worker(config_for(tmp_path, server, "say=Hello.", "hang", stall_timeout_seconds=at_this_pace(1))):
        status = await outcome(coordinator, "x")
        await acknowledged(coordinator)
    assert status.failure is not None
    assert status.failure.code == "stalled"
    refused = '{"code": -32603, "message": "Internal error: invalid x-api-key", "data": {"errorName": "APIError"}}'
    config = config_for(tmp_path, server, f"error={refused}")
    async with worker(config) as going:
        task_id = await publish(coordinator, "x")
        await going.until_said("handed back unrun")
        await coordinator.task(task_id).cancel()
        assert (await settled(coordinator, task_id)).state == "cancelled"
    config = config_for(tmp_path, server, "say=I begin.", "tool", f"error={refused}")
    async with worker(config):
        status = await outcome(coordinator, "x")
    assert status.failure is not None
    assert (status.failure.code, error(status)) == ("auth", "invalid x-api-key: APIError")

"""A worker reads the events of agents: fake agents print what real ones were recorded to print."""

import asyncio
import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.protocol.ledger_entry import Setbacks
from agentbus.protocol.outcomes.run_report import Denied
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.output_store import read_file
from support.harness import eventually, run_cli, worker, worker_toml
from support.jobs import acknowledged, agent_keys, error, outcome, publish, settled, text
from support.pace import at_this_pace
from support.recorded_agents import recording

AGENTS = ["claude", "codex", "gemini", "opencode", "qwen"]


def replaying(folder: Path, agent: str, *cases: str) -> list[str]:
    """A command that prints what the agent printed in the case that is the first word of the task's content."""
    for case in cases:
        run = recording(agent, case)
        for pipe, lines in (("out", run.stdout), ("err", run.stderr)):
            (folder / f"{case}.{pipe}").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        (folder / f"{case}.side").write_bytes(run.side)
        (folder / f"{case}.code").write_text(str(run.exit_code), encoding="utf-8")
    names = "|".join(cases)
    script = (
        f"cd {shlex.quote(str(folder))}; case=$(printf %s \"$1\" | grep -oE 'play:({names});' | head -1); "
        "case=${case#play:}; case=${case%;}; cat $case.err >&2; cat $case.out; "
        '[ -z "$GEMINI_TELEMETRY_OUTFILE" ] || cat $case.side >"$GEMINI_TELEMETRY_OUTFILE"; exit $(cat $case.code)'
    )
    return ["sh", "-c", script, "agent", "{input}"]


def config_for(folder: Path, server: NatsServer, agent: str, *cases: str, **keys: Any) -> Path:
    more = {"concurrency": 4, **keys}
    return agent_keys(
        worker_toml(folder, server.url, chat_cmd=replaying(folder, agent, *cases), worker=more), output=agent
    )


@pytest.mark.parametrize("agent", AGENTS)
async def test_no_failed_work_is_completed(agent: str, tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    await set_up(coordinator.bus, ["code"])
    codes = {"ok": None, "tool": None, "empty": "empty", "refusal": "refused", "max_tokens": "truncated",
             "context": "context"}  # fmt: skip
    if agent in ("codex", "qwen"):
        codes["refusal"] = "empty"
    if agent == "qwen":  # it goes on by itself
        del codes["max_tokens"]
    if agent == "opencode":
        codes["denied"] = "denied"
    async with worker(config_for(tmp_path, server, agent, *codes, "auth")):
        ids = {case: await publish(coordinator, f"play:{case};") for case in codes}
        found = dict(zip(ids, await asyncio.gather(*(settled(coordinator, one) for one in ids.values())), strict=True))
        await acknowledged(coordinator)
        refused = coordinator.task(await publish(coordinator, "play:auth;"))

        async def back() -> Setbacks | None:
            return (await refused.status()).record.entry.setbacks

        assert (await eventually(back, "a task that met a refused key alone goes back")).code == "auth"
    assert {case: status.failure.code if status.failure else None for case, status in found.items()} == codes
    assert {case for case, status in found.items() if status.state == "completed"} == {"ok", "tool"}
    assert text(found["ok"]) == "The answer is 42."
    assert text(found["tool"]) == "I ran it. The answer is 42."
    for case, status in found.items():
        assert status.run is not None
        assert (status.run.format, status.run.kind) == (agent, agent)
        assert status.to_json(with_result=False)["run"] == status.run.figures.to_json()
        printed = "".join(line + "\n" for line in recording(agent, case).stdout).encode()
        result = status.record.entry.result or {}
        note = result["transcript"]
        assert (note["bytes"], note["sha256"]) == (len(printed), hashlib.sha256(printed).hexdigest())
        assert b"".join([piece async for piece in read_file(coordinator.bus, "code", note["name"])]) == printed
        assert "output" not in result


async def test_a_result_tells_what_the_run_was_not_permitted_used_and_cost(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with worker(config_for(tmp_path, server, "claude", "denied", "approval")):
        status = await outcome(coordinator, "play:denied;")
        asking = await outcome(coordinator, "play:approval;")
        await acknowledged(coordinator)
    run = status.run
    assert run is not None
    assert (status.state, asking.state) == ("completed", "needs_approval")
    assert run.denied == (Denied("Bash", "touch ../made_by_the_tool"),)
    assert (run.model, run.turns, run.usage.output_tokens) == ("claude-opus-5-5", 2, 114)
    assert run.cost_usd
    assert run.session
    ended = await run_cli("task", "get", status.task_id, "--nats-url", server.url)
    assert json.loads(ended.out)["result"]["run"]["cost_usd"] == run.cost_usd


async def test_a_format_that_the_worker_does_not_understand_is_read_as_text(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", "echo forty-two; exit 0", "agent", "{input}"])
    async with worker(agent_keys(config, output="claude")):
        status = await outcome(coordinator, "x")
        await acknowledged(coordinator)
    assert (status.state, text(status)) == ("completed", "forty-two\n")
    assert status.run is not None
    assert status.run.format == "text (fallback)"


async def test_a_last_message_that_is_too_long_for_the_result_is_stored_whole(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    whole = "é" * 4_000 + "the end"
    (tmp_path / "long").write_text(json.dumps({"type": "result", "result": whole}), encoding="utf-8")
    command = ["sh", "-c", f"cat {shlex.quote(str(tmp_path / 'long'))}", "agent", "{input}"]
    config = worker_toml(tmp_path, server.url, chat_cmd=command, worker={"inline_output_bytes": 1025})
    async with worker(agent_keys(config, output="claude")):
        status = await outcome(coordinator, "x")
        await acknowledged(coordinator)
    assert (status.state, text(status)) == ("completed", "é" * 512)
    assert status.output_note["bytes"] == len(whole.encode())
    pieces = [piece async for piece in coordinator.task(status.task_id).output()]
    assert b"".join(pieces).decode() == whole


async def test_a_code_of_a_failure_makes_a_task_run_again(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    again = {"retry_on": ["overloaded"], "retry_backoff_seconds": 0, "max_attempts": 2}
    async with worker(config_for(tmp_path, server, "claude", "overloaded", "context", **again)):
        status = await outcome(coordinator, "play:overloaded;")
        other = await outcome(coordinator, "play:context;")
        await acknowledged(coordinator)
    assert (status.record.entry.attempt, other.record.entry.attempt) == (2, 1)
    assert status.failure is not None
    assert (status.failure.code, status.failure.http_status) == ("overloaded", 529)
    assert error(status) == status.failure.message


async def test_a_run_that_is_ended_at_its_limit_says_what_the_agent_waited_for(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    command = replaying(tmp_path, "codex", "no_connection")
    command[2] = command[2].replace("exit $(cat $case.code)", "exec sleep 1000")
    config = worker_toml(tmp_path, server.url, chat_cmd=command, worker={"task_timeout_seconds": at_this_pace(1)})
    async with worker(agent_keys(config, output="codex")):
        status = await outcome(coordinator, "play:no_connection;")
        await acknowledged(coordinator)
    assert status.failure is not None
    assert status.failure.code == "timeout"
    assert "waiting for network" in error(status)

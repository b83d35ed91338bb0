"""Runs that get nowhere are ended long before their time, and healthy ones never: with fake agents that are silent."""

import asyncio
import json
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.status import TaskStatus
from support.harness import worker, worker_toml
from support.jobs import acknowledged, agent_keys, outcome, publish, settled, text
from support.recorded_agents import recording

FOR_EVER = "exec sleep 1000"
MORE_S = 10.0
"""In which an ended run is settled, on a busy machine."""


@dataclass(frozen=True)
class Acts:
    """What a fake agent does, by the name that the content of a task has: lines of a shell.

    `works` are healthy runs that say nothing for `silent_s`, the others are to be ended with that code.
    """

    agent: str
    silent_s: float

    def works(self) -> dict[str, str]:
        lines = recording(self.agent, "tool").stdout
        begun = 1 + next(number for number, line in enumerate(lines) if self._begins_a_tool(line))
        acts = {"silent_tool": f"{out(*lines[:begun])}; sleep {self.silent_s}; {out(*lines[begun:])}"}
        if self.agent != "opencode":  # which prints no part of an answer
            answer, piece_s = recording(self.agent, "ok").stdout, 0.5
            pieces = f"for n in $(seq {self.silent_s / piece_s:.0f}); do sleep {piece_s}; {self._part()}; done"
            acts["slow_answer"] = f"{out(*answer[:-2])}; {pieces}; {out(*answer[-2:])}"
        if self.agent == "claude":
            call = {"id": "toolu_1", "name": "Bash", "input": {"command": "git push"}}
            asks = {"type": "result", "result": "", "terminal_reason": "tool_deferred", "deferred_tool_use": call}
            acts["question"] = f"{out(json.dumps(asks))}; sleep {self.silent_s}"
        return acts

    def stalls(self) -> dict[str, str]:
        begun, retry = recording(self.agent, "tool").stdout[:1], self._retry()
        return {
            "silent": f"{out(*begun)}; {FOR_EVER}",
            "retries": f"{out(*begun)}; while :; do {retry}; sleep 0.3; done",
        }

    def hopeless(self) -> dict[str, str]:
        """Runs that have said something before: a task that met nothing else would go back, and is tried elsewhere."""
        match self.agent:
            case "claude":
                retries = [line for line in recording("claude", "auth").stdout if "api_retry" in line]
                said = '{"type":"assistant","message":{"id":"m","content":[{"type":"text","text":"I begin."}]}}'
                return {"auth": f"{out(said, *retries)}; {FOR_EVER}"}
            case "codex":
                log = "codex_core::responses_retry: retrying (1/5 in 3599.9s)... sampling_error=429 Too Many Requests"
                said = '{"type":"item.completed","item":{"type":"agent_message","text":"I begin."}}'
                return {"quota": f"{out(recording('codex', 'ok').stdout[0], said)}; {err(log)}; {FOR_EVER}"}
            case _:
                return {}

    def _begins_a_tool(self, line: str) -> bool:
        whole = '"content":[{"type":"tool_use"'  # not the parts of it that are printed before
        before = {"claude": whole, "qwen": whole, "codex": "item.started", "opencode": '"type":"text"'}
        return before.get(self.agent, '"tool_use"') in line

    def _part(self) -> str:
        if self.agent == "gemini":
            return out('{"type":"message","role":"assistant","content":" ","delta":true}')
        if self.agent == "codex":
            return err('INFO codex_otel.log_only: event.name="codex.sse_event" event.kind=response.output_text.delta')
        return out('{"type":"stream_event","event":{"type":"content_block_delta","index":0}}')

    def _retry(self) -> str:
        match self.agent:
            case "claude" | "codex":
                run = recording(self.agent, "no_connection")
                return out(next(line for line in run.stdout if "api_retry" in line or "Reconnecting" in line))
            case "gemini" | "qwen":
                run = recording(self.agent, "rate_limit")
                return err(next(line for line in run.stderr if "Attempt 1" in line or "Retrying" in line))
            case _:
                return err('message="stream error" small=false error.error="AI_APICallError: Unable to connect"')


def out(*lines: str) -> str:
    return "printf '%s\\n' " + shlex.join(lines) if lines else ":"


def err(*lines: str) -> str:
    return out(*lines) + " >&2"


def acting(folder: Path, agent: str, acts: dict[str, str]) -> list[str]:
    """A command that does what the first word of the task's content names."""
    for name, script in acts.items():
        (folder / f"{name}.sh").write_text(script, encoding="utf-8")
    names = "|".join(acts)
    find = f'act=$(printf %s "$1" | grep -oE "act:({names});" | head -1); act=${{act#act:}}'
    return ["sh", "-c", f'{find}; cd {shlex.quote(str(folder))}; exec sh "${{act%;}}.sh"', "agent", "{input}"]


def code_of(status: TaskStatus) -> str | None:
    return status.failure.code if status.failure else None


@pytest.mark.parametrize(
    ("agent", "stall_s", "silent_s"),
    [
        ("claude", 3, 6),
        *(
            pytest.param(agent, 3, 30, marks=pytest.mark.long)
            for agent in ("claude", "codex", "gemini", "opencode", "qwen")
        ),
    ],
)
async def test_only_runs_that_get_nowhere_are_ended(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, agent: str, stall_s: float, silent_s: float
):
    await set_up(coordinator.bus, ["code"])
    acts = Acts(agent, silent_s)
    works, stalls, hopeless = acts.works(), acts.stalls(), acts.hopeless()
    command = acting(tmp_path, agent, works | stalls | hopeless)
    limits = {"stall_timeout_seconds": stall_s, "task_timeout_seconds": 200, "concurrency": 8}
    async with worker(agent_keys(worker_toml(tmp_path, server.url, chat_cmd=command, worker=limits), output=agent)):
        ids = {act: await publish(coordinator, f"act:{act};") for act in works | stalls | hopeless}
        found = dict(zip(ids, await asyncio.gather(*(settled(coordinator, one) for one in ids.values())), strict=True))
        await acknowledged(coordinator)
    results = {act: status.record.entry.result or {} for act, status in found.items()}
    for act in works:
        assert (code_of(found[act]), found[act].state) == (None, "needs_approval" if act == "question" else "completed")
        assert results[act]["duration_seconds"] >= silent_s
    assert text(found["silent_tool"]) == "I ran it. The answer is 42."
    for act in stalls:
        failure = found[act].failure
        assert failure is not None
        assert failure.code == "stalled"
        assert f"made no progress for {stall_s} s and was ended" in failure.message
        assert stall_s <= results[act]["duration_seconds"] < stall_s + MORE_S
    told = {"claude": "try 1 of", "codex": "waiting for network", "gemini": "429", "qwen": "Rate limit reached",
            "opencode": "Unable to connect"}  # fmt: skip
    assert found["retries"].failure is not None
    assert told[agent] in found["retries"].failure.message
    for code in hopeless:
        assert code_of(found[code]) == code
        assert results[code]["duration_seconds"] < MORE_S


async def test_a_wait_of_an_hour_ends_the_run_at_once_and_the_result_says_for_how_long(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    stubborn = {code: f"trap '' TERM; {script}" for code, script in Acts("codex", 0).hopeless().items()}
    limits = {"task_timeout_seconds": 200, "kill_grace_seconds": 100}
    config = worker_toml(tmp_path, server.url, chat_cmd=acting(tmp_path, "codex", stubborn), worker=limits)
    async with worker(agent_keys(config, output="codex")) as child:
        begun = time.monotonic()
        status = await outcome(coordinator, "act:quota;")
        await acknowledged(coordinator)
        took_s = time.monotonic() - begun
    failure = status.failure
    assert failure is not None
    assert (failure.code, failure.http_status, failure.retry_after_s) == ("quota", 429, 3599.9)
    assert failure.message == "was to wait 3600 s before its next try and was ended: 429 Too Many Requests"
    assert took_s < 2 * MORE_S
    assert child.said("was to wait 3600 s before its next try and was ended")
    assert not child.said("Too Many Requests"), "what a command printed is not logged"


async def test_codex_is_asked_for_the_log_that_says_what_it_waits_for_unless_the_worker_has_a_choice_of_its_own(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    answer = [line for line in recording("codex", "ok").stdout if "agent_message" not in line]
    message = '{"type":"item.completed","item":{"type":"agent_message","text":"%s"}}'
    script = f"{out(*answer[:-1])}; printf '{message}\\n' \"$RUST_LOG\"; {out(answer[-1])}"
    config = worker_toml(tmp_path, server.url, chat_cmd=acting(tmp_path, "codex", {"log": script}))
    agent_keys(config, output="codex")
    async with worker(config, env={"RUST_LOG": "debug"}):
        assert text(await outcome(coordinator, "act:log;")) == "debug"
    async with worker(config):
        assert "codex_core::responses_retry=warn" in text(await outcome(coordinator, "act:log;"))
        await acknowledged(coordinator)

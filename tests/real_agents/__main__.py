"""`make real-agents`: what becomes of the work of real agents, in success and in each failure of a model.

Each agent is run by a real worker on a real bus with the command of its preset, against a model server that fails as it
is told to. Prints a table of agents and cases: status, code of the failure, seconds until it was known; then what each
failure says. Exits with 1 where a cell is not what `expected.toml` says.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from agentbus import Coordinator, PublishedTask, Result, connect
from agentbus.bus.setup import set_up
from agentbus.config.toml_text import toml_text
from agentbus.protocol.json_codec import Json, object_in
from agentbus.provision.agent_presets import PRESETS
from agentbus.provision.nats_server import start_server
from agentbus.visible_text import one_line
from real_agents.agents import ALL_AGENTS, CASES, CONVERSATIONS, EDIT_CASES, MORE_CASES, PERSON_CASES, PROMPT, cases_of
from real_agents.conversing import answer_person, converse, keys_of
from real_agents.editing import Edit
from real_agents.judging import Cell, expected, judged, seconds_of
from real_agents.model_server import model_server
from real_agents.record import closed_port
from support.harness import Process, process

ALL_CASES: Final = tuple(
    case for case in (*CASES, *MORE_CASES, *PERSON_CASES, *CONVERSATIONS, *EDIT_CASES) if case != "resumed"
)  # that needs a session
STALL_S: Final = 30.0
"""The limit of the workers for a run that does nothing: shorter than `long_tool` and `slow` take."""
_SILENT_S: Final[dict[tuple[str, str], float]] = {("qwen", "slow"): 90.0, ("opencode", "slow"): 90.0}
"""How much longer than others these may say nothing. Before Qwen Code ends, it asks its model once more what to
remember, for as long as an answer takes. OpenCode prints an answer once it is complete; its workers need a limit that
is longer than that."""
LONGEST_S: Final = 180.0
_READY_S: Final = 60.0
_SLACK_S: Final = 10.0
_SHOWN_CHARS: Final = 300


class _Runs:
    """The runs of one agent, each by a worker of its own: one that meets a fault of the account pauses.

    It hands such a task back. Here it is told to go on at once, and fails the task when it meets the fault again.
    """

    def __init__(self, bus: Coordinator, url: str, name: str, folder: Path, command: list[str], model: str) -> None:
        self._bus = bus
        self._url = url
        self._name = name
        self._folder = folder
        self._command = command
        self._model = model
        self.results: dict[str, dict[str, Json]] = {}

    async def run(self, cases: list[str], options: argparse.Namespace, stall_s: float) -> None:
        """Run cases side by side. With a `stall_s` of 0 there is no limit for runs that do nothing."""
        turns = asyncio.Semaphore(options.jobs)

        async def in_turn(case: str) -> None:
            async with turns:
                await self._one(case, options, stall_s)

        await asyncio.gather(*(in_turn(case) for case in cases))

    async def _one(self, case: str, options: argparse.Namespace, stall_s: float) -> None:
        task_id = case.replace("_", "-")
        agent, folder = f"{self._name}-{task_id}", self._folder / task_id
        tmp = folder / "tmp"
        tmp.mkdir(parents=True)
        quiet_s = _SILENT_S.get((self._name, case), 0.0)
        edit = Edit(folder) if case in EDIT_CASES else None
        config = self._configuration(agent, case, folder, options, stall_s + quiet_s, edit)
        argv = [sys.executable, "-m", "agentbus", "worker", "run", "--config", str(config)]
        # A home without settings of the person who runs this: workers ask Gemini CLI for telemetry where it has none.
        own = {key: value for key, value in os.environ.items() if not key.startswith(("GEMINI_", "OTEL_"))}
        with process(argv, folder / "worker.log", env={**own, "TMPDIR": str(tmp), "HOME": str(folder)}) as worker:
            await worker.until_said("ready for tasks", timeout_s=_READY_S)
            if edit is not None:
                result = await edit.run(self._bus, agent, self._url)
            elif case in CONVERSATIONS:
                result = await converse(self._bus, agent, case, folder, self._model)
            else:
                task = await self._bus.publish(agent, PROMPT, task_type="test", task_id=task_id)
                if case == "cancel":
                    await self._cancel(task, worker)
                if case in PERSON_CASES:
                    approve = case == "person_approves"
                    result = await answer_person(self._bus, self._url, task, folder, approve=approve)
                else:
                    result = (await self._result(task)).to_json()
            worker.terminate()
            await worker.exit_code(timeout_s=_READY_S)
        left = [path.name for path in tmp.iterdir() if path.name.startswith("agentbus-")]
        assert not left, f"temporary folders of {agent} are left: {left}"
        if PRESETS[self._name].output == "acp":
            made = (folder / "tasks" / "made_by_the_tool").exists()
            assert made == (case in ("permitted", "person_approves")), (
                f"{agent}: the tool {'has' if made else 'has not'} done its work"
            )
        self.results[case] = result
        code = object_in(result.get("failure")).get("code") or result["status"]
        print(f"{self._name} {case}: {code}, {result.get('duration_seconds')} s", file=sys.stderr, flush=True)

    async def _cancel(self, task: PublishedTask, worker: Process) -> None:
        """Cancel a task whose model has begun an answer, and does not go on with it."""
        await worker.until_said("started", timeout_s=_READY_S)
        await asyncio.sleep(2 * seconds_of(self.results["ok"]))  # an agent takes so long to begin
        await task.cancel("enough")

    async def _result(self, task: PublishedTask) -> Result:
        """Wait for a result, and let the worker go on once, if it has paused."""
        found = asyncio.create_task(task.result())
        while not found.done() and (await task.status()).record.entry.setbacks is None:
            await asyncio.wait({found}, timeout=1)
        if not found.done():
            await self._bus.resume_agent(task.agent)
        return await found

    def _configuration(
        self, agent_id: str, case: str, folder: Path, options: argparse.Namespace, stall_s: float, edit: Edit | None
    ) -> Path:
        preset = PRESETS[self._name]
        agent = {"id": agent_id, "chat_cmd": self._command, "prompt_via": preset.prompt_via, "output": preset.output,
                 "setback_limit_seconds": 0}  # fmt: skip
        keys: dict[str, Any] = {
            "task_timeout_seconds": options.longest, "max_attempts": 1, "retry_on": [],
            "state_dir": folder / "state", **({} if edit else {"workdir": folder / "tasks"}),
        }  # fmt: skip
        if preset.output == "acp":
            agent["permissions"] = {"permitted": "allow", **dict.fromkeys(PERSON_CASES, "ask")}.get(case, "deny")
        if case in CONVERSATIONS:
            agent |= keys_of(case, self._command)
        if preset.acp_mode:
            agent["acp_mode"] = preset.acp_mode
        if preset.output == "text":
            agent["chat_cmd"] = [*self._command, "{input}"]
        else:
            keys["stall_timeout_seconds"] = stall_s
        path = folder / "worker.toml"
        sections = {"agent": agent, "worker": keys, "nats": {"url": self._url}, "log": {"dir": folder / "log"},
                    **(edit.sections() if edit else {})}  # fmt: skip
        path.write_text(toml_text(sections), encoding="utf-8")
        path.chmod(0o600)
        return path


async def run_all(options: argparse.Namespace) -> list[Cell]:
    """Run the agents one after the other, each in several cases at a time."""
    rows = expected()
    tools = options.tools.resolve()
    cells: list[Cell] = []
    with contextlib.ExitStack() as stack:
        # Not below /tmp: there the sandbox of codex lets its tools write.
        root = Path(stack.enter_context(
            tempfile.TemporaryDirectory(prefix="real-agents-", dir="/var/tmp", ignore_cleanup_errors=True)
        ))  # fmt: skip
        model, closed = stack.enter_context(model_server()), stack.enter_context(closed_port())
        server = await start_server(store=root / "bus")
        try:
            async with connect(server.url) as bus:
                await set_up(bus.bus)
                for name in options.presets:
                    folder = root / name
                    folder.mkdir()
                    command = [sys.executable, "-m", "real_agents.in_case", name, str(tools), str(folder / "homes"),
                               model, closed]  # fmt: skip
                    runs = _Runs(bus, server.url, name, folder, command, model)
                    await runs.run(["ok"], options, 0)
                    ok_s = seconds_of(runs.results["ok"])
                    # A busy machine takes long for the start of an agent, which does nothing meanwhile.
                    cases = [case for case in options.cases if case in cases_of(name)]
                    await runs.run([case for case in cases if case != "ok"], options,
                                   max(options.stall, 2 * ok_s + _SLACK_S))  # fmt: skip
                    cells += [judged(name, case, runs.results[case], ok_s, rows.get(case, {})) for case in cases]
        finally:
            await server.stop()
    return cells


def table(cells: list[Cell]) -> str:
    """Return the table, as Markdown, and what each failure says."""
    agents = list(dict.fromkeys(cell.agent for cell in cells))
    found = {(cell.agent, cell.case): cell for cell in cells}
    lines = [f"| case | {' | '.join(agents)} |", f"|---|{'---|' * len(agents)}"]
    for case in dict.fromkeys(cell.case for cell in cells):
        shown = [found.get((agent, case)) for agent in agents]
        texts = [f"{'WRONG ' if one.wrong else ''}{one.became} {one.seconds:.1f} s" if one else "" for one in shown]
        lines.append(f"| {case} | {' | '.join(texts)} |")
    lines.append("")
    for cell in cells:
        lines.append(f"{cell.agent} {cell.case}: {one_line(cell.text)[:_SHOWN_CHARS]}")
        if cell.wrong:
            lines.append(f"    WRONG: {cell.wrong}")
    return "\n".join(lines)


def main() -> int:
    """Run what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="real_agents", description=__doc__)
    parser.add_argument("--tools", type=Path, required=True, help="the folder with node/ and npm/, see the Makefile")
    parser.add_argument("--presets", nargs="*", default=list(ALL_AGENTS), choices=list(ALL_AGENTS))
    parser.add_argument("--cases", nargs="*", default=list(ALL_CASES), choices=ALL_CASES)
    parser.add_argument("--jobs", type=int, default=6, help="how many runs of an agent there are at once")
    parser.add_argument("--stall", type=float, default=STALL_S, help="stall_timeout_seconds of the workers")
    parser.add_argument("--longest", type=float, default=LONGEST_S, help="task_timeout_seconds of the workers")
    parser.add_argument("--record", type=Path, help="write the cells to this file, as JSON lines")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    begun = time.monotonic()
    cells = asyncio.run(run_all(options))
    print(table(cells))
    if options.record:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        options.record.write_text("".join(json.dumps(asdict(cell)) + "\n" for cell in cells), encoding="utf-8")
    wrong = [cell for cell in cells if cell.wrong]
    print(f"\n{len(cells)} runs in {time.monotonic() - begun:.0f} s; {len(wrong)} are not as expected")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Records what the real agents print in success and in each failure of a model: `make record-agents`.

Each run is a file `tests/recorded/agents/AGENT/CASE.jsonl`: its first line says which version was run and how it ended,
each further line is one line of standard output (`out`) or of standard error (`err`), in the order in which it came, or
a record of the file that the agent writes beside (`side`): one of a response of the model, without what it says of the
machine.
Paths of the machine, ports and keys are replaced, and what is long is cut, without making JSON invalid.
"""

import argparse
import contextlib
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, cast

from agentbus_worker.formats.readers import READERS
from real_agents.agents import AGENTS, CASES, NO_SESSION, PROMPT, command_of
from real_agents.model_server import STOPPING, model_server

RECORDED: Final = Path(__file__).resolve().parents[1] / "recorded" / "agents"
_LONGEST_S: Final = 130.0
_LONGEST_OF_A_HANG_S: Final = 45.0
"""A run of a model that stands still is ended after this time, as the worker would end it: no line comes any more."""
_MOST_LINES: Final = 40
_MOST_CHARS: Final = 600
_MOST_ITEMS: Final = 6


def _shortened(value: Any) -> Any:
    """Cut long texts and lists in a value of JSON."""
    if isinstance(value, str):
        return value if len(value) <= _MOST_CHARS else value[:_MOST_CHARS] + "…"
    if isinstance(value, list):
        return [_shortened(item) for item in cast("list[Any]", value)[:_MOST_ITEMS]]
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in cast("dict[str, Any]", value).items()}
    return value


def _scrubbed(line: str, private: Sequence[tuple[str, str]]) -> str:
    for found, instead in private:
        line = line.replace(found, instead).replace(found.replace("/", "-"), instead.replace("/", "-"))
    line = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:4000", line)
    line = re.sub(r"-var-tmp-real-agent-[\w-]{9,10}task", "-srv-task", line)
    try:
        value = json.loads(line)
    except ValueError:
        return line[:_MOST_CHARS]
    if not isinstance(value, (dict, list)):
        return line[:_MOST_CHARS]
    return json.dumps(_shortened(value), ensure_ascii=False, separators=(",", ":"))


def _read(pipe: Any, name: str, lines: "queue.SimpleQueue[tuple[str, str]]") -> None:
    with pipe:
        for line in pipe:
            lines.put((name, line.decode(errors="replace").rstrip("\n")))


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)


def record(name: str, case: str, url: str, tools: Path) -> list[dict[str, Any]]:
    """Run an agent in a home and a folder of its own, and return what the file of this case holds."""
    # Not below /tmp: there the sandbox of codex lets its tools write.
    with tempfile.TemporaryDirectory(prefix="real-agent-", dir="/var/tmp", ignore_cleanup_errors=True) as root:
        for folder in ("home", "task", "tmp"):
            Path(root, folder).mkdir()
        environment = {
            "PATH": f"{tools / 'node' / 'bin'}:{tools / 'npm' / 'node_modules' / '.bin'}:/usr/bin:/bin",
            "HOME": f"{root}/home",
            "TMPDIR": f"{root}/tmp",
            "LANG": "C.UTF-8",
            **AGENTS[name].setup(Path(root, "home"), f"{url}/{case}", case),
        }
        asked = READERS[name].side_file
        side = Path(root, "tmp", asked.name) if asked is not None else None
        if asked is not None:
            environment |= {**asked.environment, asked.variable: str(side)}
        limit_s = _LONGEST_OF_A_HANG_S if case in (*STOPPING[1:], "loop") else _LONGEST_S
        session = NO_SESSION if case == "unknown_session" else None
        if case == "resumed":
            session = _session_in(_run(command_of(name, case), Path(root, "task"), environment, limit_s)[1])
            if side is not None:
                side.unlink(missing_ok=True)
        words = command_of(name, case, session)
        ended, printed = _run(words, Path(root, "task"), environment, limit_s)
        private = [
            (f"{root}/home", "/home/agent"),
            (f"{root}/task", "/srv/task"),
            (root, "/var/tmp/agent"),
            (str(tools), "/opt/agents"),
        ]
        lines = bounded([{kind: _scrubbed(line, private)} for kind, line in printed])
        if side is not None and side.exists():
            lines += [{"side": _scrubbed(record, private)} for record in _responses(side.read_text(encoding="utf-8"))]
        return [{"agent": name, "version": AGENTS[name].version, "case": case, "command": words, **ended}, *lines]


def _responses(text: str) -> list[str]:
    """Return the last records of responses in a file of telemetry, each on one line."""
    found: list[str] = []
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        value, end = decoder.raw_decode(text, at)
        if value.get("attributes", {}).get("event.name") == "gemini_cli.api_response":
            value.pop("resource", None)
            found.append(json.dumps(value))
        at = text.find("{", end)
    return found[-_MOST_ITEMS:]


def bounded(lines: list[dict[str, str]]) -> list[dict[str, str]]:
    """Keep the first and the last lines of standard output, and the last ones of standard error but for its stacks."""
    out = [number for number, line in enumerate(lines) if "out" in line]
    err = [number for number, line in enumerate(lines) if not line.get("err", "    at ").startswith("    at ")]
    kept = {*out[: _MOST_LINES // 2], *out[-_MOST_LINES // 2 :], *err[-_MOST_LINES // 2 :]}
    return [line for number, line in enumerate(lines) if number in kept]


def _run(
    words: list[str], folder: Path, environment: dict[str, str], limit_s: float
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Run a command with the prompt on its standard input; returns how it ended, and the lines with their pipe."""
    begun = time.monotonic()
    process = subprocess.Popen(
        words, cwd=folder, env=environment, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    lines: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    readers = [
        threading.Thread(target=_read, args=(pipe, kind, lines), daemon=True)
        for kind, pipe in (("out", process.stdout), ("err", process.stderr))
    ]
    for reader in readers:
        reader.start()
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(PROMPT.encode())
        process.stdin.close()
    ended = "exited"
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        ended = "timeout"
    seconds = round(time.monotonic() - begun, 1)
    _end(process)
    for reader in readers:
        reader.join(10)
    printed: list[tuple[str, str]] = []
    while not lines.empty():
        printed.append(lines.get())
    return {"ended": ended, "exit_code": process.returncode, "seconds": seconds}, printed


def _session_in(printed: list[tuple[str, str]]) -> str:
    """Return the session that the lines of an agent name."""
    text = "\n".join(line for kind, line in printed if kind == "out")
    found = re.search(r'"(?:session_id|thread_id|sessionID)":\s*"([^"]+)"', text)
    assert found is not None, text
    return found[1]


@contextlib.contextmanager
def closed_port() -> Generator[str]:
    """Keep a port on which nothing listens, for the length of the block."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def _record_into(name: str, case: str, url: str, tools: Path, folder: Path) -> str:
    lines = record(name, case, url, tools)
    path = folder / name / f"{case}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8", newline="\n")
    head = lines[0]
    return f"{name} {case}: {head['ended']} {head['exit_code']} after {head['seconds']} s, {len(lines) - 1} lines"


def main() -> int:
    """Record the agents and cases that are named, or all; says of each how it ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=Path, required=True, help="the folder with node/ and npm/, see the Makefile")
    parser.add_argument("--agents", nargs="*", default=list(AGENTS), choices=list(AGENTS))
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--into", type=Path, default=RECORDED)
    parser.add_argument("--jobs", type=int, default=4, help="how many agents run at once")
    options = parser.parse_args()
    missing = [name for name in options.agents if not (options.tools / "npm/node_modules/.bin" / name).exists()]
    for name in missing:
        print(f"{name} is not installed in {options.tools}", file=sys.stderr)
    with model_server() as url, closed_port() as closed, ThreadPoolExecutor(options.jobs) as pool:
        runs = [
            pool.submit(_record_into, name, case, closed if case == "no_connection" else url,
                        options.tools.resolve(), options.into)
            for case in options.cases for name in options.agents if name not in missing
        ]  # fmt: skip
        for run in runs:
            print(run.result(), flush=True)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())

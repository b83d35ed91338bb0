"""`make conformance`: runs both, prints what came out, and ends with exit code 1 if anything was not as expected.

The product is set beside `product-*.yml`, which list every failure that is expected of it and why. The application of
fixtures, made of our server class, must pass all that each revision of the specification requires, and all of Tasks.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from agentbus.bus.setup import set_up
from agentbus.coordinator import connect
from agentbus.provision.nats_server import run_server
from support.harness import ROOT, Process, process

REVISIONS = ("2025-11-25", "2026-07-28")
TASKS = (
    "tasks-lifecycle",
    "tasks-capability-negotiation",
    "tasks-wire-fields",
    "tasks-request-state-removal",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-dispatch-and-envelope",
    "tasks-status-notifications",
    "tasks-required-task-error",
    "tasks-mrtr-composition",
)
"""The scenarios of the extension. A revision runs them without counting them, so each is run by its name as well."""
EXPECTED = Path(__file__).parent
_WITHIN_S = 300


@dataclass
class Report:
    """What was run, and what was wrong with it."""

    folder: Path
    lines: list[str] = field(default_factory=list[str])
    wrong: int = 0

    def add(self, what: str, said: str, *, good: bool, output: str) -> None:
        self.lines.append(f"{'ok    ' if good else 'WRONG '} {what}: {said}")
        print(self.lines[-1], flush=True)
        if not good:
            self.wrong += 1
            print(output, flush=True)


@dataclass(frozen=True)
class Tools:
    """A folder with Node (`bin`), and the suite and the inspector as npm installs them (`node_modules`)."""

    root: Path

    async def run(self, tool: str, *arguments: str, cwd: Path) -> tuple[int, str]:
        environment = {**os.environ, "PATH": f"{self.root / 'bin'}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}
        program = self.root / "node_modules" / ".bin" / tool
        child = await asyncio.create_subprocess_exec(
            program, *arguments, cwd=cwd, env=environment, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_WITHIN_S):
                out, _ = await child.communicate()
        except TimeoutError:
            child.kill()
            await child.wait()
            return 124, f"it did not end within {_WITHIN_S} s"
        return child.returncode or 0, out.decode()


async def suite(tools: Tools, report: Report, name: str, url: str, *arguments: str) -> None:
    """One run of the conformance suite. Its exit code says whether all was as expected."""
    results = report.folder / name.replace(" ", "-")
    code, out = await tools.run(
        "conformance", "server", "--url", url, "-o", str(results), *arguments, cwd=report.folder
    )
    checks = [check for file in results.rglob("checks.json") for check in json.loads(file.read_text(encoding="utf-8"))]
    count = Counter(check["status"] for check in checks)
    said = ", ".join(f"{number} {status.lower()}" for status, number in sorted(count.items()) if status != "INFO")
    if code == 0 and count["FAILURE"]:
        said += ": failures are expected, or not counted by the suite"
    # A run that has checked nothing is no success, unless the suite itself says that it has skipped it.
    good = code == 0 and count["SUCCESS"] + count["SKIPPED"] > 0
    report.add(name, said or "nothing was checked", good=good, output=out)


async def inspect(tools: Tools, report: Report, url: str) -> None:
    """The inspector's command line lists and calls the tools, in both eras."""
    server = [url, "--transport", "http", "--format", "json", "-q"]
    listing = [*server, "--method", "tools/list", "--strict"]
    call = [*server, "--method", "tools/call", "--tool-name", "list_agents"]
    for era in ("legacy", "modern"):
        for what, arguments, expected in (("lists", listing, "publish_task"), ("calls", call, "agents")):
            code, out = await tools.run("mcp-inspector", "--cli", *arguments, "--protocol-era", era, cwd=report.folder)
            good = code == 0 and expected in out
            strict = ", --strict" if what == "lists" else ""
            report.add(f"the inspector {what} the tools, {era} era{strict}", f"exit code {code}", good=good, output=out)


async def served(stack: AsyncExitStack, argv: Sequence[str], log: Path) -> str:
    """Start a server for as long as the stack is open; returns its URL."""
    child: Process = stack.enter_context(process([sys.executable, *argv], log))
    await child.until_said('{"url":')
    return next(
        json.loads(line)["url"] for line in log.read_text(encoding="utf-8").splitlines() if line.startswith('{"url":')
    )


async def run(tools: Tools, folder: Path) -> int:
    report = Report(folder)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(run_server(store=folder / "nats"))
        coordinator = await stack.enter_async_context(connect(server.url))
        await set_up(coordinator.bus)
        at = ["--http", "127.0.0.1:0", "--nats-url", server.url]
        product = await served(stack, ["-m", "agentbus_mcp", *at], folder / "product.log")
        fixture = await served(stack, ["-m", "system.conformance.application", server.url], folder / "fixture.log")
        for revision in REVISIONS:
            await suite(tools, report, f"fixtures {revision}", fixture, "--requirements", revision)
        for scenario in TASKS:
            await suite(tools, report, f"fixtures {scenario}", fixture, "--scenario", scenario)
        for revision in REVISIONS:
            expected = ["--expected-failures", str(EXPECTED / f"product-{revision}.yml")]
            await suite(tools, report, f"product {revision}", product, "--requirements", revision, *expected)
        await inspect(tools, report, product)
    print(f"{len(report.lines) - report.wrong} passed, {report.wrong} failed; logs and results: {folder}")
    return int(report.wrong > 0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("--tools", type=Path, required=True, help="a folder with bin/node and node_modules")
    parser.add_argument("--output", type=Path, help="where logs and results go (default: a new folder under /tmp)")
    arguments = parser.parse_args()
    folder: Path = arguments.output or Path(tempfile.mkdtemp(prefix="agentbus-conformance-"))
    folder.mkdir(parents=True, exist_ok=True)
    return asyncio.run(run(Tools(arguments.tools.absolute()), folder.absolute()))


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())

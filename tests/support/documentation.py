"""Reading the pages of the documentation: their blocks and tables, and following what they say."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from agentbus.config.loading import URL_VARIABLE
from support.harness import BOUND_S, ROOT, Ran, eventually, process

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPERATIONS = ROOT / "docs" / "operations.md"
"""Its commands are run by tests/system/test_operations.py."""
EXAMPLES = ROOT / "docs" / "examples"
PORT = "7422"


# -- reading the pages -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block, with what the comment before it says that the test does with it."""

    page: Path
    line: int
    marker: str
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def until(self) -> str:
        """The text that the marker waits for."""
        found = re.search(r', until it prints "(.+)"$', self.marker)
        return found[1] if found else ""


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    inside, start, language, marker = False, 0, "", ""
    for number, line in enumerate(lines, 1):
        fence = re.fullmatch(r"```(\w*)", line.strip())
        if fence is None:
            continue
        if not inside:
            comment = re.fullmatch(r"<!-- test: (.+) -->", lines[number - 2].strip()) if number > 1 else None
            inside, start, language, marker = True, number, fence[1], comment[1] if comment else ""
        else:
            yield Block(page, start, marker, language, "\n".join(lines[start : number - 1]) + "\n")
            inside = False
    assert not inside, f"{page}: the block of line {start} does not end"


ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]
KINDS = {
    r"run": "bash",
    r"run on an empty store": "bash",
    r'run, until it prints ".+"': "bash",
    r'start, until it prints ".+"': "bash",
    r"write \S+": "toml",
    r"the output before, with other ids, times and numbers": "json",
    r"worker configuration": "toml",
    r"worker configurations, one for each chat_cmd; .+ not runnable here: .+": "toml",
    r"coordinator configuration": "toml",
    r"MCP server in JSON": "json",
    r"MCP server in TOML": "toml",
    r"a task": "json",
    r"configuration of the bus for a leaf": "text",
    r"configuration of a leaf": "text",
    r"Kubernetes": "yaml",
    r"same as \S+": "python",
    r"rules of Prometheus": "yaml",
    r"not a command": "text",
    r"not runnable here: .+": "bash",
}


def marked(pattern: str, page: Path | None = None) -> list[Block]:
    """The blocks with such a marker, on all pages or on one."""
    return [block for block in ALL_BLOCKS if re.fullmatch(pattern, block.marker) and page in (None, block.page)]


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of all tables under a heading, cell by cell, without their head."""
    text = page.read_text(encoding="utf-8")
    section = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"{page.name} has no heading {heading!r}"
    rows: list[list[str]] = []
    for line in section[2].splitlines():
        if line.startswith("|---"):
            rows.pop()
        elif line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def code(cell: str) -> list[str]:
    """What stands in back-ticks in a cell."""
    return re.findall(r"`([^`]+)`", cell)


# -- following a page ---------------------------------------------------------------------------------------------


class Reader:
    """Somebody who follows the README: one folder, a terminal for each command that stays."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        # The scripts of the environment that runs the tests stand in for an activated one.
        self.environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        self._port = PORT
        self._output = ""

    async def follow(self, block: Block) -> None:
        text = block.text.replace(f":{PORT}", f":{self._port}")
        match re.split(r"\W", block.marker)[0]:
            case "start":
                await self._start(block, text)
            case "run" if block.until:
                await eventually(lambda: self._prints(text, block.until), f"{block.where} prints {block.until!r}")
            case "run":
                ran = await self._run(text)
                assert ran.code == 0, f"{block.where}: {ran.err}"
            case "write":
                (self._folder / block.marker.split()[1]).write_text(text)
            case "the":
                expected, printed = json.loads(text), [json.loads(line) for line in self._output.splitlines()]
                assert shape(expected) == shape(printed[-1]), f"{block.where}: {printed}"
            case _:
                raise AssertionError(block.where)

    async def _start(self, block: Block, text: str) -> None:
        command = text.strip()
        assert "\n" not in command, f"{block.where}: one command in each terminal"
        # The usual port may be taken on this machine.
        command = re.sub(r"^agentbus up$", "agentbus up --port 0", command)
        log = self._folder / f"terminal-{block.line}.log"
        argv = ["bash", "-c", f"exec {command}"]
        child = self._stack.enter_context(process(argv, log, cwd=self._folder, env=self.environment))
        await child.until_said(block.until)
        if command.startswith("agentbus up"):
            url = str(json.loads(log.read_text())["url"])
            self._port = url.rpartition(":")[2]
            self.environment[URL_VARIABLE] = url

    async def _prints(self, text: str, wanted: str) -> bool:
        ran = await self._run(text)
        self._output = ran.out
        return ran.code == 0 and wanted in ran.out

    async def _run(self, text: str) -> Ran:
        return await run("bash", "-euo", "pipefail", "-c", text, cwd=self._folder, env=self.environment)


async def run(*argv: str, cwd: Path, env: Mapping[str, str], timeout_s: float = 3 * BOUND_S) -> Ran:
    child = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        raise AssertionError(f"{argv} did not end within {timeout_s:g} s") from None
    return Ran(child.returncode or 0, out.decode(), err.decode())


def shape(value: Any, name: str = "") -> Any:
    """A message without what is different each time: ids, times, numbers."""
    if isinstance(value, dict):
        return {key: shape(inner, str(key)) for key, inner in cast("dict[str, Any]", value).items()}
    if name in ("id", "worker") or name.endswith("_at"):
        return "…"
    if isinstance(value, str):
        return re.sub(r"\d+", "0", value)
    return 0 if isinstance(value, int | float) else value

"""Read the pages of the documentation: their blocks and tables."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.harness import BOUND_S, ROOT, Ran

README = ROOT / "README.md"
DOCS = ROOT / "docs"
TUTORIAL = DOCS / "tutorial"
HOW_TO = DOCS / "how-to"
REFERENCE = DOCS / "reference"
EXPLANATION = DOCS / "explanation"
EXAMPLES = DOCS / "examples"
OPERATIONS = DOCS / "operations.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
RUN_BY_TESTS = {
    README: "test_readme.py",
    TUTORIAL / "first-task.md": "test_readme.py",
    TUTORIAL / "two-machines.md": "test_readme.py",
    TUTORIAL / "conversation.md": "test_readme.py",
    HOW_TO / "give-tasks.md": "test_how_to.py",
    HOW_TO / "agents.md": "test_how_to.py",
    HOW_TO / "mcp-hosts.md": "test_how_to.py",
    HOW_TO / "incidents.md": "test_operations.py",
    HOW_TO / "people.md": "test_operations.py",
    OPERATIONS: "test_operations.py",
}
"""The pages whose commands are run, with the file in tests/docs that does it."""


@dataclass(frozen=True)
class Block:
    """A fenced block, with the comment before it, which says what the test does with the block."""

    page: Path
    line: int
    marker: str
    language: str
    text: str
    heading: str = ""

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    inside, start, language, marker, heading = False, 0, "", "", ""
    for number, line in enumerate(lines, 1):
        if not inside and line.startswith("#"):
            heading = line.lstrip("# ")
        fence = re.fullmatch(r"```(\w*)", line.strip())
        if fence is None:
            continue
        if not inside:
            comment = re.fullmatch(r"<!-- test: (.+) -->", lines[number - 2].strip()) if number > 1 else None
            inside, start, language, marker = True, number, fence[1], comment[1] if comment else ""
        else:
            yield Block(page, start, marker, language, "\n".join(lines[start : number - 1]) + "\n", heading)
            inside = False
    assert not inside, f"{page}: the block of line {start} does not end"


ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = (
    r"(?P<verb>run|start)(?P<new> in a new terminal)?(?P<repository> in a repository)?"
    r'(?: on the (?P<machine>\w+) machine)?(?:, until it prints "(?P<until>.+)"|, and it prints "(?P<says>.+)")?'
)
"""A block of commands: see the class Reader."""
KINDS = {
    COMMANDS: "bash",
    r"run on an empty store": "bash",
    r"write \S+": "toml",
    r"the output before, with other ids, times and numbers": "json",
    r"worker configuration": "toml",
    r"worker configurations, one for each chat_cmd; .+ not runnable here: .+": "toml",
    r"coordinator configuration": "toml",
    r"MCP server in JSON": "json",
    r"MCP server in TOML": "toml",
    r"a file of named tokens": "toml",
    r"a task": "json",
    r"a crontab": "text",
    r"configuration of the bus for a leaf": "text",
    r"configuration of a leaf": "text",
    r"configuration of nginx": "text",
    r"(global options|configuration) of Caddy": "text",
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

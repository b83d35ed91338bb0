"""Holds the size of modules, functions and folders of the product code; part of `make check`.

Prints one line for each offence, with the file and the line, and exits with 1 when there is one.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from radon.complexity import cc_visit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("agentbus", "mcp_server/agentbus_mcp", "worker/agentbus_worker")

# A reader keeps a module of this length in mind; the libraries that this project learned from are about as long.
MODULE_LINES = 400
# From here on a module needs its reason: one line in docs/design.md under the heading below.
LONG_MODULE_LINES = 350
LONG_MODULES_HEADING = "Modules over 350 lines"
# A function fits on one screen.
FUNCTION_LINES = 60
# The same limit as ruff's C901. Radon also counts comprehensions, boolean operators and assertions.
COMPLEXITY = 12
# More names than this are searched, not seen.
FOLDER_MODULES = 16


def offences(root: Path) -> Iterator[tuple[str, str]]:
    """Yield each offence under `root`: what offends (a path, or a path and a function), and the line to print."""
    listed = _listed_long_modules(root / "docs" / "design.md")
    modules = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    for folder, count in sorted(Counter(path.parent for path in modules).items()):
        if count > FOLDER_MODULES:
            name = folder.relative_to(root).as_posix()
            yield name, f"{name}: {count} modules; a folder holds at most {FOLDER_MODULES}. Make a sub-folder"
    for path in modules:
        yield from _of_module(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"), listed)
    existing = {path.relative_to(root).as_posix() for path in modules}
    for name in sorted(listed - existing):
        yield name, f"docs/design.md: `{name}` stands under {LONG_MODULES_HEADING!r}, but there is no such module"


def _of_module(name: str, source: str, listed: set[str]) -> Iterator[tuple[str, str]]:
    lines = len(source.splitlines())
    wants_reason = f"or name its one concept in docs/design.md under {LONG_MODULES_HEADING!r}"
    if lines > MODULE_LINES:
        yield name, f"{name}:{lines}: {lines} lines; a module has at most {MODULE_LINES}. Split it by concept"
    elif lines > LONG_MODULE_LINES and name not in listed:
        yield name, f"{name}:{lines}: {lines} lines; split it, {wants_reason}"
    elif lines <= LONG_MODULE_LINES and name in listed:
        yield name, f"docs/design.md: `{name}` has only {lines} lines; take it out of {LONG_MODULES_HEADING!r}"
    for function in _functions(source):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        if length > FUNCTION_LINES:
            where, limit = f"{name}:{function.lineno}", f"a function has at most {FUNCTION_LINES}"
            yield f"{name} {function.name}", f"{where}: {function.name} has {length} lines; {limit}"
    blocks = cast("list[Any]", cc_visit(source))
    for block in blocks:
        if block.complexity > COMPLEXITY:
            where, limit = f"{name}:{block.lineno}", f"at most {COMPLEXITY} is allowed"
            line = f"{where}: {block.name} has a cyclomatic complexity of {block.complexity}; {limit}"
            yield f"{name} {block.name}", line


def _functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def _listed_long_modules(design: Path) -> set[str]:
    """The paths in backquotes that stand under the heading for long modules."""
    text = design.read_text(encoding="utf-8") if design.is_file() else ""
    _, _, section = text.partition(f"# {LONG_MODULES_HEADING}\n")
    section = re.split(r"(?m)^#", section)[0]
    return set(re.findall(r"`([\w/]+\.py)`", section))


def main() -> int:
    """Print the offences; 1 when there are any."""
    found = [line for _, line in offences(ROOT)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

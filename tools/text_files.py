"""Holds that each text file is opened with an encoding; part of `make check`.

Without one, Python takes that of the machine: UTF-8 on most, the code page of the country on Windows. Ruff's rule for
this (PLW1514) sees a `Path` only where it is made; this check goes by the names of the calls.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("agentbus", "mcp_server", "worker", "benchmarks", "tests", "tools")

OPENERS = {"open", "fdopen", "NamedTemporaryFile", "SpooledTemporaryFile", "TemporaryFile"}
"""Calls that open a text file when their mode says so."""
RUNNERS = {"Popen", "run", "check_call", "check_output"}
"""Calls that read the text of a child when `text=True`."""


def without_encoding(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the code of each call that leaves the encoding to the machine."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _leaves_it_open(node):
            yield node.lineno, ast.unparse(node).partition("\n")[0][:80]


def _leaves_it_open(call: ast.Call) -> bool:
    given = {keyword.arg for keyword in call.keywords}
    if "encoding" in given or None in given:  # None stands for **arguments, which cannot be seen here
        return False
    match call.func:
        case ast.Attribute(attr="read_text"):
            return not call.args
        case ast.Attribute(attr="write_text"):
            return len(call.args) < 2
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in OPENERS:
            return _opens_text(call, name)
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in RUNNERS:
            return bool(given & {"text", "universal_newlines"})
        case _:
            return False


def _opens_text(call: ast.Call, name: str) -> bool:
    words = [word.value for word in call.keywords if word.arg == "mode"]
    modes = [node for node in [*call.args, *words] if _is_mode(node)]
    if modes:
        return not any("b" in ast.literal_eval(mode) for mode in modes)
    match call.func:
        case ast.Attribute(attr="open", value=ast.Name() | ast.Attribute()):
            return False  # most are connections and the like, and `os.open` knows no text
        case _:
            return name in {"open", "fdopen"}  # temporary files are binary by default


def _is_mode(node: ast.expr) -> bool:
    """Whether an argument looks like a mode: a short string of its letters."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and set(node.value) <= set("rwaxbt+")


def main() -> int:
    """Print each call that leaves the encoding to the machine; 1 when there is one."""
    found = [
        f"{path.relative_to(ROOT).as_posix()}:{line}: opened without an encoding: {code}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, code in without_encoding(path.read_text(encoding="utf-8"))
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""Writes the map of the modules in docs/design.md: each module once, with the first line of its docstring.

`python tools/house_map.py` prints the map, and `--write` puts it into the page. A test holds that the page has it.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "design.md"
PACKAGES = ("agentbus", "worker/agentbus_worker", "mcp_server/agentbus_mcp")
_BLOCK = re.compile(r"(?<=```text\nagentbus/\n).*?(?=```\n)", re.DOTALL)
_TEXT_COLUMN = 32


def house_map() -> str:
    """Return the map: a line for each folder and module, indented by two spaces for each level."""
    return "".join(f"{package}/\n{''.join(_lines(ROOT / package, 1))}" for package in PACKAGES)


def _lines(folder: Path, depth: int) -> Iterator[str]:
    for path in sorted(folder.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.name != "__init__.py" or text.strip():
            name = f"{'  ' * depth}{path.stem}".ljust(_TEXT_COLUMN)
            yield f"{name}{(ast.get_docstring(ast.parse(text)) or '').splitlines()[0]}\n"
    for path in sorted(folder.iterdir()):
        if path.is_dir() and any(path.rglob("*.py")):
            yield f"{'  ' * depth}{path.name}/\n"
            yield from _lines(path, depth + 1)


def page_with_map(page: str) -> str:
    """Return the text of the page with the map of today in its block."""
    drawing = house_map().removeprefix("agentbus/\n")
    return _BLOCK.sub(lambda _: drawing, page, count=1)


def main() -> int:
    """Print the map, or write it into the page."""
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page_with_map(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(house_map(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

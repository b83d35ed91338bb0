"""The map in docs/design.md is complete, and the places that it names for a change exist."""

import ast
import re
from pathlib import Path

import pytest

import house_map
from support.harness import ROOT

PAGE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/design.md has no section {heading!r}"
    return found[1]


def test_the_map_lists_exactly_the_modules():
    """Then it names every module once: it is made from them."""
    assert house_map.page_with_map(PAGE) == PAGE, "run: python tools/house_map.py --write"
    assert house_map.house_map() in PAGE


def test_every_module_of_the_map_has_a_description():
    lines = house_map.house_map().splitlines()
    assert len(lines) > 100
    assert [line for line in lines if not line.rstrip().endswith("/") and len(line.split()) < 4] == []


def places() -> list[tuple[str, str]]:
    """Change and place of each row of the tables of changes."""
    rows = re.findall(r"^\| (.+?) \| (`.+`) \|$", section("Where a change goes"), re.MULTILINE)
    return [(change, place) for change, cell in rows for place in re.findall(r"`([^`]+)`", cell)]


def test_agents_md_lists_places_of_changes():
    assert len({change for change, _ in places()}) >= 28


@pytest.mark.parametrize(("change", "place"), places())
def test_each_listed_place_of_a_change_exists(change: str, place: str):
    file, _, name = place.partition("::")
    path = ROOT / file
    assert path.exists(), f"{change}: {file}"
    if name:
        assert name in names_in(path), f"{change}: {file} has no {name}"


def names_in(path: Path) -> set[str]:
    """What a module defines: classes, functions, methods, variables, fields."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case _:
                pass
    return found

"""The limits of `make check` on modules, functions and folders name what breaks them, with file and line."""

from pathlib import Path

import pytest

import structure

LISTED = "## Modules over 350 lines\n\n* `agentbus/long.py`: one concept.\n\n## Another\n\n* `agentbus/other.py`\n"


def branches(count: int) -> str:
    tests = "".join(f"    if a == {number}:\n        return {number}\n" for number in range(count))
    return f"def many(a: int) -> int:\n{tests}    return -1\n"


def found(root: Path) -> list[str]:
    return [line for _, line in structure.offences(root)]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    (tmp_path / "agentbus").mkdir()
    return tmp_path


def test_code_within_the_limits_passes(house: Path) -> None:
    body = "    pass\n" * (structure.FUNCTION_LINES - 1)
    within = branches(structure.COMPLEXITY - 1) + f"async def long() -> None:\n{body}"
    (house / "agentbus" / "fine.py").write_text(within, encoding="utf-8")
    assert found(house) == []


def test_a_function_that_is_too_long_or_too_complex_is_named_with_its_line(house: Path) -> None:
    body = "    pass\n" * structure.FUNCTION_LINES
    (house / "agentbus" / "a.py").write_text(f"\n\nasync def long() -> None:\n{body}", encoding="utf-8")
    (house / "agentbus" / "b.py").write_text(branches(structure.COMPLEXITY), encoding="utf-8")
    assert found(house) == [
        "agentbus/a.py:3: long has 61 lines; a function has at most 60",
        "agentbus/b.py:1: many has a cyclomatic complexity of 13; at most 12 is allowed",
    ]


def test_a_long_module_must_be_listed_in_the_design_page_and_a_longer_one_is_refused(house: Path) -> None:
    for name, lines in (("long", 351), ("other", 351), ("longest", 401)):
        (house / "agentbus" / f"{name}.py").write_text("pass\n" * lines, encoding="utf-8")
    (house / "docs").mkdir()
    (house / "docs" / "design.md").write_text(LISTED, encoding="utf-8")
    longest, other = found(house)
    assert longest.startswith("agentbus/longest.py:401: 401 lines; a module has at most 400")
    assert other.startswith("agentbus/other.py:351: 351 lines; split it, or name its one concept in docs/design.md")


def test_the_list_of_long_modules_holds_only_long_modules_that_exist(house: Path) -> None:
    (house / "docs").mkdir()
    (house / "docs" / "design.md").write_text(LISTED, encoding="utf-8")
    [line] = found(house)
    assert line.startswith("docs/design.md: `agentbus/long.py`")
    assert "no such module" in line
    (house / "agentbus" / "long.py").write_text("pass\n", encoding="utf-8")
    [line] = found(house)
    assert "has only 1 lines" in line


def test_a_folder_with_too_many_modules_is_named(house: Path) -> None:
    for number in range(structure.FOLDER_MODULES + 1):
        (house / "agentbus" / f"m{number}.py").write_text("", encoding="utf-8")
    assert found(house) == ["agentbus: 17 modules; a folder holds at most 16. Make a sub-folder"]

"""The marker `posix` decides what runs on Windows, and each file that does not run there says why."""

import ast
from pathlib import Path

import pytest

from support.posix_use import TESTS, posix_use

FILES = sorted(path for path in TESTS.rglob("test_*.py") if not path.is_relative_to(TESTS / "worker"))

MADE_UP = """
import pytest
from support.harness import worker

@pytest.fixture
async def working(tmp_path):
    async with worker(tmp_path) as child:
        yield child

class Held:
    def __init__(self, path):
        self.mode = path.stat().st_mode

def helper():
    return again()

def again():
    return helper(), ["bash", "-c", "true"]

async def test_uses_posix_in_a_fixture(working): ...
async def test_uses_posix_in_a_class(tmp_path): Held(tmp_path)
def test_uses_posix_in_a_helper(): helper()
def test_uses_no_posix(tmp_path): tmp_path.chmod(0o600)
"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_each_file_has_tests_that_run_on_windows_or_gives_a_reason(path: Path) -> None:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    functions = (node.name for node in body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    tests = {name for name in functions if name.startswith("test_")}
    marks = [ast.unparse(node) for node in body if isinstance(node, ast.Assign)]
    says_why = any(mark.startswith("pytestmark = ") and "pytest.mark.posix('" in mark for mark in marks)
    runs = tests - set(posix_use(path))
    assert runs or says_why, 'no test runs there: say why with pytestmark = pytest.mark.posix("the reason")'


def test_the_use_of_posix_is_detected_through_fixtures_classes_and_helpers(tmp_path: Path) -> None:
    path = tmp_path / "test_made_up.py"
    path.write_text(MADE_UP, encoding="utf-8")
    assert posix_use(path) == {
        "test_uses_posix_in_a_fixture": "working: worker: Process: terminate",
        "test_uses_posix_in_a_class": "Held: st_mode",
        "test_uses_posix_in_a_helper": "helper: again: 'bash'",
    }

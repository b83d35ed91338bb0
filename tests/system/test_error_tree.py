"""Every error that agentbus raises on purpose has a class of its own in agentbus/errors.py."""

import ast
import inspect
from pathlib import Path

import pytest

from agentbus import AgentBusError, errors
from support.harness import ROOT

ERRORS = Path("agentbus/errors.py")
FOLDERS = ("agentbus", "worker/agentbus_worker", "mcp_server/agentbus_mcp")
TREE = {name for name, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, AgentBusError)}


def name_of(node: ast.expr | None) -> str:
    """The last part of the name that is called, raised or derived from: `ConfigError` of `errors.ConfigError(...)`."""
    match node:
        case ast.Call(func=inner):
            return name_of(inner)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return ""


def offences(code: str, path: Path) -> list[str]:
    """Say where a module raises the root class, or derives a class from the tree outside agentbus/errors.py."""
    found: list[str] = []
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Raise(exc=error) if name_of(error) == AgentBusError.__name__:
                found.append(f"{path}:{node.lineno} raises {AgentBusError.__name__} itself")
            case ast.ClassDef(name=name, bases=bases) if path != ERRORS and TREE & set(map(name_of, bases)):
                found.append(f"{path}:{node.lineno} derives {name}")
            case _:
                pass
    return found


def test_every_error_that_is_raised_has_a_class_in_the_tree():
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 100
    found = [text for path in paths for text in offences(path.read_text(encoding="utf-8"), path.relative_to(ROOT))]
    assert found == []


@pytest.mark.parametrize(
    ("code", "offence"),
    [
        ("raise AgentBusError('no')", "raises AgentBusError itself"),
        ("raise errors.AgentBusError('no') from None", "raises AgentBusError itself"),
        ("class OwnError(ConfigError): ...", "derives OwnError"),
        ("def f():\n    class OwnError(errors.BusError): ...", "derives OwnError"),
    ],
)
def test_an_error_without_a_class_in_the_tree_is_reported(code: str, offence: str):
    [found] = offences(code, Path("agentbus/other.py"))
    assert found.endswith(offence)


@pytest.mark.parametrize(
    "code", ["raise ConfigError('no')", "class Other(Exception): ...", "try: ...\nexcept AgentBusError: raise"]
)
def test_other_code_passes(code: str):
    assert offences(code, Path("agentbus/other.py")) == []

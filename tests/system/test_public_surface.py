"""What other programs rely on: the names of the package, imports that cost nothing, and that it loads everywhere."""

import inspect
import json
import os
import re
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import agentbus
from agentbus import errors
from agentbus.version import __version__
from support.harness import process, run_cli

HEAVY = [
    "anyio", "asyncio", "bcrypt", "cryptography", "mcp", "nats", "opentelemetry", "prometheus_client", "pydantic",
    "pydantic_core", "rich", "starlette", "tomlkit",
]  # fmt: skip
POSIX_ONLY = ["fcntl", "grp", "pwd", "resource", "termios", "tty"]


async def python(script: str, tmp_path: Path, *args: str) -> str:
    """The standard output of a fresh interpreter that runs `script`."""
    log = tmp_path / f"{os.urandom(4).hex()}.out"
    with process([sys.executable, "-c", script, *args], log) as child:
        code = await child.exit_code()
    text = log.read_text(encoding="utf-8")
    assert code == 0, text
    return text


# -- names ------------------------------------------------------------------------------------------------------


def test_the_public_names_are_sorted_and_each_can_be_imported():
    assert agentbus.__all__ == sorted(agentbus.__all__)
    assert len(agentbus.__all__) == len(set(agentbus.__all__))
    for name in agentbus.__all__:
        assert getattr(agentbus, name) is not None


def test_the_public_names_are_exactly_those_for_the_type_checker():
    source = inspect.getsource(agentbus)
    declared = source.partition("if TYPE_CHECKING:\n")[2].partition("\n\n")[0]
    names = re.findall(r"import (.+)", declared)
    assert sorted({"__version__", *", ".join(names).split(", ")}) == agentbus.__all__


def test_a_public_class_is_the_class_of_its_module():
    for name in agentbus.__all__:
        found = getattr(agentbus, name)
        if inspect.isclass(found):
            assert getattr(sys.modules[found.__module__], name) is found
            assert found.__module__.split(".")[0] == "agentbus"


async def test_the_public_names_can_be_imported_with_a_star(tmp_path: Path):
    names = await python("from agentbus import *; print(' '.join(sorted(globals())))", tmp_path)
    assert set(agentbus.__all__) <= set(names.split())


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'agentbus' has no attribute 'nothing'"):
        _ = agentbus.nothing  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]


def test_the_version_is_that_of_the_distribution():
    assert agentbus.__version__ == __version__ == version("agentbus-mcp")


def test_the_error_tree_in_the_docstring_lists_every_error():
    classes = [item for _, item in inspect.getmembers(errors, inspect.isclass) if item.__module__ == errors.__name__]
    assert len(classes) > 10
    tree = inspect.getdoc(errors) or ""
    for item in classes:
        assert issubclass(item, agentbus.AgentBusError)
        line = next((line for line in tree.splitlines() if re.search(rf"\b{item.__name__}\b", line)), None)
        assert line is not None, f"{item.__name__} is not in the tree"
        # As deep in the drawing as in the code.
        depth = len(item.__mro__) - len(agentbus.AgentBusError.__mro__)
        assert (line.index(item.__name__)) // 4 == depth, f"{item.__name__} stands at the wrong place in the tree"


# -- imports ----------------------------------------------------------------------------------------------------

LOADED = f"""
import json, sys
from contextlib import suppress
with suppress(SystemExit):
    exec(sys.argv[1])
print("\\n" + json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""

EVERY_HELP = """
import click
from agentbus.cli import root
from agentbus.cli.lazy_group import LazyCommand

def walk(command, path):
    yield path
    if isinstance(command, LazyCommand):
        command = command.load()
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from walk(inner, [*path, name])

paths = list(walk(root, []))
assert len(paths) > 40, paths
for path in paths:
    root.main([*path, "--help"], prog_name="agentbus", standalone_mode=False)
"""


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        pytest.param("import agentbus", [], id="the package"),
        pytest.param("import agentbus; agentbus.__version__, agentbus.AgentBusError", [], id="its light names"),
        pytest.param("import agentbus.cli", [], id="the command line"),
        pytest.param(EVERY_HELP, [], id="the help of every command"),
        pytest.param("from agentbus_mcp.cli import command; command(['--help'])", [], id="the help of agentbus-mcp"),
        # The control: what is looked for is found where it has to be.
        pytest.param(
            "import agentbus.coordinator", ["asyncio", "nats", "pydantic", "pydantic_core"], id="the bus itself"
        ),
        pytest.param("import agentbus_worker.worker", ["asyncio", "nats", "pydantic", "pydantic_core"], id="a worker"),
    ],
)
async def test_importing_or_asking_for_help_loads_nothing_heavy(tmp_path: Path, statement: str, loaded: list[str]):
    text = await python(LOADED, tmp_path, statement)
    assert json.loads(text.splitlines()[-1]) == loaded


IMPORT_ALL = f"""
import builtins, importlib, json, pkgutil, sys

found = set()
original = builtins.__import__

def spy(name, globals=None, *rest):
    importer = (globals or {{}}).get("__name__", "")
    if importer.split(".")[0] in ("agentbus", "agentbus_mcp", "agentbus_worker") and name.split(".")[0] in {POSIX_ONLY}:
        found.add(f"{{importer}}: {{name}}")
    return original(name, globals, *rest)

builtins.__import__ = spy
count = 0
for package in sys.argv[1:]:
    module = importlib.import_module(package)
    for info in pkgutil.walk_packages(getattr(module, "__path__", []), package + "."):
        importlib.import_module(info.name)
        count += 1
print(json.dumps([count, sorted(found)]))
"""


async def test_the_coordinator_side_can_be_imported_without_posix_modules(tmp_path: Path):
    count, found = json.loads(await python(IMPORT_ALL, tmp_path, "agentbus", "agentbus_mcp"))
    assert found == []
    assert count > 20
    # The control: the worker's side is not, and this is how that shows.
    _, found = json.loads(await python(IMPORT_ALL, tmp_path, "agentbus_worker.disk.file_lock"))
    assert found == ["agentbus_worker.disk.file_lock: fcntl"]


# -- commands ---------------------------------------------------------------------------------------------------


async def test_the_package_can_be_run_as_a_module_and_is_the_installed_command(tmp_path: Path):
    as_module = await run_cli("--help")
    assert (as_module.code, as_module.err) == (0, "")
    assert as_module.out.startswith("Usage: agentbus ")
    script = Path(sys.executable).with_name("agentbus")
    with process([str(script), "--help"], tmp_path / "out") as child:
        assert await child.exit_code() == 0
    assert (tmp_path / "out").read_text(encoding="utf-8") == as_module.out


@pytest.mark.parametrize("module", ["agentbus", "agentbus_mcp"])
async def test_each_command_prints_its_version(module: str):
    told = await run_cli("--version", module=module)
    assert (told.code, told.err) == (0, "")
    assert told.out.split()[-1] == version("agentbus-mcp")

"""Lazy commands: help, usage errors and completion without importing them, and lists that agree with the commands."""

import ast
import importlib
import importlib.metadata
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from agentbus.cli import lazy, root
from agentbus.cli.lazy_group import LazyCommand, LazyGroup

CLICK = tuple(int(part) for part in importlib.metadata.version("click").split(".")[:2])
HOMES = (
    "agentbus.cli.coordinator",
    "agentbus.cli.coordinator.events",
    "agentbus.cli.coordinator.publishing",
    "agentbus.cli.demo",
    "agentbus.cli.machine",
    "agentbus.cli.operator",
    "agentbus.cli.work",
)
"""The packages whose modules declare commands, besides `agentbus_worker.cli`."""

COMMANDS = """
import click

@click.command()
@click.option("--loudly", is_flag=True, help="In capitals.")
@click.argument("name", type=click.Choice(["moon", "mars"]))
def greet(name, loudly):
    '''Greet a planet, for real.'''
    click.echo(f"hello {name}".upper() if loudly else f"hello {name}")
"""


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[click.Group]:
    """A group with a lazy command whose module exists, and one whose module would fail to be imported."""
    (tmp_path / "lazily_imported.py").write_text(COMMANDS, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    made = LazyGroup("tool")
    made.add_command(LazyCommand("greet", "lazily_imported:greet", "Greet a planet."))
    made.add_command(LazyCommand("part", "no_such_module:part", "Say goodbye."))
    yield made
    sys.modules.pop("lazily_imported", None)


def imported() -> bool:
    return "lazily_imported" in sys.modules


def run(group: click.Group, *args: str) -> None:
    group.main(list(args), prog_name="tool", standalone_mode=False)


def completions(group: click.Group, args: list[str], typed: str) -> dict[str, str | None]:
    found = ShellComplete(group, {}, "tool", "_TOOL_COMPLETE").get_completions(args, typed)
    return {item.value: item.help for item in found}


# -- a group and its commands -----------------------------------------------------------------------------------


def test_running_a_command_imports_its_module_and_no_other(group: click.Group, capsys: pytest.CaptureFixture[str]):
    assert not imported()
    run(group, "greet", "--loudly", "mars")
    assert capsys.readouterr().out == "HELLO MARS\n"
    assert imported()


def test_the_help_of_a_group_lists_its_commands_without_importing_them(
    group: click.Group, capsys: pytest.CaptureFixture[str]
):
    run(group, "--help")
    listed = capsys.readouterr().out.partition("Commands:\n")[2]
    assert [line.split(maxsplit=1) for line in listed.splitlines()] == [
        ["greet", "Greet a planet."],
        ["part", "Say goodbye."],
    ]
    assert not imported()


def test_the_help_of_a_command_is_its_own(group: click.Group, capsys: pytest.CaptureFixture[str]):
    run(group, "greet", "--help")
    text = capsys.readouterr().out
    assert "Usage: tool greet [OPTIONS] {moon|mars}" in text
    assert "Greet a planet, for real." in text
    assert "--loudly" in text


def test_an_unknown_command_is_a_usage_error_that_names_it(group: click.Group):
    with pytest.raises(click.UsageError) as caught:
        run(group, "frobnicate")
    assert caught.value.format_message() == "No such command 'frobnicate'."
    assert caught.value.ctx is not None
    assert caught.value.ctx.command_path == "tool"
    assert not imported()


@pytest.mark.skipif(CLICK < (8, 4), reason="click suggests commands since 8.4")
def test_a_misspelt_command_is_a_usage_error_that_suggests_the_right_one(group: click.Group):
    with pytest.raises(click.UsageError) as caught:
        run(group, "gret")
    assert caught.value.format_message() == "No such command 'gret'. Did you mean 'greet'?"
    assert not imported()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", {"greet": "Greet a planet.", "part": "Say goodbye."}),
        ("gr", {"greet": "Greet a planet."}),
        ("x", {}),
    ],
)
def test_completing_the_name_of_a_command_imports_none(group: click.Group, typed: str, expected: dict[str, str]):
    assert completions(group, [], typed) == expected
    assert not imported()


@pytest.mark.parametrize(
    ("typed", "expected"), [("--l", {"--loudly": "In capitals."}), ("m", {"moon": None, "mars": None})]
)
def test_completing_the_arguments_of_a_command_imports_that_command(
    group: click.Group, typed: str, expected: dict[str, str | None]
):
    assert completions(group, ["greet"], typed) == expected
    assert imported()


def test_completing_behind_an_unknown_command_offers_nothing_and_imports_nothing(group: click.Group):
    assert completions(group, ["frobnicate"], "m") == {}
    assert not imported()


# -- the commands of agentbus -----------------------------------------------------------------------------------


def lazy_commands(group: click.Group, path: str = "agentbus") -> Iterator[tuple[str, LazyCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, LazyCommand):
            yield f"{path} {name}", command
        elif isinstance(command, click.Group):
            yield from lazy_commands(command, f"{path} {name}")


LISTED = dict(lazy_commands(root))


@pytest.mark.posix("agentbus worker run needs it")
@pytest.mark.parametrize("path", LISTED)
def test_a_listed_command_exists_with_the_name_and_the_short_help_of_the_list(path: str):
    command = LISTED[path].load()
    assert isinstance(command, click.Command)
    assert command.name == LISTED[path].name == path.rpartition(" ")[2]
    assert command.get_short_help_str(limit=200) == LISTED[path].get_short_help_str(limit=200)


@pytest.mark.posix("agentbus worker run needs it")
def test_every_command_that_a_module_declares_is_listed():
    modules = [importlib.import_module("agentbus_worker.cli")]
    for package in HOMES:
        folder = importlib.import_module(package).__path__
        modules += [importlib.import_module(f"{package}.{found.name}") for found in pkgutil.iter_modules(folder)]
    declared = {
        command
        for module in modules
        for _, command in inspect.getmembers(module, lambda value: isinstance(value, click.Command))
    }
    groups = [command for command in declared if isinstance(command, click.Group)]
    inner = {command for group in groups for command in group.commands.values()}
    assert declared - inner == {command.load() for command in LISTED.values()}


# -- the modules that commands work with ------------------------------------------------------------------------


def declared_modules() -> dict[str, str]:
    """The modules of `agentbus.cli.lazy` by name, as type checkers read them."""
    tree = ast.parse(inspect.getsource(lazy))
    [branch] = [node for node in tree.body if isinstance(node, ast.If)]
    found: dict[str, str] = {}
    for node in branch.body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name: alias.name for alias in node.names}
    return found


def test_the_modules_that_type_checkers_see_are_those_that_are_imported():
    assert declared_modules() == lazy._PATHS  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


@pytest.mark.parametrize("name", declared_modules())
def test_a_lazy_module_is_the_module_of_its_path(name: str):
    assert getattr(lazy, name) is importlib.import_module(declared_modules()[name])


def test_an_unknown_lazy_module_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'agentbus.cli.lazy' has no attribute 'nothing'"):
        _ = lazy.nothing  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]

"""`server.json`, the entry for the MCP registry: it is valid, and describes this distribution.

The schema is a copy of the published one, which `$schema` names: tests need no network.
"""

import json
import tomllib
from typing import Any

import click
import jsonschema

from agentbus.config.loading import URL_VARIABLE
from agentbus.version import __version__
from agentbus_mcp.cli import command
from support.harness import ROOT

SCHEMA = ROOT / "tests" / "schemas" / "mcp-registry-server-2025-12-11.schema.json"
ENTRY: dict[str, Any] = json.loads((ROOT / "server.json").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_file_is_valid_against_the_schema_that_it_names() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert ENTRY["$schema"] == schema["$id"]
    validator: Any = jsonschema.Draft7Validator(schema, format_checker=jsonschema.FormatChecker())
    assert [error.message for error in validator.iter_errors(ENTRY)] == []
    assert not validator.is_valid({**ENTRY, "name": "no-namespace"}), "the schema refuses what is wrong"


def test_the_file_names_this_distribution_and_its_version() -> None:
    [package] = ENTRY["packages"]
    assert (package["registryType"], package["identifier"]) == ("pypi", PROJECT["name"])
    assert ENTRY["version"] == package["version"] == __version__
    assert package["identifier"] in PROJECT["scripts"], "uvx runs the command that has the name of the distribution"
    assert package["transport"] == {"type": "stdio"}


def test_the_readme_has_the_name_that_the_registry_looks_for() -> None:
    assert f"<!-- mcp-name: {ENTRY['name']} -->" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_arguments_are_options_of_the_command() -> None:
    [package] = ENTRY["packages"]
    options = {name for option in command.params if isinstance(option, click.Option) for name in option.opts}
    assert {argument["name"] for argument in package["packageArguments"]} <= options
    assert [variable["name"] for variable in package["environmentVariables"]] == [URL_VARIABLE]
    assert not any(entry.get("isSecret") for entry in [*package["packageArguments"], *package["environmentVariables"]])

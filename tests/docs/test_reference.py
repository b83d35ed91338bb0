"""The tables of docs/reference are those of the code: keys, commands, variables, streams, tools, names."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import click
import pytest

import agentbus
from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.bus.wanted.ledgers import Ledgers
from agentbus.cli import exit_codes, root
from agentbus.cli.lazy_group import LazyCommand
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.config.schema import CoordinatorConfig
from agentbus.config.worker_schema import WorkerConfig
from agentbus.protocol import subjects
from agentbus.protocol.messages import ResultStatus
from agentbus.protocol.outcomes.failure_codes import FAILURE_CODES, FailureCode
from agentbus.protocol.progress import names as progress
from agentbus.protocol.subjects import TaskKey
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.cli import command as mcp_command
from agentbus_mcp.server import create_server
from support.documentation import REFERENCE, code, table
from support.harness import ROOT

pytestmark = pytest.mark.posix("the documentation is checked on one system")


def default_text(section: str, key: str, value: Any, *, required: bool) -> str:
    """How the reference writes a default."""
    follows = {
        "inbox_prefix": "_INBOX_<id>",
        "task_subject": subjects.tasks("<id>"),
        "durable": subjects.durable("<id>"),
    }
    if section == "nats" and key in follows:
        return f"`{follows[key]}`"
    if required:
        return "required"
    if value is None:
        return "none"
    if isinstance(value, Path):
        value = str(value).replace(str(Path.home()), "~")
        return f"`{value}`"
    if isinstance(value, bool | tuple):
        return f"`{json.dumps(value)}`"
    if isinstance(value, float):
        value = f"{value:g}"
    return f"`{value}`" if value != "" else '`""`'


def test_every_key_of_a_worker_is_listed_with_its_default() -> None:
    expected: list[tuple[str, str]] = []
    for section, info in WorkerConfig.model_fields.items():
        expected.append((f"**`[{section}]`**", ""))
        fields = cast("type[Any]", info.annotation).model_fields
        for key, field in fields.items():
            value = field.get_default(call_default_factory=True)
            expected.append((f"`{key}`", default_text(section, key, value, required=field.is_required())))
    assert [(row[0], row[1]) for row in table(REFERENCE / "configuration.md", "Configuration of a worker")] == expected


def test_every_key_of_a_coordinator_is_listed() -> None:
    listed = [row[0] for row in table(REFERENCE / "configuration.md", "Configuration of a coordinator")]
    assert listed == ["**`[nats]`**", "**`[coordinator]`**", "`id`", "`role`", "`agents`", "**`[mcp]`**", "`folders`"]
    assert list(CoordinatorConfig.model_fields) == ["nats", "coordinator", "mcp"]


OF_WORKERS = ("agentbus worker run", "agentbus service install", "agentbus work rescue")
"""Commands whose `--config` is that of a worker."""


def commands(group: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(group, LazyCommand):
        group = group.load()
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, f"{path} {name}")
    else:
        yield path, group


def test_every_command_is_listed_with_its_options() -> None:
    common = {"--nats-url", "--config", "--version", "--help"}
    expected: dict[str, set[str]] = {}
    for path, command in [*commands(root, "agentbus"), *commands(mcp_command, "agentbus-mcp")]:
        options = {name for param in command.params for name in param.opts if name.startswith("--")}
        own = options if path in OF_WORKERS else options - common
        expected[path] = own
    listed = {
        re.sub(r"( \[?[A-Z./]+\]?)+$", "", code(row[0])[0]): {name for name in code(row[1]) if name.startswith("--")}
        for row in table(REFERENCE / "commands.md", "Commands")
        if row[0].startswith("`agentbus")
    }
    assert listed == expected


def test_the_exit_codes_are_those_of_the_commands() -> None:
    listed = [row[0] for row in table(REFERENCE / "commands.md", "Exit codes")]
    codes = [number for number in vars(exit_codes).values() if isinstance(number, int)]
    assert listed == [str(number) for number in (0, *sorted(codes))]


def test_every_environment_variable_is_listed() -> None:
    used = {
        name
        for folder in ("agentbus", "mcp_server", "worker")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"\bAGENTBUS_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8"))
    }
    assert {code(row[0])[0] for row in table(REFERENCE / "environment.md", "Reference: environment variables")} == used


def of_any(name: str) -> str:
    """What a name of the agent `code` is for any agent."""
    for before in ("FILES_", "INPUTS_", "PROGRESS_", "agent."):
        name = name.replace(f"{before}code", f"{before}<id>")
    return name


async def test_every_stream_is_listed(coordinator: Coordinator) -> None:
    await set_up(coordinator.bus, ["code"])
    streams = (await coordinator.bus.api("STREAM.LIST"))["streams"]
    expected = {
        of_any(stream["config"]["name"]): (
            {of_any(subject) for subject in stream["config"]["subjects"]},
            stream["config"]["max_age"] / 1e9,
        )
        for stream in streams
    }
    units = {"days": 86_400, "seconds": 1}
    ages = {row[0]: "0 days" if row[2] == "for ever" else row[2] for row in table(REFERENCE / "bus.md", "Streams")}
    listed = {
        code(row[0])[0]: (set(code(row[1])), int(ages[row[0]].split()[0]) * units[ages[row[0]].split()[1]])
        for row in table(REFERENCE / "bus.md", "Streams")
    }
    for name, keys, _ in Ledgers(("<id>",), ("<id>",)).parts:  # on a bus with accounts, in place of the one ledger
        expected.setdefault(name, (set(), expected[subjects.STATE_STREAM][1]))[0].add(keys)
    assert listed == expected


def test_every_subject_is_listed() -> None:
    kinds = (subjects.tasks, subjects.results, subjects.dead, subjects.heartbeat, subjects.control)
    spelled = [kind("<id>") for kind in kinds]
    attested = [f"{subject}.<party>" for subject in spelled[:3]]
    of_audit = {one.replace("agent.", "audit.") for one in (spelled[0], attested[0])} | {"audit.<party>.said.<verb>"}
    listed = {name for row in table(REFERENCE / "bus.md", "Subjects") for name in code(row[0])}
    assert listed == {*spelled, *attested, *of_audit, progress.of_task(TaskKey("<id>", "<task id>"))}


def test_every_status_is_listed() -> None:
    assert [code(row[0])[0] for row in table(REFERENCE / "bus.md", "Messages")] == list(get_args(ResultStatus))


def test_every_code_of_a_failure_is_listed_as_the_code_has_it() -> None:
    assert list(FAILURE_CODES) == list(get_args(FailureCode))
    assert table(REFERENCE / "bus.md", "Failures") == [
        [f"`{name}`", known.meaning, known.again, known.pauses, known.action] for name, known in FAILURE_CODES.items()
    ]


async def test_every_mcp_tool_and_resource_is_listed() -> None:
    config, _ = load_coordinator(nats_url="nats://127.0.0.1:1", environ={})
    server = create_server(BusLink(connection_settings(config.nats, agent="main", name="test"), "main"))
    tools = {tool.name: set[str](tool.input_schema["properties"]) for tool in await server.list_tools()}
    resources = {str(resource.uri): set[str]() for resource in await server.list_resources()}
    templates = {template.uri_template: set[str]() for template in await server.list_resource_templates()}
    listed = {
        code(row[0])[0]: set(code(row[1])) if len(row) == 3 else set[str]()
        for row in table(REFERENCE / "mcp.md", "MCP tools and resources")
    }
    assert listed == tools | resources | templates


def test_the_public_python_api_is_listed() -> None:
    listed = {name for row in table(REFERENCE / "python.md", "Reference: Python API") for name in code(row[0])}
    names = {re.split(r"[.(]", name)[0] for name in listed}
    assert names == set(agentbus.__all__)
    methods = {name.split("(")[0].removeprefix("Coordinator.") for name in listed if name.startswith("Coordinator.")}
    assert methods == {
        name for name in dir(Coordinator) if callable(getattr(Coordinator, name)) and not name.startswith("_")
    }

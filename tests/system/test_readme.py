"""The documentation is true: its commands are run, its configurations loaded, its tables compared with the code."""

import asyncio
import json
import os
import re
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast, get_args

import click
import pytest

import agentbus
from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.cli import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE, root
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import URL_VARIABLE, load_coordinator, load_worker
from agentbus.config.schema import CoordinatorConfig, WorkerConfig
from agentbus.coordinator import connect
from agentbus.protocol import subjects
from agentbus.protocol.messages import ResultStatus, decode_result, decode_task
from agentbus.provision.nats_server import NatsServer
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.cli import command as mcp_command
from agentbus_mcp.server import create_server
from support.documentation import (
    ALL_BLOCKS,
    EXAMPLES,
    KINDS,
    OPERATIONS,
    PAGES,
    README,
    Block,
    Reader,
    code,
    marked,
    run,
    table,
)
from support.harness import BOUND_S, ROOT, Process, eventually, process, worker, worker_toml

pytestmark = pytest.mark.posix("runs shell commands of the documentation")

# -- every block -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", ALL_BLOCKS, ids=lambda block: block.where)
def test_every_block_says_what_the_test_does_with_it(block: Block) -> None:
    languages = [language for pattern, language in KINDS.items() if re.fullmatch(pattern, block.marker)]
    assert languages == [block.language], f"{block.where}: the comment {block.marker!r} is not known for this block"
    if block.language == "bash" and not block.marker.startswith("not runnable"):
        assert block.page in (README, OPERATIONS), f"{block.where}: the commands of this page are not run"


# -- the commands of the README ----------------------------------------------------------------------------------


async def test_a_newcomer_who_follows_the_readme_gets_a_result(tmp_path: Path) -> None:
    with ExitStack() as stack:
        reader = Reader(tmp_path, stack)
        for block in marked(r"(run|start|write|the output)\b.*", README):
            await reader.follow(block)
        async with (
            asyncio.timeout(BOUND_S),
            connect(reader.environment[URL_VARIABLE]) as coordinator,
            coordinator.inbox(after=0) as inbox,
        ):
            results = [(await inbox.next()).result for _ in ("Say hello", "hello-1", "date")]
            assert [result and result.status for result in results] == ["completed"] * 3


# -- configurations and messages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("block", marked(r"(worker configuration\b|write ).*"), ids=lambda block: block.where)
def test_worker_configurations_can_be_loaded(block: Block, tmp_path: Path) -> None:
    commands = re.findall(r"^(?:# )?chat_cmd = .*$", block.text, re.MULTILINE)
    assert commands, block.where
    rest = re.sub(r"^(?:# )?chat_cmd = .*\n", "", block.text, flags=re.MULTILINE)
    for number, command in enumerate(commands):
        path = tmp_path / f"{number}.toml"
        path.write_text(rest.replace("[agent]\n", f"[agent]\n{command.removeprefix('# ')}\n"))
        _, warnings = load_worker(path)
        assert warnings == [], block.where


@pytest.mark.parametrize("block", marked("coordinator configuration"), ids=lambda block: block.where)
def test_coordinator_configurations_can_be_loaded(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "coordinator.toml"
    path.write_text(block.text)
    _, warnings = load_coordinator(path=path)
    assert warnings == [], block.where


@pytest.mark.parametrize("block", marked("MCP server in .*"), ids=lambda block: block.where)
def test_mcp_configurations_start_the_command_of_this_distribution(block: Block) -> None:
    load: Callable[[str], Any] = json.loads if block.language == "json" else tomllib.loads
    [servers] = load(block.text).values()
    server = servers["agentbus"]
    assert [server["command"], *server["args"]] == ["uvx", "agentbus-mcp"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "agentbus-mcp", "uvx runs the command that has the name of the distribution"
    assert "agentbus-mcp" in project["scripts"]


@pytest.mark.parametrize("block", marked("a task"), ids=lambda block: block.where)
def test_the_task_that_is_shown_is_valid(block: Block) -> None:
    assert decode_task(block.text.encode()).agent == "code"


@pytest.mark.parametrize("block", marked("the output before.*"), ids=lambda block: block.where)
def test_the_result_that_is_shown_is_valid(block: Block) -> None:
    assert decode_result(block.text.encode()).status == "completed"


# -- the Python examples -----------------------------------------------------------------------------------------


def test_examples_are_shown_as_they_are() -> None:
    shown = {ROOT / block.marker.removeprefix("same as "): block.text for block in marked("same as .*")}
    assert set(shown) == set(EXAMPLES.glob("*.py"))
    for path, text in shown.items():
        assert path.read_text(encoding="utf-8") == text, path.name


def example_environment(server: NatsServer) -> dict[str, str]:
    return {**os.environ, URL_VARIABLE: server.url, "PYTHONUNBUFFERED": "1"}


async def test_the_example_fan_out_prints_every_answer(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        for agent in ("code", "doc"):
            await stack.enter_async_context(worker(worker_toml(tmp_path, server.url, agent=agent)))
        ran = await run(sys.executable, str(EXAMPLES / "fan_out.py"), cwd=tmp_path, env=example_environment(server))
    assert ran.code == 0, ran.err
    assert "code completed What" in ran.out
    assert "doc completed What" in ran.out


async def test_the_example_follow_goes_on_where_it_stopped(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    @asynccontextmanager
    async def follow(name: str) -> AsyncGenerator[Process]:
        argv = [sys.executable, str(EXAMPLES / "follow.py")]
        with process(argv, tmp_path / name, cwd=tmp_path, env=example_environment(server)) as child:
            yield child

    async with worker(worker_toml(tmp_path, server.url)):
        [first] = await coordinator.publish("code", "say:one", task_type="test")
        async with follow("first.log") as child:
            await child.until_said(f"completed {first.id} one")
            await eventually((tmp_path / "inbox.cursor").exists, "the cursor is kept")
        [second] = await coordinator.publish("code", "say:two", task_type="test")
        async with follow("second.log") as child:
            await child.until_said(f"completed {second.id} two")
            assert not child.said(first.id)


# -- the reference -----------------------------------------------------------------------------------------------


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
    assert [(row[0], row[1]) for row in table(README, "Configuration of a worker")] == expected


def test_every_key_of_a_coordinator_is_listed() -> None:
    listed = [row[0] for row in table(README, "Configuration of a coordinator")]
    assert listed == ["**`[nats]`**", "**`[coordinator]`**", "`id`"]
    assert list(CoordinatorConfig.model_fields) == ["nats", "coordinator"]


def commands(group: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
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
        own = options if path in ("agentbus worker run", "agentbus service install") else options - common
        expected[path] = own
    listed = {
        re.sub(r" [A-Z.]+$", "", code(row[0])[0]): {name for name in code(row[1]) if name.startswith("--")}
        for row in table(README, "Commands")
        if row[0].startswith("`agentbus")
    }
    assert listed == expected


def test_the_exit_codes_are_those_of_the_commands() -> None:
    listed = [row[0] for row in table(README, "Commands") if row[0].isdigit()]
    assert listed == ["0", str(EXIT_ERROR), str(EXIT_USAGE), str(EXIT_INTERRUPTED)]


def test_every_environment_variable_is_listed() -> None:
    used = {
        name
        for folder in ("agentbus", "mcp_server", "worker")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"\bAGENTBUS_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8"))
    }
    assert {code(row[0])[0] for row in table(README, "Environment variables")} == used


async def test_every_stream_is_listed(coordinator: Coordinator) -> None:
    await set_up(coordinator.bus, ["code"])
    streams = (await coordinator.bus.api("STREAM.LIST"))["streams"]
    expected = {
        stream["config"]["name"].replace("FILES_code", "FILES_<id>"): (
            {subject.replace("FILES_code", "FILES_<id>") for subject in stream["config"]["subjects"]},
            stream["config"]["max_age"] / 1e9,
        )
        for stream in streams
    }
    units = {"days": 86_400, "seconds": 1}
    listed = {
        code(row[0])[0]: (set(code(row[1])), int(row[2].split()[0]) * units[row[2].split()[1]])
        for row in table(README, "Streams")
    }
    assert listed == expected


def test_every_subject_is_listed() -> None:
    kinds = (subjects.tasks, subjects.results, subjects.dead, subjects.heartbeat, subjects.control)
    assert [code(row[0])[0] for row in table(README, "Subjects")] == [kind("<id>") for kind in kinds]


def test_every_status_is_listed() -> None:
    assert [code(row[0])[0] for row in table(README, "Messages")] == list(get_args(ResultStatus))


async def test_every_mcp_tool_and_resource_is_listed() -> None:
    config, _ = load_coordinator(nats_url="nats://127.0.0.1:1", environ={})
    server = create_server(BusLink(connection_settings(config.nats, agent="main", name="test"), "main"))
    tools = {tool.name: set[str](tool.input_schema["properties"]) for tool in await server.list_tools()}
    resources = {str(resource.uri): set[str]() for resource in await server.list_resources()}
    templates = {template.uri_template: set[str]() for template in await server.list_resource_templates()}
    listed = {
        code(row[0])[0]: set(code(row[1])) if len(row) == 3 else set[str]()
        for row in table(README, "MCP tools and resources")
    }
    assert listed == tools | resources | templates


def test_the_public_python_api_is_listed() -> None:
    listed = {name for row in table(README, "Python API") for name in code(row[0])}
    names = {re.split(r"[.(]", name)[0] for name in listed}
    assert names == set(agentbus.__all__)
    methods = {name.split("(")[0].removeprefix("Coordinator.") for name in listed if name.startswith("Coordinator.")}
    assert methods == {
        name for name, value in vars(Coordinator).items() if callable(value) and not name.startswith("_")
    }


# -- links, pictures, targets ------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """The anchor that code hosts give to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, fragment = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), f"{page.name}: {target}"
        if fragment:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in {anchor(heading) for heading in headings}, f"{page.name}: {target}"


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "images").glob("*.svg")), ids=lambda path: path.name)
def test_pictures_are_small_and_fit_light_and_dark_pages(picture: Path) -> None:
    text = picture.read_text(encoding="utf-8")
    assert len(text) < 16_384
    assert "prefers-color-scheme: dark" in text
    drawing = ET.fromstring(text)
    assert drawing.find("{http://www.w3.org/2000/svg}desc") is not None, "for those who cannot see it"
    assert "<script" not in text


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert named <= targets, page.name

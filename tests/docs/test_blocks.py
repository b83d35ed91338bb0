"""Every block of the documentation is what its comment says: configurations are loaded, messages read."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from agentbus.config.loading import load_coordinator, load_worker
from agentbus.protocol.messages import decode_result, decode_task
from support.documentation import ALL_BLOCKS, COMMANDS, KINDS, RUN_BY_TESTS, Block, marked
from support.harness import ROOT

pytestmark = pytest.mark.posix("the documentation is checked on one system")


@pytest.mark.parametrize("block", ALL_BLOCKS, ids=lambda block: block.where)
def test_every_block_says_what_the_test_does_with_it(block: Block) -> None:
    languages = [language for pattern, language in KINDS.items() if re.fullmatch(pattern, block.marker)]
    assert languages == [block.language], f"{block.where}: the comment {block.marker!r} is not known for this block"
    if re.fullmatch(COMMANDS, block.marker):
        assert block.page in RUN_BY_TESTS, f"{block.where}: the commands of this page are not run"


def test_pages_whose_commands_are_run_are_in_the_test_that_runs_them() -> None:
    for page, test in RUN_BY_TESTS.items():
        assert page.exists()
        assert (ROOT / "tests" / "docs" / test).exists()


# -- configurations and messages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("block", marked(r"(worker configuration\b|write ).*"), ids=lambda block: block.where)
def test_worker_configurations_can_be_loaded(block: Block, tmp_path: Path) -> None:
    commands = re.findall(r"^(?:# )?chat_cmd = .*$", block.text, re.MULTILINE)
    assert commands, block.where
    rest = re.sub(r"^(?:# )?chat_cmd = .*\n", "", block.text, flags=re.MULTILINE)
    for number, command in enumerate(commands):
        path = tmp_path / f"{number}.toml"
        path.write_text(rest.replace("[agent]\n", f"[agent]\n{command.removeprefix('# ')}\n"), encoding="utf-8")
        _, warnings = load_worker(path)
        assert warnings == [], block.where


@pytest.mark.parametrize("block", marked("coordinator configuration"), ids=lambda block: block.where)
def test_coordinator_configurations_can_be_loaded(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "coordinator.toml"
    path.write_text(block.text, encoding="utf-8")
    _, warnings = load_coordinator(path=path)
    assert warnings == [], block.where


@pytest.mark.parametrize("block", marked("MCP server in .*"), ids=lambda block: block.where)
def test_mcp_configurations_start_the_command_of_this_distribution(block: Block) -> None:
    [servers] = (json.loads(block.text) if block.language == "json" else tomllib.loads(block.text)).values()
    server = servers["agentbus"]
    assert [server["command"], *server["args"]] == ["uvx", "agentbus-mcp"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "agentbus-mcp", "uvx runs the command that has the name of the distribution"
    assert "agentbus-mcp" in project["scripts"]


@pytest.mark.parametrize("block", marked("a task"), ids=lambda block: block.where)
def test_the_task_that_is_shown_is_valid(block: Block) -> None:
    assert decode_task(block.text.encode()).agent == "code"


@pytest.mark.parametrize("block", marked("the output before.*"), ids=lambda block: block.where)
def test_the_result_that_is_shown_is_valid(block: Block) -> None:
    assert decode_result(block.text.encode()).status == "completed"

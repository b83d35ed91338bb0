"""A bus as `agentbus init` makes it, before `agentbus setup`: what is missing is said, and no right that needs it."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from agentbus.config.toml_text import toml_text
from agentbus.provision.bus_folder.new_bus import create
from agentbus.provision.nats_server import run_server
from support.free_ports import free_port
from support.harness import run_cli
from support.installation import PLAN, OwnBus

pytestmark = pytest.mark.posix("a bus folder")


@pytest.fixture
async def configuration(tmp_path: Path) -> AsyncGenerator[Path]:
    """The configuration of the coordinator of a bus without streams."""
    folder = create(tmp_path / "bus", replace(PLAN, port=free_port()), ("code",))
    async with run_server(store=tmp_path / "nats", config=folder.servers[0].configuration) as server:
        file = tmp_path / "coordinator.toml"
        file.write_text(toml_text({"nats": OwnBus(server, folder).nats("main")}), encoding="utf-8")
        yield file


async def test_the_doctor_says_that_the_streams_are_missing_and_asks_for_no_rights(configuration: Path):
    ran = await run_cli("doctor", "--config", str(configuration))
    assert ran.code == 1
    assert "failed   streams       the stream AGENT_TASKS does not exist" in ran.out
    assert "grant it" not in ran.out
    assert "may not use" not in ran.out
    assert (
        "warning  permissions   not checked: which ones are needed shows the ledger, and there is none yet" in ran.out
    )


@pytest.mark.parametrize(
    "command", ["task list", "question list", "cost", "task get job-1", "task publish --to code x"]
)
async def test_a_command_says_that_the_streams_are_missing(configuration: Path, command: str):
    ran = await run_cli(*command.split(), "--config", str(configuration))
    assert ran.code == 1
    assert "does not exist on this bus; make it with: agentbus setup, as the administrator" in ran.err

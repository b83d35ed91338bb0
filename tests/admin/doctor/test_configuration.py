"""Which configuration `agentbus doctor` examines for a role, and where it says that it is from."""

from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.admin.doctor.configuration import load
from agentbus.config.loading import URL_VARIABLE, administrator_file, worker_file
from agentbus.config.schema import CoordinatorConfig
from agentbus.config.toml_text import toml_text
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import ConfigError
from agentbus.provision.nats_server import NatsServer
from support.doctor import doctor, the_finding
from support.harness import run_cli


def coordinator_toml(path: Path, url: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(toml_text({"nats": {"url": url}}), encoding="utf-8")
    return path


def worker_toml(path: Path, agent: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sections = {"agent": {"id": agent, "chat_cmd": ["x", "{input}"]}, "nats": {"url": "nats://host"}}
    path.write_text(toml_text(sections), encoding="utf-8")
    return path


def test_the_source_of_a_coordinator_is_what_its_commands_would_take(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def found(**arguments: object) -> tuple[str, str]:
        config, source, _ = load("coordinator", **arguments)  # pyright: ignore[reportArgumentType]
        assert isinstance(config, CoordinatorConfig)
        return config.nats.url, source

    assert found() == ("nats://127.0.0.1:7422", "the local bus of `agentbus up`")
    usual = coordinator_toml(home / ".agentbus" / "coordinator.toml", "nats://usual")
    assert found() == ("nats://usual", str(usual))
    monkeypatch.setenv(URL_VARIABLE, "nats://variable")
    assert found() == ("nats://variable", URL_VARIABLE)
    named = coordinator_toml(tmp_path / "named.toml", "nats://named")
    assert found(path=named) == ("nats://named", str(named))
    assert found(nats_url="nats://option") == ("nats://option", "--nats-url")
    assert load("administrator", path=named)[1] == str(named)


def test_commands_of_the_administrator_find_the_bus_folder_of_this_machine(home: Path):
    assert administrator_file(environ={}) is None
    file = coordinator_toml(home / ".agentbus" / "bus" / "admin.toml", "nats://own")
    assert administrator_file(environ={}) == file
    assert administrator_file("nats://option", environ={}) is None
    assert administrator_file(environ={URL_VARIABLE: "nats://variable"}) is None


async def test_without_options_they_use_it_and_say_so(home: Path, server: NatsServer, coordinator: Coordinator):
    file = coordinator_toml(home / ".agentbus" / "bus" / "admin.toml", server.url)
    listed = await run_cli("dead", "list")
    assert (listed.code, listed.err) == (0, f"as the administrator, with {file}\n")
    checked = await doctor("--role", "administrator")
    assert the_finding(checked, "configuration")["text"] == str(file)


def test_the_source_of_a_worker_is_the_first_file_where_workers_look(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def found(path: Path | None = None) -> tuple[str, str]:
        config, source, _ = load("worker", path=path)
        assert isinstance(config, WorkerConfig)
        return config.agent.id, source

    monkeypatch.chdir(tmp_path)
    assert worker_file() in (None, Path("/etc/agentbus/agentbus.toml"))
    usual = worker_toml(home / ".agentbus" / "config.toml", "usual")
    assert found() == ("usual", str(usual))
    worker_toml(tmp_path / "agentbus.toml", "here")
    assert found() == ("here", "agentbus.toml")
    named = worker_toml(tmp_path / "named.toml", "named")
    assert found(named) == ("named", str(named))
    with pytest.raises(ConfigError, match="cannot read"):
        load("worker", path=tmp_path / "absent.toml")

"""Where the agent of a service works, and what a service cannot read: said before it fails to start."""

import plistlib
from pathlib import Path

import pytest

from agentbus.config.loading import load_worker
from agentbus.config.worker_schema import WorkerConfig
from agentbus.provision.services.choice import service_manager
from agentbus.provision.services.manager import ManagerName
from agentbus.provision.services.unit_access import cannot_be_read
from agentbus.provision.services.worker_service import WorkerService, make_worker_service
from support.harness import worker_toml
from support.in_process import run_here

pytestmark = pytest.mark.posix("services of systemd, launchd and supervisor")

MANAGERS: tuple[ManagerName, ...] = ("systemd", "systemd-user", "supervisor")


def config_in(folder: Path, works_in: str | None = None) -> Path:
    config = worker_toml(folder, "nats://127.0.0.1:7422")
    if works_in is not None:
        text = config.read_text(encoding="utf-8").replace("[agent]", f'[agent]\nfolder = "{works_in}"', 1)
        config.write_text(text, encoding="utf-8")
    return config


def started_in(text: str, manager: ManagerName) -> str | None:
    return service_manager(manager).folder_in(text)


def installed(units: Path, config: Path, manager: ManagerName, *more: str) -> tuple[str, str]:
    """Write the unit; return it, and what was said."""
    folder = ["--folder", str(units), "--no-start", *more]
    ran = run_here("service", "install", "--config", str(config), "--manager", manager, *folder)
    assert ran.error is None
    [unit] = units.iterdir()
    return unit.read_text(encoding="utf-8"), ran.err


@pytest.mark.parametrize("manager", MANAGERS)
def test_a_service_starts_in_the_folder_that_was_named_and_keeps_it_when_it_is_installed_again(
    tmp_path: Path, manager: ManagerName
):
    repository, units, config = tmp_path / "repository", tmp_path / "units", config_in(tmp_path)
    repository.mkdir()
    before, said = installed(units, config, manager)
    assert "the agent works in /" in said
    assert "--directory FOLDER, or folder in [agent]" in said
    named, said = installed(units, config, manager, "--directory", str(repository))
    assert started_in(named, manager) == str(repository)
    assert f"the agent works in {repository}" in said
    again, said = installed(units, config, manager)
    assert again == named
    assert ": unchanged" in said
    assert started_in(before, manager) != str(repository)


def printed(config: Path, *more: str) -> str:
    ran = run_here("service", "install", "--config", str(config), "--manager", "systemd", "--print", *more)
    return f"{ran.err} {ran.error}"


def test_a_folder_is_named_once_exists_and_is_whole(tmp_path: Path):
    assert "is no folder" in printed(config_in(tmp_path), "--directory", str(tmp_path / "none"))
    both = config_in(tmp_path, str(tmp_path))
    assert "folder in [agent]; leave out --directory" in printed(both, "--directory", str(tmp_path))
    relative = config_in(tmp_path, "repository")
    assert "folder is 'repository', and a service does not start in this folder" in printed(relative)


def test_launchd_keeps_the_folder_as_well(tmp_path: Path):
    manager, config, unit = service_manager("launchd"), config_in(tmp_path), tmp_path / "unit.plist"
    manager.write(unit, manager.render(service_of(config, folder=Path("/srv/repository"))))
    assert plistlib.loads(unit.read_bytes())["WorkingDirectory"] == "/srv/repository"
    assert manager.kept_folder(unit, service_of(config)) == Path("/srv/repository")
    manager.write(unit, manager.render(service_of(config)))
    assert manager.kept_folder(unit, service_of(config)) is None
    unit.write_text("no property list", encoding="utf-8")
    assert manager.kept_folder(unit, service_of(config)) is None


def test_the_system_unit_may_write_to_the_folder_of_the_agent(tmp_path: Path):
    service = service_of(config_in(tmp_path), folder=Path("/srv/repository"))
    assert "-/srv/repository" in service_manager("systemd").render(service)


def service_of(config: Path, user: str = "nobody", folder: Path | None = None) -> WorkerService:
    return make_worker_service(load_worker(config)[0], config, user, folder)


def test_a_file_that_the_user_of_the_service_cannot_read_is_named_with_what_keeps_it_out(tmp_path: Path):
    config = config_in(tmp_path)
    config.chmod(0o600)
    [said] = cannot_be_read(service_of(config), private_tmp=False)
    closed = next((folder for folder in reversed(config.parents) if not folder.stat().st_mode & 0o001), None)
    end = f": {closed} is closed to it" if closed else ""
    assert said == f"the user nobody cannot read {config} (the configuration){end}"
    assert cannot_be_read(service_of(config, "root"), private_tmp=False) == []


def test_a_user_that_is_not_there_is_said(tmp_path: Path):
    [said] = cannot_be_read(service_of(config_in(tmp_path), "nosuchuser"), private_tmp=False)
    assert said == "there is no user nosuchuser on this machine yet; make it, or name another one with --user"


def test_a_configuration_in_tmp_is_not_found_by_a_unit_with_a_tmp_of_its_own():
    service = WorkerService(load_anything(), Path("/tmp/code.toml"), Path("/usr/bin/agentbus"), "root")
    [said] = cannot_be_read(service, private_tmp=True)
    assert said.startswith("/tmp/code.toml (the configuration) lies in a folder of which the unit has its own")
    assert service_manager("systemd").warnings(service) == [said]
    assert service_manager("systemd-user").warnings(service) == []


def load_anything() -> WorkerConfig:
    values = {"agent": {"id": "code", "chat_cmd": ["true", "{input}"]}, "nats": {"url": "nats://127.0.0.1:7422"}}
    return WorkerConfig.model_validate(values)

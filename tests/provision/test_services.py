"""`agentbus service`: the units that it writes, and the commands that it gives to the service managers."""

import configparser
import json
import os
import plistlib
import shutil
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import click
import pytest

from agentbus.cli.machine.service import install
from agentbus.config.loading import load_worker
from agentbus.errors import ServiceError
from agentbus.provision.nats_server import NatsServer
from agentbus.provision.services.choice import MANAGERS, service_manager
from agentbus.provision.services.launchd import label_of
from agentbus.provision.services.manager import ManagerName
from agentbus.provision.services.worker_service import make_worker_service
from support.file_faults import dies_before_replacing, read_only
from support.harness import BOUND_S, process, run_cli, worker_toml
from support.in_process import run_here

pytestmark = pytest.mark.posix("services of systemd, launchd and supervisor")

# Stands for a service manager: writes down how it was called, and answers as it was told in a file of its own name.
MANAGER = """#!/bin/sh
echo "$(basename "$0") $*" >> {folder}/calls
[ -f {folder}/refuse ] && cat {folder}/refuse >&2 && exit 1
[ -f "{folder}/says-$1" ] && cat "{folder}/says-$1"
[ "$2" = is-active ] && cat {folder}/state
exit 0
"""


@pytest.fixture
def managers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install stand-ins for the service managers; returns the folder with their recorded calls."""
    folder = tmp_path / "managers"
    folder.mkdir()
    for name in ("systemctl", "launchctl", "supervisorctl"):
        path = folder / name
        path.write_text(MANAGER.format(folder=folder), encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (folder / "state").write_text("active\n", encoding="utf-8")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return folder


def calls(managers: Path) -> list[str]:
    path = managers / "calls"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def config_in(folder: Path, agent: str = "code", **worker: object) -> Path:
    return worker_toml(folder, "nats://127.0.0.1:7422", agent=agent, worker=dict(worker))


def unit_of(text: str) -> dict[str, str]:
    """Read the keys of a systemd unit or a supervisor program, of all sections."""
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    parser.read_string(text)
    return {key: value for section in parser.sections() for key, value in parser[section].items()}


def rendered(manager: ManagerName, config: Path, user: str = "agentbus") -> str:
    return service_manager(manager).render(make_worker_service(load_worker(config)[0], config, user))


# -- units ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manager", ["systemd", "systemd-user"])
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_accepts_the_rendered_units(tmp_path: Path, manager: ManagerName) -> None:
    unit = tmp_path / "agentbus-worker-code.service"
    unit.write_text(rendered(manager, config_in(tmp_path), user="root"), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=BOUND_S,
    )
    newer_than_here = ("RestartSteps", "RestartMaxDelaySec")
    said = [
        line
        for line in done.stderr.splitlines()
        if unit.name in line and not any(key in line for key in newer_than_here)
    ]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize("manager", ["systemd", "systemd-user", "supervisor"])
def test_a_unit_runs_this_program_with_this_configuration_and_waits_for_its_drain(
    tmp_path: Path, manager: ManagerName
) -> None:
    config = config_in(tmp_path, drain_timeout_seconds=300, kill_grace_seconds=7)
    keys = unit_of(rendered(manager, config))
    command = keys.get("ExecStart") or keys["command"]
    program, *arguments = command.split()
    assert Path(program).is_file()
    assert arguments == ["worker", "run", "--config", str(config)]
    assert int(keys.get("TimeoutStopSec") or keys["stopwaitsecs"]) > 300 + 2 * 7
    path = keys.get("Environment") or keys["environment"]
    assert str(Path(program).parent) in path
    if manager != "supervisor":
        assert keys["NoNewPrivileges"] == "yes"


def test_launchd_runs_this_program_with_this_configuration_and_waits_for_its_drain(tmp_path: Path) -> None:
    config = config_in(tmp_path, drain_timeout_seconds=300, kill_grace_seconds=7)
    unit = plistlib.loads(rendered("launchd", config).encode())
    assert unit["Label"] == "com.agentbus.worker-code"
    assert unit["ProgramArguments"][1:] == ["worker", "run", "--config", str(config)]
    assert unit["ExitTimeOut"] > 300 + 2 * 7
    assert unit["KeepAlive"] == {"SuccessfulExit": False}
    assert "YOU" not in json.dumps(unit)


def test_the_system_unit_may_write_only_to_the_folders_of_the_worker(tmp_path: Path) -> None:
    keys = unit_of(rendered("systemd", config_in(tmp_path, state_dir="/srv/state", workdir="/srv/work")))
    assert keys["ProtectSystem"] == "strict"
    assert keys["PrivateTmp"] == "yes"
    written = keys["ReadWritePaths"].split()
    assert {"-/var/lib/agentbus", "-/srv/state", "-/srv/work"} <= set(written)
    assert "-/" not in written


def test_a_user_service_may_use_the_home_of_that_user(tmp_path: Path) -> None:
    """The folders of the configuration are those of the user that the worker runs as, not of root who installs it."""
    config = config_in(tmp_path, state_dir="~/.agentbus/state")
    keys = unit_of(rendered("systemd", config, user="root"))
    assert keys["WorkingDirectory"] == "/root"
    assert keys["ProtectHome"] == "no"
    assert "-/root" in keys["ReadWritePaths"].split()
    assert not any(".agentbus" in path for path in keys["ReadWritePaths"].split())


@pytest.mark.parametrize("name", ["with blank", "per%cent", "quo'te", "dollar$"])
def test_a_path_that_needs_quoting_in_a_unit_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with pytest.raises(Exception, match="move it to a path without"):
        rendered("systemd", config_in(folder))


def test_the_option_lists_all_managers() -> None:
    [option] = [parameter for parameter in install.params if parameter.name == "manager"]
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == tuple(MANAGERS)


async def test_a_unit_that_an_older_version_wrote_still_starts_its_worker(server: NatsServer, tmp_path: Path) -> None:
    """Units name the script `agentbus`, or the package that holds the worker; both stay where they are."""
    bus = await run_cli("setup", "--nats-url", server.url, "--agent", "code")
    assert bus.code == 0, bus.err
    config = str(worker_toml(tmp_path, server.url))
    script = str(Path(sysconfig.get_path("scripts")) / "agentbus")
    for number, command in enumerate(([script, "worker", "run"], [sys.executable, "-m", "agentbus_worker"])):
        with process([*command, "--config", config], tmp_path / f"{number}.log") as child:
            await child.until_said("ready for tasks")
            child.terminate()
            assert await child.exit_code() == 0


# -- commands of the managers -----------------------------------------------------------------------------------


async def test_a_user_service_is_written_enabled_started_and_removed(
    tmp_path: Path, home: Path, managers: Path
) -> None:
    config = config_in(tmp_path)
    unit = home / ".config" / "systemd" / "user" / "agentbus-worker-code.service"
    done = await run_cli("service", "install", "--config", str(config), "--manager", "systemd-user")
    assert done.code == 0, done.err
    assert calls(managers) == [
        "systemctl --user daemon-reload",
        "systemctl --user enable agentbus-worker-code",
        "systemctl --user restart agentbus-worker-code",
        "systemctl --user is-active agentbus-worker-code",
    ]
    assert unit.read_text(encoding="utf-8") == rendered("systemd-user", config, user="root")
    assert f"{unit}: written" in done.err
    assert "loginctl enable-linger" in done.err
    row = json.loads(done.out)
    assert (row["agent"], row["manager"], row["state"], row["running"]) == ("code", "systemd-user", "active", True)

    again = await run_cli("service", "install", "--config", str(config), "--manager", "systemd-user")
    assert f"{unit}: unchanged" in again.err
    calls(managers)

    gone = await run_cli("service", "uninstall", "agent-code", "--manager", "systemd-user")
    assert gone.code == 0, gone.err
    assert calls(managers) == [
        "systemctl --user disable --now agentbus-worker-code.service",
        "systemctl --user daemon-reload",
    ]
    assert not unit.exists()
    assert config.exists()


async def test_supervisor_and_launchd_get_their_own_commands(tmp_path: Path, home: Path, managers: Path) -> None:
    config, folder = config_in(tmp_path), tmp_path / "conf.d"
    (managers / "says-status").write_text("agentbus-worker-code  RUNNING  pid 7, uptime 0:01:00\n", encoding="utf-8")
    arguments = ("--manager", "supervisor", "--folder", str(folder))
    done = await run_cli("service", "install", "--config", str(config), *arguments)
    assert (done.code, json.loads(done.out)["state"]) == (0, "running"), done.err
    assert calls(managers)[:2] == ["supervisorctl reread", "supervisorctl update agentbus-worker-code"]
    assert (folder / "agentbus-worker-code.conf").exists()
    done = await run_cli("service", "uninstall", "code", *arguments)
    assert calls(managers) == [
        "supervisorctl stop agentbus-worker-code",
        "supervisorctl reread",
        "supervisorctl update",
    ]

    (managers / "says-print").write_text("state = running\n", encoding="utf-8")
    done = await run_cli("service", "install", "--config", str(config), "--manager", "launchd")
    assert (done.code, json.loads(done.out)["state"]) == (0, "running"), done.err
    plist = home / "Library" / "LaunchAgents" / "com.agentbus.worker-code.plist"
    domain = f"gui/{os.getuid()}"
    assert calls(managers)[1:3] == [
        f"launchctl bootout {domain}/com.agentbus.worker-code",
        f"launchctl bootstrap {domain} {plist}",
    ]
    shown = await run_cli("service", "status", "--manager", "launchd")
    assert json.loads(shown.out)["agent"] == "code"


async def test_status_lists_every_worker_and_fails_if_one_is_not_running(
    tmp_path: Path, home: Path, managers: Path
) -> None:
    none = await run_cli("service", "status", "--manager", "systemd-user")
    assert none.code == 1
    assert "agentbus service install" in none.err
    for agent in ("code", "doc"):
        config = config_in(tmp_path, agent)
        await run_cli("service", "install", "--config", str(config), "--manager", "systemd-user", "--no-start")
    assert calls(managers) == []
    both = await run_cli("service", "status", "--manager", "systemd-user")
    assert both.code == 0
    assert [json.loads(line)["agent"] for line in both.out.splitlines()] == ["code", "doc"]
    (managers / "state").write_text("failed\n", encoding="utf-8")
    one = await run_cli("service", "status", "doc", "--manager", "systemd-user")
    assert (one.code, json.loads(one.out)["state"]) == (1, "failed")


async def test_a_refusal_of_a_manager_is_one_line_with_its_reason(tmp_path: Path, home: Path, managers: Path) -> None:
    (managers / "refuse").write_text("Failed to connect to bus:\n  No medium found\n", encoding="utf-8")
    done = await run_cli("service", "install", "--config", str(config_in(tmp_path)), "--manager", "systemd-user")
    assert done.code == 1
    assert (
        done.err.splitlines()[-1] == "error: systemctl --user daemon-reload: Failed to connect to bus: No medium found"
    )
    none = await run_cli("service", "uninstall", "other", "--manager", "systemd-user")
    assert none.code == 1
    assert "does not exist" in none.err


def test_a_unit_that_cannot_be_replaced_stays_as_it_was_with_the_fix(tmp_path: Path) -> None:
    manager = service_manager("supervisor")
    unit = tmp_path / "units" / "worker.conf"
    assert manager.write(unit, "old")
    assert not manager.write(unit, "old")
    assert stat.S_IMODE(unit.stat().st_mode) == 0o644
    writes = "from agentbus.provision.services.choice import service_manager; import sys\n"
    dies_before_replacing(f"{writes}service_manager('supervisor').write(Path(sys.argv[1]), 'new')", unit)
    assert unit.read_text(encoding="utf-8") == "old"
    with read_only("worker.conf") as folder:
        with pytest.raises(
            ServiceError, match=f"{folder}/worker.conf cannot be written: .*; run this with sudo, or take"
        ):
            manager.write(folder / "worker.conf", "new")
        assert (folder / "worker.conf").read_text(encoding="utf-8") == "old"
    with pytest.raises(ServiceError, match=r"below cannot be written: File exists; a file is in the place of a folder"):
        manager.write(unit / "below", "new")


async def test_print_changes_nothing(tmp_path: Path, home: Path, managers: Path) -> None:
    config = config_in(tmp_path)
    done = await run_cli("service", "install", "--config", str(config), "--manager", "systemd", "--print")
    assert done.code == 0
    assert all(line.startswith("warning: ") for line in done.err.splitlines())
    assert done.out == rendered("systemd", config)
    assert calls(managers) == []
    assert not service_manager("systemd").unit_file("agentbus-worker-code").exists()
    assert label_of("agentbus-worker-code") == "com.agentbus.worker-code"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("agent", "chat_cmd", ["./agent.sh", "{input}"]),
        ("worker", "workdir", "work"),
        ("worker", "state_dir", "state"),
        ("log", "dir", "logs"),
        ("nats", "ca_file", "tls/ca.pem"),
    ],
)
def test_a_path_that_a_service_would_look_for_elsewhere_is_refused(
    tmp_path: Path, section: str, key: str, value: object
) -> None:
    more = {"chat_cmd": value} if key == "chat_cmd" else {section: {key: value}}
    config = worker_toml(tmp_path, "nats://127.0.0.1:7422", **more)  # pyright: ignore[reportArgumentType]
    ran = run_here("service", "install", "--config", str(config), "--manager", "supervisor", "--print")
    assert "a service does not start in this folder; write the whole path" in str(ran.error)
    assert key in str(ran.error)

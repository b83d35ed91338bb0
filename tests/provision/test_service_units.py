"""The service units are valid, leave time for an orderly end, and agree with each other."""

import configparser
import plistlib
import re
import shutil
import subprocess
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from agentbus.config.worker_schema import WorkerSection
from agentbus_mcp.cli import command as mcp_command
from support.harness import BOUND_S, ROOT

pytestmark = pytest.mark.posix("units of systemd, launchd and supervisor")

DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "agentbus-worker.service"
MCP_UNIT = DEPLOY / "systemd" / "agentbus-mcp.service"
SERVER_UNIT = DEPLOY / "systemd" / "nats-server.service"
PLIST = DEPLOY / "launchd" / "com.agentbus.worker.plist"
SUPERVISOR = DEPLOY / "supervisor" / "agentbus-worker.conf"

NEEDED_S = WorkerSection().drain_timeout_seconds + 2 * WorkerSection().kill_grace_seconds
"""The longest orderly end by default: the drain, then the command ended, and then what it leaves behind."""


def unit(path: Path = UNIT) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]  # systemd's keys have capitals
    parser.read_string(path.read_text(encoding="utf-8"))
    return {name: dict(parser[name]) for name in parser.sections()}


def plist() -> dict[str, Any]:
    return plistlib.loads(PLIST.read_bytes())


def program() -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=True, inline_comment_prefixes=(" ;",))
    parser.read_string(SUPERVISOR.read_text(encoding="utf-8"))
    return dict(parser["program:agentbus-worker"])


# -- systemd ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
@pytest.mark.parametrize("path", [UNIT, MCP_UNIT, SERVER_UNIT], ids=lambda path: path.stem)
def test_systemd_accepts_the_shipped_unit(path: Path, tmp_path: Path) -> None:
    installed = tmp_path / path.name
    program = r"(?m)^ExecStart=(/opt/agentbus|/usr/local)/bin/\S+ "
    text, replaced = re.subn(program, "ExecStart=/bin/true ", path.read_text("utf-8"))
    assert replaced == 1
    installed.write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", installed],
        check=False, capture_output=True, encoding="utf-8", timeout=BOUND_S,
    )  # fmt: skip
    newer_than_here = ("RestartSteps", "RestartMaxDelaySec")
    said = [
        line
        for line in done.stderr.splitlines()
        if path.name in line and not any(key in line for key in newer_than_here)
    ]
    assert (done.returncode, said) == (0, [])


def test_the_unit_of_the_mcp_server_has_a_valid_command_and_enough_time_to_stop() -> None:
    service = unit(MCP_UNIT)["Service"]
    program, *arguments = service["ExecStart"].split()
    assert program == "/opt/agentbus/bin/agentbus-mcp"
    options = mcp_command.make_context("agentbus-mcp", arguments).params
    assert str(options["address"]) == "127.0.0.1:8765"
    assert {str(options["path"]), str(options["token_file"])} == {
        "/etc/agentbus/coordinator.toml",
        "/etc/agentbus/mcp.token",
    }
    assert int(service["TimeoutStopSec"]) > 3
    assert service["Restart"] == "on-failure"
    assert service["NoNewPrivileges"] == service["RestrictNamespaces"] == "yes"


def test_the_unit_of_the_server_bounds_its_memory_and_reloads_the_accounts() -> None:
    service = unit(SERVER_UNIT)["Service"]
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["ExecStart"].endswith(" -c /var/lib/agentbus-bus/nats-server.conf")
    mib = {"M": 1, "G": 1024}
    high, most = (int(service[key][:-1]) * mib[service[key][-1]] for key in ("MemoryHigh", "MemoryMax"))
    soft = int(service["Environment"].removeprefix("GOMEMLIMIT=").removesuffix("MiB"))
    assert soft < high < most
    assert service["ReadWritePaths"] == service["WorkingDirectory"]


def test_systemd_lets_the_worker_end_its_own_children_and_waits_long_enough() -> None:
    service = unit()["Service"]
    assert service["KillMode"] == "mixed"
    assert "KillSignal" not in service  # SIGTERM is the default, and what the worker drains on
    assert int(service["TimeoutStopSec"]) > NEEDED_S


def test_systemd_restarts_after_a_failure_with_growing_pauses_and_never_gives_up() -> None:
    found = unit()
    service = found["Service"]
    assert service["Restart"] == "on-failure"
    assert 0 < int(service["RestartSec"]) < int(service["RestartMaxDelaySec"])
    assert int(service["RestartSteps"]) > 1
    assert found["Unit"]["StartLimitIntervalSec"] == "0"
    assert service["RestartPreventExitStatus"] == "2"
    assert service["OOMPolicy"] == "continue"


def test_systemd_confines_the_worker_without_breaking_the_sandboxes_of_agent_commands() -> None:
    service = unit()["Service"]
    for key in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "RestrictSUIDSGID"):
        assert service[key] == "yes", key
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert service["UMask"] == "0077"
    assert service["User"] == "agentbus"
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"
    breaking = {
        "RestrictNamespaces",
        "SystemCallFilter",
        "ProtectProc",
        "ProtectKernelTunables",
        "MemoryDenyWriteExecute",
    }
    assert not breaking & set(service)


@pytest.mark.parametrize("path", [UNIT, DEPLOY / "systemd" / "user" / "agentbus-worker.service"], ids=str)
def test_the_bounds_for_what_agent_commands_start_are_offered_and_left_to_the_operator(path: Path) -> None:
    offered = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#TasksMax=")]
    assert len(offered) == 1
    assert not {"TasksMax", "MemoryMax"} & set(unit(path)["Service"])


def test_the_drop_in_for_an_agent_of_another_user_gives_the_worker_what_it_takes_to_end_its_processes() -> None:
    path = DEPLOY / "systemd" / "agent-user.conf"
    service = unit(path)["Service"]
    needed = {"CAP_SETUID", "CAP_SETGID", "CAP_KILL"}
    assert set(service["AmbientCapabilities"].split()) == set(service["CapabilityBoundingSet"].split()) == needed
    comment = "\n".join(line[2:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# "))
    [command] = re.findall(r"(?s)chat_cmd = \[.*?\]", comment)
    words = tomllib.loads(command)["chat_cmd"]
    assert words[0] == "setpriv"
    assert {"--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs"} < set(words)


# -- launchd ----------------------------------------------------------------------------------------------------


def test_launchd_can_read_the_property_list() -> None:
    ET.fromstring(PLIST.read_text(encoding="utf-8"))  # a comment with two dashes would be accepted by some readers only
    found = plist()
    assert found["Label"] == PLIST.stem
    assert found["RunAtLoad"] is True
    assert found["Umask"] == 0o077
    paths = [found["WorkingDirectory"], found["ProgramArguments"][0], found["StandardErrorPath"]]
    assert all(path.startswith("/Users/YOU") for path in paths)
    assert not any(word.startswith(("~", "$")) for word in found["ProgramArguments"])


def test_launchd_restarts_after_a_failure_and_waits_long_enough() -> None:
    found = plist()
    assert found["KeepAlive"] == {"SuccessfulExit": False}
    assert found["ThrottleInterval"] >= 10
    assert found["ExitTimeOut"] > NEEDED_S
    assert "ProcessType" not in found  # "Background" would slow the agent command down


# -- supervisor -------------------------------------------------------------------------------------------------


def test_supervisor_restarts_after_a_failure_and_waits_long_enough() -> None:
    found = program()
    assert found["autostart"] == "true"
    assert found["autorestart"] == "unexpected"
    assert found["exitcodes"] == "0"
    assert int(found["startretries"]) > 10
    assert int(found["stopwaitsecs"]) > NEEDED_S


def test_supervisor_sends_sigterm_to_the_worker_alone() -> None:
    found = program()
    assert found["stopsignal"] == "TERM"
    assert found["stopasgroup"] == "false"
    assert found["killasgroup"] == "true"
    assert found["umask"] == "077"


def test_supervisor_expands_nothing_as_a_variable() -> None:
    settings = [line for line in SUPERVISOR.read_text(encoding="utf-8").splitlines() if not line.startswith(";")]
    assert not any("%" in line for line in settings)


# -- all of them ------------------------------------------------------------------------------------------------


def test_all_units_run_the_documented_command() -> None:
    commands = [unit()["Service"]["ExecStart"].split(), plist()["ProgramArguments"], program()["command"].split()]
    for command in commands:
        assert Path(command[0]).name == "agentbus"
        assert command[1:4] == ["worker", "run", "--config"]
        assert Path(command[4]).is_absolute()
    linux = unit()["Service"], program()
    assert linux[0]["ExecStart"] == linux[1]["command"]
    assert linux[0]["WorkingDirectory"] == linux[1]["directory"]


def test_every_unit_explains_how_to_install_it() -> None:
    for path in (UNIT, PLIST, SUPERVISOR):
        text = path.read_text(encoding="utf-8")
        assert "pip install ." in text
        assert path.name in text

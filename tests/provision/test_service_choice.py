"""The service manager that is chosen if none is named: that of this machine, or an error with the reason."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from agentbus.errors import ServiceError
from agentbus.provision.services import manager_command
from agentbus.provision.services.choice import service_manager

pytestmark = pytest.mark.posix("services of systemd, launchd and supervisor")


def machine(
    monkeypatch: pytest.MonkeyPatch, *, platform: str = "linux", systemd: bool = False, user: int = 1000
) -> None:
    is_dir = Path.is_dir
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(
        Path,
        "is_dir",
        lambda path: systemd if str(path) == "/run/systemd/system" else is_dir(path),  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    )


@pytest.mark.parametrize(("user", "manager"), [(0, "systemd"), (1000, "systemd-user")])
def test_with_systemd_root_gets_the_manager_of_the_system_and_others_that_of_the_user(
    monkeypatch: pytest.MonkeyPatch, user: int, manager: str
) -> None:
    machine(monkeypatch, systemd=True, user=user)
    assert service_manager().name == manager


def test_macos_has_launchd(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, platform="darwin")
    assert service_manager().name == "launchd"


def test_without_systemd_an_installed_supervisor_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    assert service_manager().name == "supervisor"
    monkeypatch.setattr(shutil, "which", lambda _: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    with pytest.raises(ServiceError, match="neither systemd nor supervisor runs on this machine"):
        service_manager()


def test_windows_has_no_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, platform="win32")
    with pytest.raises(ServiceError, match="install this in WSL"):
        service_manager()


def test_a_manager_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager_command, "_TIMEOUT_S", 0.1)
    hangs = tmp_path / "systemctl"
    hangs.write_text("#!/bin/sh\nexec sleep 1000\n", encoding="utf-8")
    hangs.chmod(0o755)
    with pytest.raises(ServiceError, match=r"has not ended within 0\.1 s"):
        manager_command.run_all([[str(hangs), "start", "agentbus-worker-code"]])

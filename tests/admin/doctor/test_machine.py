"""`agentbus doctor` reports an agent command or a folder that a worker cannot use."""

import os
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from agentbus import Coordinator
from agentbus.admin.doctor.machine import check_machine
from agentbus.config.loading import load_worker
from agentbus.provision.nats_server import NatsServer
from support.doctor import doctor, the_finding
from support.harness import worker_toml

pytestmark = pytest.mark.posix("workers run on POSIX systems")


async def test_a_missing_agent_command_and_an_unwritable_folder_are_failures(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    config = worker_toml(tmp_path, server.url, chat_cmd=["no-such-agent", "{input}"])
    findings = await doctor("--role", "worker", "--config", str(config), code=1)
    assert "the command 'no-such-agent' was not found; install it" in the_finding(findings, "chat_cmd")["text"]
    assert "agentbus setup --agent code" in the_finding(findings, "consumer")["fix"]

    program = tmp_path / "agent"
    program.write_text("#!/bin/sh\necho agent 1.2.3\n", encoding="utf-8")
    program.chmod(0o755)
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    keys = {"state_dir": file / "state"}
    config = worker_toml(tmp_path, server.url, chat_cmd=[str(program), "{input}"], worker=keys)
    findings = await doctor("--role", "worker", "--config", str(config), code=1)
    assert the_finding(findings, "chat_cmd")["text"] == f"{program}: agent 1.2.3"
    assert str(file) in the_finding(findings, "state_dir")["text"]
    assert the_finding(findings, "state_dir")["verdict"] == "failed"


async def test_an_agent_command_that_does_not_start_or_answer_is_reported(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    program = tmp_path / "agent"
    program.write_text("#!/no/such/interpreter\n", encoding="utf-8")
    program.chmod(0o755)
    config = worker_toml(tmp_path, server.url, chat_cmd=[str(program), "{input}"])
    found = the_finding(await doctor("--role", "worker", "--config", str(config), code=1), "chat_cmd")
    assert (found["verdict"], found["fix"]) == ("failed", "install it again")
    assert found["text"].startswith(f"{program} cannot be started: ")
    program.write_text("#!/bin/sh\nexec sleep 1000\n", encoding="utf-8")
    found = the_finding(await doctor("--role", "worker", "--config", str(config), code=1), "chat_cmd")
    assert (found["verdict"], found["text"]) == ("warning", f"{program} does not answer to --version")


async def test_outcomes_that_wait_for_the_bus_for_longer_than_a_lease_are_a_warning(tmp_path: Path):
    config, _ = load_worker(worker_toml(tmp_path, "nats://127.0.0.1:4222"))
    outbox = config.worker.state_dir / "bus" / "code" / "0" / "outbox"
    outbox.mkdir(parents=True)
    for name, age_s in (("new", 5), ("old", 40), ("older", 90)):
        (outbox / f"{name}.json").write_text("{}", encoding="utf-8")
        os.utime(outbox / f"{name}.json", (time.time() - age_s, time.time() - age_s))
    found = the_finding([finding.to_json() async for finding in check_machine(config)], "outbox")
    assert found["verdict"] == "warning"
    assert found["text"].startswith("outcomes that the bus has not taken: 2, the oldest for 9")
    assert found["text"].endswith(str(outbox))
    for path in outbox.iterdir():
        path.unlink()
    assert "outbox" not in [finding.check async for finding in check_machine(config)]


class Usage(NamedTuple):
    """As `shutil.disk_usage` returns it."""

    total: int
    used: int
    free: int


@pytest.mark.parametrize(("free", "verdict"), [(2 << 30, "ok"), (500 << 20, "warning"), (50 << 20, "failed")])
async def test_a_disk_with_little_room_is_a_warning_and_a_full_one_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, verdict: str
):
    def disk_usage(_: Path) -> Usage:
        return Usage(10 << 30, (10 << 30) - free, free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    config, _ = load_worker(worker_toml(tmp_path, "nats://127.0.0.1:4222"))
    findings = [finding.to_json() async for finding in check_machine(config)]
    for check in ("state_dir", "log dir"):
        finding = the_finding(findings, check)
        assert finding["verdict"] == verdict
        assert f"{free / (1 << 30):.1f} GiB free" in finding["text"]
        assert ("free some space" in finding.get("fix", "")) == (verdict != "ok")

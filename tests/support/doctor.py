"""Runs `agentbus doctor`, and reads its findings."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from agentbus.admin.doctor.check_context import Role
from agentbus.admin.doctor.run_checks import run_checks
from agentbus.config.loading import load_coordinator
from agentbus.config.toml_text import toml_text
from support.harness import SUPPORT, run_cli
from support.installation import Installed

ODD_CLOCK = str(SUPPORT / "odd_clock.py")


async def doctor(*arguments: str, code: int = 0, **env: str) -> list[dict[str, Any]]:
    done = await run_cli("doctor", "--json", *arguments, env=env)
    assert done.code == code, done.out + done.err
    return [json.loads(line) for line in done.out.splitlines()]


async def doctor_at(clock: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run it with a clock that is wrong by the number of seconds in a file."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, ODD_CLOCK, clock, "doctor", "--json", *arguments, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    return [json.loads(line) for line in out.splitlines()]


async def doctor_in_process(url: str, role: Role = "coordinator") -> list[dict[str, Any]]:
    """Run it in the process of the test, whose patches it sees."""
    config, _ = load_coordinator(nats_url=url)
    return [finding.to_json() async for finding in run_checks(role, config, "a test")]


def not_ok(findings: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the warnings and failures, except the warning about nats-server 2.10, with which these tests also run."""
    return [
        (finding["check"], finding["verdict"])
        for finding in findings
        if finding["verdict"] != "ok" and not (finding["check"] == "server" and " 2.10." in finding["text"])
    ]


def the_finding(findings: list[dict[str, Any]], check: str) -> dict[str, Any]:
    [found] = [finding for finding in findings if finding["check"] == check]
    return found


def coordinator_toml(folder: Path, bus: Installed, user: str = "main", **nats: Any) -> Path:
    path = folder / f"{user}.toml"
    path.write_text(toml_text({"nats": {**bus.nats(user), **nats}, "coordinator": {"id": user}}), encoding="utf-8")
    path.chmod(0o600)
    return path

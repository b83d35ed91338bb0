"""`agentbus doctor` reports an old or lost server, a wrong clock or consumer, and a stream that is nearly full."""

import json
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer
from support.altered_link import AlteredLink, without
from support.doctor import doctor, doctor_at, doctor_in_process, not_ok, the_finding
from support.harness import run_cli, worker_toml

pytestmark = pytest.mark.posix("not tried on Windows")


@pytest.mark.parametrize(("offset", "said"), [(3600, "ahead of"), (-3600, "behind")])
async def test_a_wrong_clock_is_a_warning(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, offset: int, said: str
):
    clock = tmp_path / "clock"
    clock.write_text(str(offset), encoding="utf-8")
    finding = the_finding(await doctor_at(clock, "--nats-url", server.url), "clock")
    assert finding["verdict"] == "warning"
    assert f"this machine is 3600.0 s {said} the server" in finding["text"] or "3599.9" in finding["text"]


async def test_the_consumer_of_another_agent_is_a_failure(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    await set_up(coordinator.bus, ["code", "doc"])
    config = worker_toml(tmp_path, server.url, nats={"durable": "agent-doc"})
    found = the_finding(await doctor("--role", "worker", "--config", str(config), code=1), "consumer")
    assert (found["verdict"], found["text"]) == ("failed", "the consumer agent-doc takes agent.doc.tasks")
    assert "durable" in found["fix"]


@pytest.mark.parametrize(
    ("stream", "subject", "help_with"),
    [
        ("AGENT_TASKS", "agent.code.tasks", "agentbus task cancel ID"),
        ("KV_AGENT_STATE", "$KV.AGENT_STATE.doc.filler", "agentbus setup --keep-results 11 --keep-states 19"),
        ("AGENT_RESULTS", "agent.main.results", "agentbus setup --keep-results 15"),
        ("AGENT_DEAD", "agent.code.dead", "agentbus dead list"),
    ],
)
async def test_from_eight_tenths_on_a_stream_is_a_warning_with_the_command_that_makes_room(
    server: NatsServer, coordinator: Coordinator, stream: str, subject: str, help_with: str
):
    bus = coordinator.bus
    config = (await bus.api(f"STREAM.INFO.{stream}"))["config"]
    await bus.api(f"STREAM.UPDATE.{stream}", {**config, "max_bytes": 1 << 20})
    await bus.store(subject, b"x" * 820_000)
    assert "room" not in [check for check, _ in not_ok(await doctor_in_process(server.url, "administrator"))]
    await bus.store(f"{subject}2" if "KV" in stream else subject, b"x" * 30_000)
    reports = [await doctor_in_process(server.url, "administrator")]
    if stream != "AGENT_DEAD":  # a coordinator may not look at the dead letters
        reports.append(await doctor_in_process(server.url))
    for report in reports:
        found = the_finding(report, "room")
        assert (found["verdict"], found["text"]) == ("warning", f"{stream} holds 81% of its 1 MiB")
        assert help_with in found["fix"]
        assert f"nats stream edit {stream} --max-bytes" in found["fix"]
    page = json.loads((await run_cli("status", "--nats-url", server.url)).out)
    [warned] = page["warnings"]
    assert warned.startswith(f"{stream} holds 81% of its 1 MiB; an administrator can ")
    assert help_with in warned


async def test_what_accepted_tasks_will_add_counts_for_the_warning_of_the_ledger(
    server: NatsServer, coordinator: Coordinator
):
    config = (await coordinator.bus.api("STREAM.INFO.KV_AGENT_STATE"))["config"]
    await coordinator.bus.api("STREAM.UPDATE.KV_AGENT_STATE", {**config, "max_bytes": 1 << 20})
    await coordinator.publish("code", "x" * 850_000)
    found = the_finding(await doctor_in_process(server.url), "room")
    assert found["text"] == "KV_AGENT_STATE holds 0% of its 1 MiB, and accepted tasks will add 81%"
    assert "from 90% on, no task is taken" in found["fix"]


@pytest.mark.parametrize("version", ["2.9.25", "2.10.3"])
async def test_an_old_server_is_a_warning(link: AlteredLink, version: str):
    link.info["version"] = version
    finding = the_finding(await doctor_in_process(link.url), "server")
    assert (finding["verdict"], finding["fix"]) == ("warning", "upgrade the server")
    assert version in finding["text"]


async def test_without_a_time_in_the_answers_of_the_server_the_clock_is_not_checked(link: AlteredLink):
    link.changes["$JS.API.STREAM.INFO"] = without("ts")
    findings = await doctor_in_process(link.url)
    assert [finding for finding in findings if finding["check"] == "clock"] == []
    assert not_ok(findings) == []


async def test_a_server_that_is_lost_during_the_checks_is_a_failure(link: AlteredLink, server: NatsServer):
    def lose(data: bytes) -> bytes:
        server.kill()
        return data

    link.changes["$JS.API.STREAM.PURGE.agentbus-doctor"] = lose
    findings = await doctor_in_process(link.url)
    assert the_finding(findings, "sign-in")["verdict"] == "ok"
    assert not_ok(findings) == [("answers", "failed")]
    assert "start the server" in the_finding(findings, "answers")["fix"]

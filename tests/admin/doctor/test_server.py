"""`agentbus doctor` reports an old or lost server, a wrong clock or consumer, and a stream that is nearly full."""

from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer
from support.altered_link import AlteredLink, without
from support.doctor import doctor, doctor_at, doctor_in_process, not_ok, the_finding
from support.harness import worker_toml

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


async def test_a_stream_that_is_nearly_full_is_a_warning(server: NatsServer, coordinator: Coordinator):
    bus = coordinator.bus
    config = (await bus.api("STREAM.INFO.AGENT_RESULTS"))["config"]
    await bus.api("STREAM.UPDATE.AGENT_RESULTS", {**config, "max_bytes": 1 << 20})
    await bus.store("agent.main.results", b"x" * 950_000, msg_id="large")
    found = the_finding(await doctor("--nats-url", server.url), "room")
    assert found["verdict"] == "warning"
    assert found["text"].startswith("AGENT_RESULTS holds 9")
    assert found["text"].endswith("% of its 1 MiB")


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

"""`agentbus doctor --probe` publishes a task to a real worker."""

from pathlib import Path

import pytest

from agentbus import Coordinator, TaskStatus
from agentbus.admin.doctor.agent import round_trip
from agentbus.provision.nats_server import NatsServer
from support.doctor import doctor, the_finding
from support.harness import eventually, worker, worker_toml
from support.jobs import error

pytestmark = pytest.mark.posix("not tried on Windows")


async def test_a_probe_is_run_by_a_real_worker(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    findings = await doctor("--nats-url", server.url, "--probe", "code", code=1)
    assert "no worker of code is alive" in the_finding(findings, "round trip")["text"]
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", "echo pong", "sh", "{input}"])):
        findings = await doctor("--nats-url", server.url, "--probe", "code")
    assert the_finding(findings, "round trip") == {
        "check": "round trip",
        "verdict": "ok",
        "text": "code answered: 'pong'",
    }
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", "exit 7", "sh", "{input}"])):
        findings = await doctor("--nats-url", server.url, "--probe", "code", code=1)
    assert "exited with status 7" in the_finding(findings, "round trip")["text"]


async def test_a_probe_on_a_bus_that_was_not_set_up_fails_with_the_set_up_command(server: NatsServer):
    findings = await doctor("--nats-url", server.url, "--probe", "code", code=1)
    assert the_finding(findings, "round trip")["verdict"] == "failed"
    assert "agentbus setup" in the_finding(findings, "round trip")["text"]


async def test_a_probe_that_is_not_answered_in_time_is_cancelled(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(round_trip, "_ANSWER_S", 1.0)
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=["sh", "-c", "sleep 1000", "sh", "{input}"])):
        await eventually(lambda: coordinator.agents("code"), "the worker is seen")
        finding = await round_trip.check_round_trip(coordinator.bus, "main", "code")
        assert (finding.verdict, finding.text) == ("failed", "code has not answered within 1 s")
        [task] = (await coordinator.list_tasks()).tasks

        async def has_result() -> TaskStatus | None:
            """Cancelled in the queue, it gets its result once a worker comes to it."""
            status = await coordinator.task(task.task_id).status()
            return status if status.result else None

        status = await eventually(has_result, "it has its result")
    assert (status.state, error(status)) == ("cancelled", "cancelled by agent-main: agentbus doctor timed out")

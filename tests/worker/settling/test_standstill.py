"""A worker that was paused (SIGSTOP, a suspended machine) and continues: its clock has run meanwhile."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.harness import alive, eventually, worker, worker_toml
from support.jobs import outcome, pid_from, publish, settled, text
from support.pace import at_this_pace


@pytest.mark.parametrize("limit", ["task_timeout_seconds", "idle_timeout_seconds"])
async def test_a_command_that_ended_in_time_while_its_worker_was_paused_has_not_timed_out(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, limit: str
):
    pid_file = tmp_path / "pid"
    limit_s = at_this_pace(2)
    async with worker(worker_toml(tmp_path, server.url, worker={limit: limit_s})) as child:
        task_id = await publish(coordinator, f"pid:{pid_file} sleep:0.5 say:done")
        pid = await pid_from(pid_file)
        os.kill(child.pid, signal.SIGSTOP)
        try:
            await eventually(lambda: not alive(pid), "the command has ended")
            await asyncio.sleep(limit_s + 0.5)  # the limit passes: what is tested
        finally:
            os.kill(child.pid, signal.SIGCONT)
        status = await settled(coordinator, task_id)
        assert (status.state, text(status)) == ("completed", "done\n")
        assert (await outcome(coordinator, "sleep:600")).state == "failed", "and the limit still holds"

"""A temporary bus and its fake agents: real ones, which answer as told and leave nothing behind."""

import sys
from pathlib import Path

import pytest

from agentbus import Result, connect
from agentbus.errors import BusUnavailableError, FakeAgentError, InvalidIdError
from agentbus.provision.nats_server import BINARY_VARIABLE
from agentbus.testing import fake_agent as fake_agent_module
from agentbus.testing.fake_agent import fake_agent
from agentbus.testing.temporary_bus import TemporaryBus, temporary_bus
from support.harness import eventually

RESULT_S = 30.0


async def result_of(bus: TemporaryBus, content: str, task_type: str = "test", agent: str = "code") -> Result:
    async with connect(bus.url) as coordinator:
        task = await coordinator.publish(agent, content, task_type=task_type)
        return await task.result(RESULT_S)


async def test_a_temporary_bus_takes_tasks_and_is_gone_after_the_block() -> None:
    async with temporary_bus() as bus, connect(bus.url) as coordinator:
        task = await coordinator.publish("code", "hello")
        assert (await task.status()).state == "queued"
    assert not bus.folder.exists()
    with pytest.raises(BusUnavailableError):
        async with connect(bus.url):
            pass


async def test_two_temporary_buses_know_nothing_of_each_other() -> None:
    async with temporary_bus() as one, temporary_bus() as other, connect(one.url) as here, connect(other.url) as there:
        await here.publish("code", "hello")
        assert (await there.list_tasks()).tasks == []


async def test_a_fake_agent_answers_done_until_it_is_told_otherwise() -> None:
    async with temporary_bus() as bus, fake_agent(bus) as code:
        first = await result_of(bus, "one")
        code.answer("looks göod\n", task_type="review")
        code.answer("no idea")
        review, other = await result_of(bus, "two", "review"), await result_of(bus, "three")
        assert [(one.status, one.result) for one in (first, review, other)] == [
            ("completed", "done"),
            ("completed", "looks göod\n"),
            ("completed", "no idea"),
        ]
        assert [task.payload and task.payload.content for task in code.received()] == ["one", "two", "three"]
        assert [task.task_type for task in code.received()] == ["test", "review", "test"]


async def test_a_fake_agent_fails_with_its_exit_code_and_asks_for_approval() -> None:
    async with temporary_bus() as bus, fake_agent(bus) as code:
        code.fail("no such branch", exit_code=3)
        code.answer("status=needs_approval\nmay I delete it?", task_type="delete")
        failed, asking = await result_of(bus, "x"), await result_of(bus, "y", "delete")
    assert failed.status == "failed"
    assert "3" in str(failed.error)
    assert "no such branch" in str(failed.error)
    assert (asking.status, str(asking.result).splitlines()[-1]) == ("needs_approval", "may I delete it?")


async def test_a_fake_agent_that_hangs_works_until_its_task_is_cancelled() -> None:
    async with temporary_bus() as bus, fake_agent(bus) as code, connect(bus.url) as coordinator:
        code.hang()
        task = await coordinator.publish("code", "x")
        await eventually(code.received, "the command has started")
        # A worker is as fast as the answer at times.
        assert (await task.cancel("enough")).state in {"working", "cancelled"}
        result = await task.result(RESULT_S)
    assert (result.status, result.error) == ("cancelled", "cancelled by agent-main: enough")


async def test_a_block_that_ends_while_the_agent_hangs_does_not_wait_for_it() -> None:
    async with temporary_bus() as bus, connect(bus.url) as coordinator, fake_agent(bus) as code:
        code.hang()
        await coordinator.publish("code", "x")
        await eventually(code.received, "the command has started")


async def test_several_fake_agents_and_tasks_run_side_by_side() -> None:
    async with (
        temporary_bus() as bus,
        fake_agent(bus, "code", concurrency=2) as code,
        fake_agent(bus, "agent-doc") as doc,
        connect(bus.url) as coordinator,
    ):
        code.hang(task_type="long")
        await coordinator.publish("code", "x", task_type="long")
        await eventually(code.received, "the first command has started")
        results = [await result_of(bus, "y", agent=agent) for agent in ("code", "doc")]
        assert [result.status for result in results] == ["completed", "completed"]
        assert doc.id == "doc"
        assert len(doc.received()) == 1


async def test_an_agent_id_that_is_not_valid_starts_nothing() -> None:
    async with temporary_bus() as bus:
        with pytest.raises(InvalidIdError):
            async with fake_agent(bus, "a.b"):
                pass


async def test_a_worker_that_does_not_start_is_an_error_with_the_end_of_its_log() -> None:
    async with temporary_bus() as bus:
        with pytest.raises(FakeAgentError, match="ended with exit code 1: error: the NATS URL"):
            async with fake_agent(TemporaryBus("nats://[", bus.folder)):
                pass


async def test_a_worker_that_reaches_no_bus_is_an_error_after_the_time_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_agent_module, "_START_TIMEOUT_S", 2.0)
    with pytest.raises(FakeAgentError, match="not ready within 2 s"):
        async with fake_agent(TemporaryBus("nats://127.0.0.1:1", tmp_path)):
            pass


async def test_a_worker_that_ignores_the_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_agent_module, "_STOP_TIMEOUT_S", 0.5)
    stubborn = tmp_path / "python"
    stubborn.write_text("#!/bin/sh\ntrap '' TERM\necho ready for tasks >&2\nexec sleep 600\n", "utf-8")
    stubborn.chmod(0o700)
    async with temporary_bus() as bus:
        monkeypatch.setattr(sys, "executable", str(stubborn))
        async with fake_agent(bus):
            pass


async def test_a_bus_without_a_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(BINARY_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(Exception, match="which does not exist"):
        async with temporary_bus():
            pass

"""Operators pause an agent for all its workers, and let it go on; no other party can."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import agentbus
from agentbus import Coordinator
from agentbus.admin.audit_log import Wanted, newest_lines
from agentbus.bus.jetstream import connect
from agentbus.bus.setup import set_up
from agentbus.cli.waiting_tasks import warn_without_worker
from agentbus.errors import ConfigError, MessageError, PermissionDeniedError
from agentbus.protocol.audit.lines import Line
from agentbus.protocol.json_codec import encode
from agentbus.protocol.parties import agent_control
from agentbus.provision.nats_server import NatsServer, run_server
from agentbus_mcp.operations.agents_status import agents_status
from support.doctor import doctor
from support.harness import BOUND_S, eventually, run_cli, worker, worker_toml
from support.installation import OwnBus, own_bus
from support.jobs import publish, settled

pytestmark = pytest.mark.posix("runs workers")


@pytest.fixture
async def team(tmp_path: Path) -> AsyncGenerator[OwnBus]:
    people = {"alice": ("member", ["code"]), "bob": ("viewer", None), "carol": ("operator", None)}
    async with own_bus(tmp_path, ["code", "doc"], coordinators=people) as bus:  # pyright: ignore[reportArgumentType]
        yield bus


async def shown_as(coordinator: Coordinator, code: str | None) -> None:
    async def shown() -> bool:
        workers = await coordinator.agents("code")
        return bool(workers) and all((one.paused.code if one.paused else None) == code for one in workers)

    await eventually(shown, f"all workers are shown as paused: {code}")


async def test_a_pause_holds_for_all_workers_and_for_those_that_start_later_and_running_tasks_go_on(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    go, started, one, two = tmp_path / "go", tmp_path / "started", tmp_path / "one", tmp_path / "two"
    at, folders = ("--nats-url", server.url), (one, two)
    for folder in folders:
        folder.mkdir()
    async with worker(worker_toml(one, server.url)) as first:
        running = await publish(coordinator, f"touch:{started} wait:{go} say:done")
        await eventually(started.exists, "a task runs")
        ran = await run_cli("agent", "pause", "code", "--reason", "the key\x1b[2J is replaced", *at)
        assert (ran.code, ran.out.startswith("paused code: ")) == (0, True), ran
        await first.until_said("paused by main")
        waiting = [await publish(coordinator, "say:later") for _ in range(3)]
        async with worker(worker_toml(two, server.url)):
            await shown_as(coordinator, "operator")
            go.touch()
            assert (await settled(coordinator, running)).state == "completed"
            [found] = await coordinator.overview("code")
            assert found.paused_by is not None
            assert (found.waiting, found.paused_by.by) == (3, "main")
            listed = await run_cli("agent", "list", *at)
            [line] = [json.loads(text) for text in listed.out.splitlines()]
            assert line["paused_by"]["reason"].startswith("the key")
            assert "agentbus agent resume code" in line["troubles"][0]
            assert "\x1b" not in listed.out + listed.err
            assert "paused by main" in (await run_cli("status", *at)).out
            waited = await run_cli("task", "wait", waiting[0], "--timeout", "2", *at)
            assert "(operator)" in waited.err, waited
            told = await run_cli("task", "publish", "--to", "code", "--task-type", "test", *at, "say:x")
            assert "agentbus agent resume code" in told.err, told
            assert (await run_cli("agent", "resume", "code", *at)).code == 0
            assert [(await settled(coordinator, task_id)).state for task_id in waiting] == ["completed"] * 3
            await shown_as(coordinator, None)


async def test_a_pause_outlives_the_server_and_a_worker_that_is_stopped_in_it_ends_at_once(tmp_path: Path):
    async with run_server(store=tmp_path / "nats") as server, agentbus_at(server) as coordinator:
        await coordinator.pause_agent("code")
    async with run_server(store=tmp_path / "nats") as server, agentbus_at(server) as coordinator:
        task_id = await publish(coordinator, "say:done")
        async with worker(worker_toml(tmp_path, server.url)) as child:
            await shown_as(coordinator, "operator")
            child.terminate()
            assert await child.exit_code() == 0
        assert (await coordinator.task(task_id).status()).record.entry.attempt == 0


@asynccontextmanager
async def agentbus_at(server: NatsServer) -> AsyncGenerator[Coordinator]:
    async with agentbus.connect(server.url) as coordinator:
        await set_up(coordinator.bus, ["code"])
        yield coordinator


async def test_only_operators_pause_and_the_others_are_told_so(team: OwnBus, tmp_path: Path):
    async with worker(team.worker_toml(tmp_path, "code")), team.coordinator("main") as main:
        for name, role in (("alice", "member"), ("bob", "viewer")):
            async with team.coordinator(name, role) as other:  # pyright: ignore[reportArgumentType]
                for asked in (other.pause_agent("code"), other.resume_agent("code")):
                    with pytest.raises(PermissionDeniedError, match="only an operator may pause an agent"):
                        await asked
        async with connect(team.settings("alice")) as alice:
            # A member may tell the workers of its agents to look; what they find decides.
            await alice.publish("agent.code.control", encode({"control": True, "paused": {"by": "alice", "since": ""}}))
        task = await main.publish("code", "say:done", task_type="test")
        assert (await main.wait([task.id], timeout_s=BOUND_S)).settled[task.id].state == "completed"
        async with team.coordinator("carol", "operator") as carol, team.coordinator("bob", "viewer") as bob:
            await carol.pause_agent("code", "a look at it")
            await shown_as(main, "operator")
            seen = {one.agent: one.paused_by for one in await bob.overview()}
            assert (seen["doc"], seen["code"] and seen["code"].by) == (None, "carol")
        findings = await doctor("--role", "administrator", "--config", str(team.folder.administrator))
        assert [one for one in findings if one["check"] == "workers" and "(operator)" in one["text"]]


async def test_members_and_the_audit_are_told_who_has_paused_an_agent_of_which_no_worker_is_alive(
    team: OwnBus, capsys: pytest.CaptureFixture[str]
) -> None:
    async with team.coordinator("carol", "operator") as carol:
        await carol.pause_agent("code", "a look at it")
        await carol.pause_agent("doc")
        await carol.resume_agent("doc")
        lines = await eventually(lambda: said_by_operators(carol, 3), "three lines in the audit")
    assert [(line.who, line.named_by, line.what, line.agent, line.detail) for line in lines] == [
        ("carol", "subject", "pause", "code", "a look at it"),
        ("carol", "subject", "pause", "doc", ""),
        ("carol", "subject", "resume", "doc", ""),
    ]
    async with team.coordinator("alice", "member") as alice:
        seen = {one.agent: one for one in await alice.overview()}
        assert (seen["code"].online, seen["code"].paused_by and seen["code"].paused_by.by) == (False, "carol")
        assert seen["doc"].paused_by is None
        status = await agents_status(alice)
        note = status.offline_note(["code", "doc"])
        assert note is not None
        assert "no worker of doc is alive now" in note
        assert "code is paused by carol" in note
        assert "a look at it" in note
        await warn_without_worker(alice, "code")
    assert "the agent code is paused by carol" in capsys.readouterr().err


async def said_by_operators(coordinator: Coordinator, count: int) -> list[Line]:
    lines = [line for line in await newest_lines(coordinator.bus, Wanted(), 100) if line.what in ("pause", "resume")]
    return lines if len(lines) >= count else []


async def test_on_a_bus_of_an_older_layout_workers_work_and_an_operator_is_told_what_to_do(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await coordinator.bus.api(f"STREAM.DELETE.{agent_control.STREAM}")
    async with worker(worker_toml(tmp_path, server.url)):
        assert (await settled(coordinator, await publish(coordinator, "say:done"))).state == "completed"
        with pytest.raises(ConfigError, match="an administrator must run agentbus setup"):
            await coordinator.pause_agent("code")
        assert [one.paused_by for one in await coordinator.overview()] == [None]


async def test_a_reason_that_is_too_long_is_refused(coordinator: Coordinator):
    with pytest.raises(MessageError, match="at most 400"):
        await coordinator.pause_agent("code", "x" * 401)

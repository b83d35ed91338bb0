"""Who may tell and read what runs do, on a bus with roles: each agent writes its own, each member reads its own."""

import json
from pathlib import Path

import pytest

from agentbus.bus.jetstream import connect
from agentbus.errors import BusError, PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.progress import names
from agentbus.protocol.progress.events import ProgressMessage, RunEvent
from agentbus.protocol.subjects import TaskKey
from support.harness import eventually, worker
from support.installation import OwnBus

pytestmark = pytest.mark.posix("a worker needs process groups and signals")


def forged(agent: str, task: str, owner: str) -> tuple[str, bytes]:
    message = ProgressMessage("forged", 1, 1.0, (RunEvent("text", 1.0, "all is well"),))
    return names.of_task(TaskKey(agent, task, owner)), json.dumps(message.to_json()).encode()


async def test_a_member_follows_its_own_runs_and_no_others(team: OwnBus, tmp_path: Path) -> None:
    go = tmp_path / "go"
    async with (
        team.coordinator("alice") as alice,
        team.coordinator("dave") as dave,
        team.coordinator("carol", "operator") as carol,
        worker(team.worker_toml(tmp_path, "code")),
    ):
        task = await alice.publish("code", f"say:for_alice wait:{go}", task_type="test")
        key = TaskKey("code", task.id, "alice")
        told = await eventually(task.progress, "its run has told something")
        assert told.in_words.startswith("for alice (after ")
        theirs = await eventually(carol.task(task.id, owner="alice").progress, "an operator reads all")
        assert theirs == told
        go.touch()
        assert [event.text async for event in task.events()] == ["for alice"]
        assert team.violations() == []
        with pytest.raises((PermissionDeniedError, SetupMissingError)):
            await dave.bus.last_message(names.stream("code"), names.of_task(key))
        for wanted in (names.of_task(key), names.of_agent("code")):
            filtered = {"filter_subject": wanted, "ack_policy": "none"}
            with pytest.raises(BusError):
                await dave.bus.create_consumer(names.stream("code"), "mine", filtered, timeout_s=1)


async def test_no_other_party_tells_what_runs_of_an_agent_do(team: OwnBus) -> None:
    async with (
        team.coordinator("alice") as alice,
        team.coordinator("main") as main,
        connect(team.settings("doc")) as doc,
    ):
        task = await alice.publish("code", "x", task_type="test")
        subject, data = forged("code", task.id, "alice")
        for party in (doc, alice.bus, main.bus):
            with pytest.raises(PermissionDeniedError):
                await party.store(subject, data, timeout_s=1)
        subject, data = forged("doc", "t", "main")
        await doc.store(subject, data)
        assert await task.progress() is None
        for verb in (f"STREAM.DELETE.{names.stream('code')}", f"STREAM.PURGE.{names.stream('doc')}"):
            with pytest.raises(PermissionDeniedError):
                await doc.request(subjects.api(verb), timeout_s=1)

"""A result that the bus refuses, or does not take before the worker must end: it is kept, and nothing runs again."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer, run_server
from agentbus.tasks.presence import RefusedResults
from agentbus_worker.settling.claim import claim
from agentbus_worker.settling.slots import Slots
from support.delivered import UNUSABLE, delivered
from support.doctor import doctor_in_process
from support.harness import eventually, worker, worker_toml
from support.jobs import acknowledged, error, fill, publish, ran_nothing, result_messages, settled, short_lease, text


def runs(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def outcomes(folder: Path) -> list[Path]:
    return list((folder / "state").glob("*/code/*/outbox/*.json"))


# -- refused for good -------------------------------------------------------------------------------------------


async def limit_entries(bus: Coordinator, size: int) -> None:
    """Let the ledger take no entry that is larger."""
    config = (await bus.bus.stream_info(subjects.STATE_STREAM)).config
    await bus.bus.api(f"STREAM.UPDATE.{subjects.STATE_STREAM}", {**config, "max_msg_size": size})


async def test_an_outcome_that_is_too_large_for_the_ledger_is_made_smaller_and_committed(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    ran, config = tmp_path / "ran", worker_toml(tmp_path, server.url)
    async with worker(config):
        task_id = await publish(coordinator, f"touch:{ran} sleep:0.5 bytes:20000")
        await eventually(ran.exists, "it runs")
        await limit_entries(coordinator, 5_000)
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
    assert (status.state, status.record.entry.attempt, runs(ran), outcomes(tmp_path)) == ("completed", 1, 1, [])
    [message] = await result_messages(coordinator)
    note = message["output"]
    assert (note["truncated"], note["bytes"], note["kept"]) == (True, 20_000, len(message["result"]))
    assert 1_000 < note["kept"] < 5_000


@pytest.mark.parametrize("bytes_taken", [3_000, 2_000])
async def test_a_failure_with_a_large_task_is_made_smaller_and_committed(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, bytes_taken: int
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x" * 60_000, task_id=UNUSABLE)
    async with delivered(coordinator, server, tmp_path) as (context, delivery):
        job = await claim(context, delivery)
        assert job is not None
        await limit_entries(coordinator, bytes_taken)
        with Slots(1).reserve() as reservation:
            await job.run(reservation)
    status = await settled(coordinator, task_id)
    assert (status.state, status.record.entry.attempt) == ("failed", 1)
    assert "would take it for an option" in error(status)
    await acknowledged(coordinator)


async def test_a_cancelled_task_that_is_too_large_for_the_ledger_is_settled_all_the_same(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x" * 60_000)
    await coordinator.task(task_id).cancel()
    async with delivered(coordinator, server, tmp_path) as (context, delivery):
        await limit_entries(coordinator, 3_000)
        assert await claim(context, delivery) is None
    assert [message["status"] for message in await result_messages(coordinator)] == ["cancelled"]


# -- not taken before the worker must end -----------------------------------------------------------------------


NOTHING = "nothing.at.all"


@dataclass
class Guarded:
    """A server on which the worker's user can be shut out."""

    server: NatsServer
    admin: Coordinator
    config: Path

    @property
    def url(self) -> str:
        return self.server.url.replace("nats://", "nats://agent-code:p@")

    async def change_password(self, old: str, new: str) -> None:
        await self.change(f'"{old}"', f'"{new}"')

    async def change(self, old: str, new: str) -> None:
        """Replace a part of the server's configuration."""
        content = self.config.read_text(encoding="utf-8")
        assert old in content
        self.config.write_text(content.replace(old, new), encoding="utf-8")
        told = self.server.log.read_text(encoding="utf-8").count("Reloaded server configuration")
        self.server.reload()
        await eventually(
            lambda: self.server.log.read_text(encoding="utf-8").count("Reloaded server configuration") > told,
            "the server has read its configuration",
        )


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncGenerator[Guarded]:
    store, config = tmp_path / "s", tmp_path / "users.conf"
    denied = {"publish": {"deny": [NOTHING]}}
    users = [
        {"user": "admin", "password": "a"},
        {"user": "agent-code", "password": "p", "permissions": denied},
    ]
    config.write_text(
        f'listen: "127.0.0.1:-1"\njetstream {{ store_dir: {json.dumps(str(store))} }}\n'
        f"authorization {{ users: {json.dumps(users)} }}\n",
        encoding="utf-8",
    )
    async with (
        run_server(store=store, config=config) as server,
        connect(server.url.replace("nats://", "nats://admin:a@")) as admin,
    ):
        await set_up(admin.bus)
        await short_lease(admin)
        yield Guarded(server, admin, config)


@pytest.mark.parametrize("taken", ["$KV.AGENT_STATE.>", "agent.main.results"], ids=["ledger", "inbox"])
async def test_a_refused_outcome_is_told_of_and_settled_when_the_right_is_back_and_its_command_runs_once(
    tmp_path: Path, guarded: Guarded, taken: str
):
    ran, config = tmp_path / "ran", worker_toml(tmp_path, guarded.url)
    async with worker(config) as child:
        task_id = await publish(guarded.admin, f"touch:{ran} sleep:0.7 say:done")
        await eventually(ran.exists, "it runs")
        await guarded.change(NOTHING, taken)
        await child.until_said(f"task {task_id}: the bus refuses its result: the bus does not allow")
        await child.until_said(f"task {task_id}: the bus has refused its result since")  # for longer than the lease

        async def told() -> RefusedResults | None:
            [found] = await guarded.admin.agents("code")
            return found.refused

        refused = await eventually(told, "the registry tells of it")
        assert (refused.count, "does not allow" in refused.reason) == (1, True)
        findings = await doctor_in_process(guarded.server.url.replace("nats://", "nats://admin:a@"))
        said = [finding["text"] for finding in findings if finding["check"] == "workers"]  # it may be paused as well
        assert any("1 result has been refused by the bus since" in text for text in said)
        await guarded.change(taken, NOTHING)
        status = await settled(guarded.admin, task_id)
        await acknowledged(guarded.admin)
        await eventually(lambda: not outcomes(tmp_path), "the outbox is empty")

        async def over() -> bool:
            [found] = await guarded.admin.agents("code")
            return found.refused is None

        await eventually(over, "the registry tells no more of it")
    assert (status.state, text(status), status.record.entry.attempt, runs(ran)) == ("completed", "done\n", 1, 1)
    assert len(await result_messages(guarded.admin)) == 1


async def test_a_worker_whose_credentials_are_revoked_while_it_stores_a_result_keeps_the_outcome_on_disk(
    tmp_path: Path, guarded: Guarded
):
    ran, config = tmp_path / "ran", worker_toml(tmp_path, guarded.url)
    async with worker(config) as child:
        task_id = await publish(guarded.admin, f"touch:{ran} sleep:1 bytes:2000")
        await eventually(ran.exists, "it runs")
        make_room = await fill(guarded.admin, subjects.STATE_STREAM)
        await child.until_said(f"task {task_id}: the result cannot be stored yet")
        await guarded.change_password("p", "another")
        assert await child.exit_code() == 1
        assert child.said("refused the credentials of the user agent-code")
    assert len(outcomes(tmp_path)) == 1
    await guarded.change_password("another", "p")
    await make_room()
    async with worker(config) as child:
        status = await settled(guarded.admin, task_id)
        assert ran_nothing(child)
    assert (status.state, len(text(status)), runs(ran)) == ("completed", 2000, 1)
    assert len(await result_messages(guarded.admin)) == 1


async def test_a_worker_that_stops_now_stores_a_result_if_the_bus_accepts_it(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x", task_id=UNUSABLE)
    async with delivered(coordinator, server, tmp_path) as (context, delivery):
        job = await claim(context, delivery)
        assert job is not None
        job.stop_now()
        with Slots(1).reserve() as reservation:
            await job.run(reservation)
        assert context.outbox.count() == 0
    status = await settled(coordinator, task_id)
    assert status.state == "failed"
    assert "would take it for an option" in error(status)
    await acknowledged(coordinator)


async def test_a_worker_that_stops_now_keeps_a_result_on_disk_if_the_bus_does_not_accept_it(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x", task_id=UNUSABLE)
    async with delivered(coordinator, server, tmp_path) as (context, delivery):
        job = await claim(context, delivery)
        assert job is not None
        await fill(coordinator, subjects.STATE_STREAM)
        job.stop_now()
        with Slots(1).reserve() as reservation:
            await job.run(reservation)
        [kept] = context.outbox.entries()
        assert (kept.task_id, kept.status) == (task_id, "failed")
    assert (await coordinator.task(task_id).status()).state == "working"
    assert await result_messages(coordinator) == []

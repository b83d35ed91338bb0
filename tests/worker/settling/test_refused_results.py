"""A result that the bus refuses for good, or does not take before the worker must end: the outcome stays on disk."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer, run_server
from agentbus_worker.settling.claim import claim
from agentbus_worker.settling.slots import Slots
from support.delivered import delivered
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


async def test_an_outcome_that_the_ledger_refuses_stays_on_disk_until_it_is_accepted(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator)
    ran, config = tmp_path / "ran", worker_toml(tmp_path, server.url)
    async with worker(config) as child:
        task_id = await publish(coordinator, f"touch:{ran} sleep:1 bytes:20000")
        await eventually(ran.exists, "it runs")
        await limit_entries(coordinator, 5_000)
        await child.until_said(f"task {task_id}: the bus refuses its result: the stream refused the message")
        await eventually(lambda: outcomes(tmp_path), "the outcome is on disk")
        # Other tasks do not suffer for it.
        assert text(await settled(coordinator, await publish(coordinator, "say:small"))) == "small\n"
    async with worker(config) as child:
        await child.until_said(f"task {task_id}: its outcome from before the restart is refused: the stream refused")
        await child.until_said("ready for tasks")
        assert len(outcomes(tmp_path)) == 1
    assert (await coordinator.task(task_id).status()).state == "working"
    await limit_entries(coordinator, -1)
    async with worker(config) as child:
        await child.until_said(f"task {task_id}: its outcome from before the restart is delivered")
        status = await settled(coordinator, task_id)
        await eventually(lambda: not outcomes(tmp_path), "the outbox is empty")
        assert ran_nothing(child)
    assert (status.state, len(text(status)), status.record.entry.attempt) == ("completed", 20_000, 1)
    assert runs(ran) == 1
    assert len(await result_messages(coordinator)) == 2


# -- not taken before the worker must end -----------------------------------------------------------------------


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
        content = self.config.read_text(encoding="utf-8")
        assert f'"{old}"' in content
        self.config.write_text(content.replace(f'"{old}"', f'"{new}"'), encoding="utf-8")
        told = self.server.log.read_text(encoding="utf-8").count("Reloaded server configuration")
        self.server.reload()
        await eventually(
            lambda: self.server.log.read_text(encoding="utf-8").count("Reloaded server configuration") > told,
            "the server has read its configuration",
        )


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncGenerator[Guarded]:
    store, config = tmp_path / "s", tmp_path / "users.conf"
    users = [{"user": "admin", "password": "a"}, {"user": "agent-code", "password": "p"}]
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


def unusable(folder: Path) -> dict[str, Any]:
    """A working folder that cannot be made: the task fails before its command is started."""
    (folder / "file").touch()
    return {"workdir": folder / "file" / "folder"}


async def test_a_worker_that_stops_now_stores_a_result_if_the_bus_accepts_it(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x")
    async with delivered(coordinator, server, tmp_path, **unusable(tmp_path)) as (context, delivery):
        job = await claim(context, delivery)
        assert job is not None
        job.stop_now()
        with Slots(1).reserve() as reservation:
            await job.run(reservation)
        assert context.outbox.count() == 0
    status = await settled(coordinator, task_id)
    assert status.state == "failed"
    assert "cannot be made" in error(status)
    await acknowledged(coordinator)


async def test_a_worker_that_stops_now_keeps_a_result_on_disk_if_the_bus_does_not_accept_it(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x")
    async with delivered(coordinator, server, tmp_path, **unusable(tmp_path)) as (context, delivery):
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

"""A ledger that is full, or nearly: what was accepted is finished, once, and publishing says what to do."""

import asyncio
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.errors import StreamFullError
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer
from support.harness import eventually, worker, worker_toml
from support.jobs import acknowledged, counts, publish, result_messages, settled, short_lease, text

pytestmark = pytest.mark.usefixtures("room_is_asked_for")

LEDGER = subjects.STATE_STREAM


async def change(coordinator: Coordinator, **fields: object) -> None:
    config = (await coordinator.bus.stream_info(LEDGER)).config
    await coordinator.bus.api(f"STREAM.UPDATE.{LEDGER}", {**config, **fields})


def runs(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


async def fill_by_raw_messages(coordinator: Coordinator, upto: float) -> None:
    """Fill the ledger as a party does that ignores the mark."""
    info = await coordinator.bus.stream_info(LEDGER)
    await coordinator.bus.store("$KV.AGENT_STATE.doc.filler", bytes(int(upto * info.max_bytes) - info.state.bytes))


async def test_from_the_mark_on_running_tasks_renew_and_settle_and_none_is_run_again(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=1.5)
    await change(coordinator, max_bytes=1 << 20)
    ran = tmp_path / "ran"
    other = tmp_path / "other"
    other.mkdir()
    config = worker_toml(tmp_path, server.url, worker={"concurrency": 2})
    async with worker(config) as child, worker(worker_toml(other, server.url)) as second:
        running = [await publish(coordinator, f"touch:{ran} sleep:4 bytes:2000") for _ in range(3)]
        await eventually(lambda: runs(ran) == 3, "they run")
        waiting = [await publish(coordinator, f"touch:{ran} bytes:2000") for _ in range(3)]
        await fill_by_raw_messages(coordinator, 0.92)
        async with connect(server.url) as fresh:  # what a connection has read counts for ten seconds
            with pytest.raises(StreamFullError, match=r"accepted tasks will add .*\(agentbus setup --keep-results"):
                await publish(fresh, "say:refused")
        for task_id in (*running, *waiting):
            status = await settled(coordinator, task_id)
            assert (len(text(status)), status.record.entry.attempt) == (2000, 1)
        await acknowledged(coordinator)
        assert not any(one.said("cannot be") for one in (child, second))
        await change(coordinator, max_bytes=2 << 20)
        assert text(await settled(coordinator, await publish(coordinator, "say:more"))) == "more\n"
    assert (runs(ran), len(await result_messages(coordinator))) == (6, 7)
    assert (await counts(coordinator))["AGENT_DEAD"] == 0


@pytest.mark.long
async def test_in_a_ledger_that_others_filled_outcomes_wait_and_no_task_is_run_twice(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await short_lease(coordinator, lease_s=1.5)
    await change(coordinator, max_bytes=1 << 20)
    ran = tmp_path / "ran"
    other = tmp_path / "other"
    other.mkdir()
    async with worker(worker_toml(tmp_path, server.url)) as child, worker(worker_toml(other, server.url)) as second:
        running = [await publish(coordinator, f"touch:{ran} sleep:2 bytes:2000") for _ in range(2)]
        await eventually(lambda: runs(ran) == 2, "they run")
        waiting = await publish(coordinator, f"touch:{ran} bytes:2000")
        await fill_by_raw_messages(coordinator, 0.999)
        await change(coordinator, max_bytes=(await coordinator.bus.stream_info(LEDGER)).state.bytes)
        for one in (child, second):
            await one.until_said("the result cannot be stored yet: the stream that takes")
        with pytest.raises(StreamFullError, match="agentbus setup --keep-results"):
            await publish(coordinator, "say:refused")
        await asyncio.sleep(4)  # the leases of both are over by then
        assert runs(ran) == 2
        await change(coordinator, max_bytes=2 << 20)
        for task_id in (*running, waiting):
            status = await settled(coordinator, task_id)
            assert (len(text(status)), status.record.entry.attempt) == (2000, 1)
        await acknowledged(coordinator)
    assert (runs(ran), len(await result_messages(coordinator))) == (3, 3)

"""What is wrong with a machine is not the task's fault: it goes back unrun and uncounted, and the worker pauses."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.setup import set_up
from agentbus.protocol.ledger_entry import MOST_PLACES, Entry, Setbacks
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.presence import Presence
from agentbus_worker.settling.claim import claim
from agentbus_worker.settling.context import Context
from agentbus_worker.settling.decisions import on_setback
from agentbus_worker.settling.slots import Slots
from support.agreement import agreed
from support.cut import Cutter
from support.delivered import delivered
from support.harness import eventually, worker, worker_toml
from support.jobs import acknowledged, counts, publish, result_messages, settled, short_lease, text

NOW = datetime(2026, 5, 18, tzinfo=UTC)


def script(path: Path, ran: Path) -> Path:
    path.write_text(f"#!/bin/sh\necho ran >> {ran}\necho done\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def runs(ran: Path) -> int:
    return len(ran.read_text(encoding="utf-8").splitlines()) if ran.exists() else 0


async def entry_of(coordinator: Coordinator, task_id: str) -> Entry:
    return (await coordinator.task(task_id).status()).record.entry


async def paused_worker(coordinator: Coordinator, instance: str = "") -> Presence:
    async def paused() -> Presence | None:
        found = await coordinator.agents("code")
        return next((one for one in found if one.paused is not None and instance in one.instance), None)

    return await eventually(paused, "a worker is shown as paused")


# -- a machine that breaks for a moment -------------------------------------------------------------------------


def remove(program: Path) -> Callable[[], object]:
    aside = program.rename(program.with_name("aside"))
    return lambda: aside.rename(program)


def forbid(program: Path) -> Callable[[], object]:
    program.chmod(0o644)
    return lambda: program.chmod(0o755)


def hold_open(program: Path) -> Callable[[], object]:
    file = program.open("ab")
    return file.close


def empty(program: Path) -> Callable[[], object]:
    content = program.read_bytes()
    program.write_bytes(b"")
    return lambda: program.write_bytes(content)


def lose_interpreter(program: Path) -> Callable[[], object]:
    content = program.read_bytes()
    program.write_bytes(content.replace(b"#!/bin/sh", b"#!/no/such/interpreter"))
    return lambda: program.write_bytes(content)


@pytest.mark.gate("remove", "empty")
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove, "does not exist"),
        (forbid, "Permission denied"),
        pytest.param(
            hold_open,
            "Text file busy",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="other systems start what is written to"),
        ),
        (empty, "Exec format error"),
        (lose_interpreter, "its interpreter does not exist"),
    ],
    ids=["remove", "forbid", "hold open", "empty", "lose interpreter"],
)
async def test_a_task_whose_command_cannot_be_started_for_a_moment_runs_once_and_the_attempt_does_not_count(
    tmp_path: Path,
    server: NatsServer,
    coordinator: Coordinator,
    damage: Callable[[Path], Callable[[], object]],
    reason: str,
):
    program, ran = script(tmp_path / "agent", tmp_path / "ran"), tmp_path / "ran"
    async with worker(worker_toml(tmp_path, server.url, chat_cmd=[str(program), "{input}"])) as child:
        mend = damage(program)
        task_id = await publish(coordinator, "x")
        await child.until_said("paused (not_started): ")
        shown = await paused_worker(coordinator)
        assert shown.paused is not None
        assert (shown.paused.code, reason in shown.paused.reason, shown.free) == ("not_started", True, 0)
        assert str(tmp_path) not in shown.paused.reason
        entry = await entry_of(coordinator, task_id)
        assert (entry.attempt <= 1, entry.result, entry.setbacks is not None) == (True, None, True)
        mend()
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
        assert child.said("no longer paused")

        async def free_again() -> bool:
            [found] = await coordinator.agents("code")
            return found.paused is None and found.free == 1

        await eventually(free_again, "it is shown as free")
        assert child.log.read_text(encoding="utf-8").count(" paused (not_started)") == 1, "said once"
    assert (status.state, text(status), status.record.entry.attempt, runs(ran)) == ("completed", "done\n", 1, 1)
    assert len(await result_messages(coordinator)) == 1


async def test_a_healthy_replica_has_the_tasks_of_a_broken_one_which_ends_at_once_when_it_is_stopped(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    good, bad = tmp_path / "good", tmp_path / "bad"
    for folder in (good, bad):
        folder.mkdir()
        script(folder / "agent", tmp_path / "ran")
    configs = [
        worker_toml(one, server.url, chat_cmd=[str(one / "agent"), "{input}"], worker={"drain_timeout_seconds": 600})
        for one in (bad, good)
    ]
    async with worker(configs[0]) as broken:
        (bad / "agent").unlink()
        ids = [await publish(coordinator, "x") for _ in range(10)]
        await broken.until_said("paused (not_started): ")
        async with worker(configs[1]):
            statuses = [await settled(coordinator, task_id) for task_id in ids]
            assert {(status.state, status.record.entry.attempt) for status in statuses} == {("completed", 1)}
            await acknowledged(coordinator)
        assert runs(tmp_path / "ran") == len(ids)
        broken.terminate()
        assert await broken.exit_code() == 0
    assert (await counts(coordinator))["AGENT_RESULTS"] == len(ids)


@pytest.mark.gate("cancelled once")
@pytest.mark.parametrize("times", [1, 2], ids=["cancelled once", "cancelled twice"])
async def test_a_hand_back_that_is_cancelled_at_any_point_leaves_a_task_that_runs_once(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, times: int
):
    await short_lease(coordinator, lease_s=1.0)
    cutter, in_the_way = Cutter(monkeypatch), tmp_path / "file"
    handed_back, ids = list[bool](), list[str]()
    for at in count(1):
        ids.append(await publish(coordinator, "x"))
        in_the_way.touch()
        async with (
            connect(server.url) as main,
            delivered(main, server, tmp_path, workdir=in_the_way / "x", lease_s=1.0) as (context, delivery),
        ):
            job = await claim(context, delivery)
            assert job is not None
            with Slots(1).reserve() as reservation:
                reached = await cutter.cut(main.bus, job.run(reservation), at=at, times=times)
            await agreed(coordinator)
            entry = await entry_of(coordinator, ids[-1])
            handed_back.append(entry.state == "queued")
            assert (entry.attempt, entry.setbacks is not None) == ((0, True) if handed_back[-1] else (1, False))
        in_the_way.unlink()
        command = ["/bin/sh", "-c", f"echo ran >> {tmp_path / ids[-1]}"]
        async with worker(worker_toml(tmp_path, server.url, chat_cmd=[*command, "sh", "{input}"])):
            status = await settled(coordinator, ids[-1])
            await acknowledged(coordinator)
        attempt = 1 if handed_back[-1] else 2
        assert (status.state, status.record.entry.attempt, runs(tmp_path / ids[-1])) == ("completed", attempt, 1)
        if not reached:
            break
    assert handed_back == sorted(handed_back), "from the point on at which the ledger has it"
    assert (handed_back[0], handed_back[-1], len(ids) > 3) == (False, True, True)
    assert len(await result_messages(coordinator)) == len(ids)


# -- in the ledger ----------------------------------------------------------------------------------------------


async def test_a_task_that_fails_to_start_where_others_succeed_is_its_own_fault_after_three_times(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x")
    (tmp_path / "file").touch()
    async with delivered(coordinator, server, tmp_path, workdir=tmp_path / "file" / "x") as (context, delivery):
        place = context.state_folder.place
        for number in (1, 2, 3):
            await attempt(context, delivery)
            entry = await entry_of(coordinator, task_id)
            assert (entry.state, entry.attempt, entry.result) == ("queued", 0, None)
            assert entry.setbacks is not None
            assert (entry.setbacks.count, entry.setbacks.code) == ({place: number}, "not_started")
            assert context.pause.shown is not None
            context.pause.started()  # the command of another task
        await attempt(context, delivery)
    status = await settled(coordinator, task_id)
    assert (status.state, status.record.entry.attempt) == ("failed", 1)
    [message] = await result_messages(coordinator)
    assert message["failure"] == {"code": "not_started", "message": message["error"]}
    assert "cannot be made" in message["error"]


async def attempt(context: Context, delivery: Delivery) -> None:
    job = await claim(context, delivery)
    assert job is not None
    with Slots(1).reserve() as reservation:
        await job.run(reservation)


async def test_a_cancelled_task_is_settled_and_not_handed_back(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    task_id = await publish(coordinator, "x")
    (tmp_path / "file").touch()
    async with delivered(coordinator, server, tmp_path, workdir=tmp_path / "file" / "x") as (context, delivery):
        await attempt(context, delivery)
        await coordinator.task(task_id).cancel()
        assert await claim(context, delivery) is None
    assert [message["status"] for message in await result_messages(coordinator)] == ["cancelled"]


def after(
    earlier: Setbacks | None, *, hours: float = 0, others_succeed: bool = False, place: str = "a"
) -> Setbacks | None:
    now = NOW + timedelta(hours=hours)
    return on_setback(
        earlier, place=place, code="not_started", now=now, limit_s=24 * 3600, others_succeed=others_succeed
    )


def test_setbacks_remember_the_first_time_and_each_place():
    first = after(None)
    assert first == Setbacks(count={"a": 1}, code="not_started", since=NOW.isoformat())
    second = after(first, hours=1, place="b")
    assert second == Setbacks(count={"a": 1, "b": 1}, code="not_started", since=NOW.isoformat())
    assert after(second, hours=2) == Setbacks(count={"b": 1, "a": 1}, code="not_started", since=NOW.isoformat())


def test_the_places_of_setbacks_are_bounded():
    found = after(None)
    for number in range(40):
        found = after(found, place=f"place-{number}")
    assert found is not None
    assert (len(found.count), "place-39" in found.count, "a" in found.count) == (MOST_PLACES, True, False)


@pytest.mark.parametrize("hours", [24.01, 100])
def test_a_setback_that_comes_too_late_after_the_first_fails_the_task(hours: float):
    first = after(None)
    assert after(first, hours=23.9) is not None
    assert after(first, hours=hours) is None
    assert after(None, hours=hours) is not None, "nothing fails it untried"


@pytest.mark.parametrize("since", ["", "yesterday", "9999-12-31T23:59:59+00:00", "2026-05-18T00:00:00"])
def test_a_time_that_another_party_wrote_fails_no_task(since: str):
    assert after(Setbacks(count={"a": 1}, code="not_started", since=since)) is not None


@pytest.mark.parametrize("others_succeed", [False, True])
def test_only_failures_between_which_others_succeed_are_counted(others_succeed: bool):
    found = after(None)
    for number in (2, 3):
        found = after(found, others_succeed=others_succeed)
        assert found is not None
        assert found.count == {"a": number if others_succeed else 1}
    assert (after(found, others_succeed=others_succeed) is None) == others_succeed
    assert after(found, others_succeed=others_succeed, place="b") is not None

"""What a hostile worker can make others wait for on a bus of `agentbus init`, and what not: nothing is lost."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.setup import set_up
from agentbus.errors import BusError, StreamFullError
from agentbus.protocol import subjects
from agentbus.protocol.progress import names as progress
from support import installation
from support.doctor import coordinator_toml, doctor, the_finding
from support.harness import BOUND_S, eventually, run_cli, worker
from support.installation import own_bus

pytestmark = [pytest.mark.posix("not tried on Windows"), pytest.mark.usefixtures("room_is_asked_for")]

MEGABYTE = bytes(1_000_000)


@pytest.fixture(autouse=True)
def a_small_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "PLAN", replace(installation.PLAN, max_file="60MiB"))


async def fill(bus: Bus, subject: str) -> None:
    """Store until the server takes no more, not even a little."""
    for data in (MEGABYTE, MEGABYTE[:50_000], MEGABYTE[:500], b""):
        with pytest.raises(StreamFullError):
            await _fill_with(bus, subject, data)


async def _fill_with(bus: Bus, subject: str, data: bytes) -> None:
    for number in range(1000):
        await bus.store(subject.format(f"{len(data)}-{number}"), data)


async def until_refused(bus: Bus, subject: str, size: int) -> str:
    """Store messages of one size until one is refused; returns the reason."""
    for _ in range(2000):
        try:
            await bus.store(subject, bytes(size))
        except StreamFullError as error:
            return str(error)
    raise AssertionError(f"{subject} takes 2000 messages of {size} bytes")


async def test_a_worker_that_floods_an_inbox_leaves_room_for_the_results_of_others(tmp_path: Path) -> None:
    async with own_bus(tmp_path) as own, own.coordinator("main") as main, connect(own.settings("admin")) as admin:
        async with connect(own.settings("code")) as code:
            assert "maximum messages per subject" in await until_refused(code, "agent.main.results", 4_000)
        info = await admin.stream_info("AGENT_RESULTS")
        assert info.state.bytes < 0.27 * info.max_bytes, "a quarter, and what the server adds to each message"
        with pytest.raises(StreamFullError, match=r"code has \d+ results in the inbox of main"):
            await main.publish("code", "say:done", task_type="test")
        administrator = ("--role", "administrator", "--config", str(own.folder.administrator))
        for arguments in (administrator, ("--config", str(coordinator_toml(tmp_path, own)))):
            room = the_finding(await doctor(*arguments), "room")
            assert "results on agent.main.results.code" in room["text"]
        async with worker(own.worker_toml(tmp_path, "doc")):
            task = await main.publish("doc", "say:done", task_type="test")
            assert (await main.wait([task.id], timeout_s=BOUND_S)).settled[task.id].state == "completed"
            await eventually(lambda: newest_is(main, task.id), "its result is in the inbox")
        # What the refusal says to do is what helps.
        await admin.api("STREAM.PURGE.AGENT_RESULTS", {"filter": "agent.main.results.code"})
        await main.publish("code", "say:done", task_type="test")


async def newest_is(main: Coordinator, task_id: str) -> bool:
    [message] = await main.results(newest=1)
    return message.result is not None and message.result.task_id == task_id


async def test_an_existing_bus_gets_the_bound_by_an_update_that_deletes_nothing(tmp_path: Path) -> None:
    async with own_bus(tmp_path) as own, connect(own.settings("admin")) as admin:
        config = (await admin.stream_info("AGENT_RESULTS")).config
        bound = int(config["max_msgs_per_subject"])
        unbound = {**config, "max_msgs_per_subject": -1, "discard_new_per_subject": False}
        await admin.api("STREAM.UPDATE.AGENT_RESULTS", unbound)
        async with connect(own.settings("code")) as code:
            for _ in range(bound + 1):
                await code.store("agent.main.results", b"x")
        left = {one.name: one for one in await set_up(admin, update=True)}["AGENT_RESULTS"]
        assert left.outcome == "different"
        assert left.differences[0] == f"max_msgs_per_subject is -1, wanted {bound}"
        assert f"agent.main.results.code holds {bound + 1} messages" in left.differences[-1]
        assert (await admin.stream_info("AGENT_RESULTS")).state.messages == bound + 1
        await admin.api("STREAM.PURGE.AGENT_RESULTS", {"filter": "agent.main.results.code", "keep": bound})
        assert {one.name: one for one in await set_up(admin, update=True)}["AGENT_RESULTS"].outcome == "updated"
        async with connect(own.settings("code")) as code:
            with pytest.raises(StreamFullError, match="maximum messages per subject"):
                await code.store("agent.main.results", b"x")
        assert (await admin.stream_info("AGENT_RESULTS")).state.messages == bound


async def test_a_worker_that_floods_the_dead_letters_pushes_out_its_own_only(tmp_path: Path) -> None:
    async with own_bus(tmp_path, ("code", "doc", "more")) as own, connect(own.settings("admin")) as admin:
        bound = (await admin.stream_info("AGENT_DEAD")).max_per_subject
        async with connect(own.settings("doc")) as doc, connect(own.settings("code")) as code:
            await doc.store(subjects.dead("doc", "alice"), b"kept")
            await code.store(subjects.dead("code", "alice"), b"kept, too")
            for number in range(bound + 7):
                await code.store(subjects.dead("code"), b"%d" % number)
        ran = await run_cli("dead", "list", "--limit", "100", "--config", str(own.folder.administrator))
        listed = [json.loads(line) for line in ran.out.splitlines()]
        assert [(one["agent"], one["publisher"]) for one in listed[:2]] == [("doc", "alice"), ("code", "alice")]
        assert len(listed) == 2 + bound
        first, second = ran.err.splitlines()
        assert first == "7 dead letters are gone early: pushed out by newer ones, requeued or dropped"
        assert second.startswith(f"code, from main: at its bound of {bound}, so its oldest go; what is left begins at ")


async def test_a_hostile_worker_can_fill_the_inboxes_with_large_results_and_nothing_is_lost(tmp_path: Path) -> None:
    async with own_bus(tmp_path) as own, own.coordinator("main") as main, connect(own.settings("admin")) as admin:
        task = await main.publish("doc", "say:done", task_type="test")
        async with connect(own.settings("code")) as code:
            await fill(code, "agent.main.results")
        for agent in ("code", "doc"):
            with pytest.raises(StreamFullError, match=r"AGENT_RESULTS holds 15\.0 of 15\.0 MiB"):
                await main.publish(agent, "say:done", task_type="test", reply_to="doc")
        async with worker(own.worker_toml(tmp_path, "doc")) as process:
            waited = await main.wait([task.id], timeout_s=BOUND_S)
            assert waited.settled[task.id].state == "completed", "the ledger has it, and who waits for it is told"
            await process.until_said("is full")
            await admin.api("STREAM.PURGE.AGENT_RESULTS", {"filter": "agent.main.results.code"})
            [message] = await eventually(lambda: main.results(newest=9), "the result is in the inbox")
            assert message.result is not None
            assert message.result.task_id == task.id


async def test_in_a_ledger_that_its_worker_has_nearly_filled_no_party_adds_tasks_and_accepted_ones_are_finished(
    tmp_path: Path,
) -> None:
    async with own_bus(tmp_path, coordinators={"alice": ("member", None)}) as own, own.coordinator("main") as main:
        task = await main.publish("code", "say:done", task_type="test")
        async with connect(own.settings("code")) as code, connect(own.settings("admin")) as admin:
            room = (await admin.stream_info("KV_AGENT_STATE_code")).max_bytes
            for number in range(int(0.92 * room) // 100_000 + 1):
                await code.store(f"$KV.AGENT_STATE.code.filler-{number}", MEGABYTE[:100_000])
        # What `main` has read counts for ten seconds.
        async with own.coordinator("main") as again, own.coordinator("alice", "member") as alice:
            for party in (again, alice):
                with pytest.raises(StreamFullError, match=r"KV_AGENT_STATE_code, holds .*agentbus setup --keep"):
                    await party.publish("code", "say:no", task_type="test")
                assert (await party.publish("doc", "say:yes", task_type="test")).agent == "doc"
        async with worker(own.worker_toml(tmp_path, "code")):
            waited = await main.wait([task.id], timeout_s=BOUND_S)
            assert waited.settled[task.id].state == "completed"
            await eventually(lambda: main.results(newest=9), "the result is in the inbox")


async def test_without_a_limit_the_outputs_of_one_agent_can_fill_the_account(tmp_path: Path) -> None:
    async with own_bus(tmp_path) as own, connect(own.settings("code")) as code, connect(own.settings("doc")) as doc:
        await fill(code, "$O.AGENT_FILES_code.C.{}")
        with pytest.raises(StreamFullError):
            await doc.store("agent.main.results", MEGABYTE)


async def test_a_files_limit_keeps_a_hostile_worker_from_filling_the_account(tmp_path: Path) -> None:
    async with own_bus(tmp_path) as own, connect(own.settings("admin")) as admin:
        found = await set_up(admin, ["code", "doc"], files_limit=4 << 20)
        assert {item.outcome for item in found if item.name.startswith("OBJ_AGENT_FILES_")} == {"updated"}
        async with connect(own.settings("code")) as code, connect(own.settings("doc")) as doc:
            await fill(code, "$O.AGENT_FILES_code.C.{}")
            for subject in ("agent.main.results", "$KV.AGENT_STATE.doc.task-1", "$O.AGENT_FILES_doc.C.x"):
                await doc.store(subject, MEGABYTE)
        # What was not asked for stays: a bound is the administrator's.
        found = await set_up(admin, ["code", "doc"], update=True)
        assert {item.outcome for item in found if item.name.startswith("OBJ_AGENT_FILES_")} == {"found"}
        config = (await admin.api("STREAM.INFO.OBJ_AGENT_FILES_code"))["config"]
        assert config["max_bytes"] == 4 << 20


async def test_limits_that_the_account_cannot_hold_are_refused_with_what_to_do(tmp_path: Path) -> None:
    async with own_bus(tmp_path) as own, connect(own.settings("admin")) as admin:
        before = [(await admin.stream_info(progress.stream(agent))).max_bytes for agent in ("code", "doc")]
        with pytest.raises(BusError, match="raise its max_file"):
            await set_up(admin, ["code", "doc"], files_limit=50 << 20)
        after = [(await admin.stream_info(progress.stream(agent))).max_bytes for agent in ("code", "doc")]
        assert after == before, "what runs tell has its room again"

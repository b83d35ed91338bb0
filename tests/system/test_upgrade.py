"""A bus that an earlier version made gets the newest layout while its workers run, and can be interrupted anywhere."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from agentbus.admin.backup import copy_stream
from agentbus.bus.jetstream import Bus, connect
from agentbus.config.connection_settings import ConnectionSettings
from agentbus.errors import BusError
from agentbus.protocol import subjects
from agentbus.protocol.accounts import LAYOUT_WITH_LEDGERS_APART
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.provision.bus_folder.folder import BusFolder
from support.conversing import COMMAND, done, home
from support.doctor import doctor
from support.harness import BOUND_S, Ran, eventually, run_cli, worker, worker_toml
from support.installation import OwnBus, outcome_of, own_bus
from support.jobs import agent_keys
from support.old_version import OldVersion
from support.older_bus import make_older_bus, serving
from support.server_version import needs_2_12

pytestmark = [pytest.mark.posix("not tried on Windows"), needs_2_12]

TASKS = subjects.TASKS_STREAM
DONE = "has the newest layout"


@pytest.fixture
async def folder(tmp_path: Path, old: OldVersion) -> Path:
    return await make_older_bus(tmp_path, old)


async def upgrade(folder: Path) -> Ran:
    return await run_cli("init", "--upgrade", str(folder))


async def first_half(folder: Path) -> None:
    ran = await upgrade(folder)
    assert ran.code == 0, ran.err
    assert "Now restart the server" in ran.out
    assert f"agentbus init --upgrade {folder}" in ran.out


async def second_half(folder: Path) -> str:
    ran = await upgrade(folder)
    assert ran.code == 0, ran.err
    assert DONE in ran.out
    return ran.out


async def queues(bus: OwnBus) -> list[list[str]]:
    """The streams of tasks in the account of the others, and in that of the queue."""
    async with connect(bus.settings(ADMINISTRATOR)) as admin:
        listed = [await streams_of(account) for account in admin.accounts]
    return [[name for name in names if name == TASKS] for names in listed]


async def streams_of(account: Bus) -> list[str]:
    """The names of the streams of one account, as the server tells them."""
    return (await account.api("STREAM.NAMES"))["streams"] or []


@pytest.mark.parametrize("version", ["new", pytest.param("old", marks=pytest.mark.long)])
async def test_tasks_that_wait_and_run_meanwhile_are_done_once(
    tmp_path: Path, folder: Path, old: OldVersion, version: str
) -> None:
    go, env = tmp_path / "go", old.env if version == "old" else None
    there = tmp_path / "there"
    there.mkdir()
    async with serving(folder, tmp_path) as before:
        config = unhurried(before, tmp_path, "code")
        async with worker(config, env=env) as process:
            async with before.coordinator("main") as main:
                running = await main.publish("code", f"wait:{go}", task_type="test")
                await process.until_said(f"{running.id}")
                queued = [await main.publish("code", f"say:{number}", task_type="test") for number in range(3)]
                waiting = await main.publish("doc", "say:later", task_type="test")
            await first_half(folder)
            before.server.kill()
            async with serving(folder, tmp_path) as after:
                async with after.coordinator("main") as main:
                    with pytest.raises(BusError):
                        await main.publish("code", "say:refused", task_type="test", task_id="refused")
                    go.touch()
                    assert "moved AGENT_TASKS into an account of its own" in await second_half(folder)
                    assert await queues(after) == [[], [TASKS]]
                    again = await main.publish("code", "say:refused", task_type="test", task_id="refused")
                    ids = [running.id, *(task.id for task in queued), again.id]
                    async with worker(unhurried(after, there, "doc"), env=env):
                        waited = await main.wait([*ids, waiting.id], timeout_s=2 * BOUND_S)
                results = [one.result.to_json() for one in waited.settled.values() if one.result]
                assert [(one["status"], one["attempt"]) for one in results] == [("completed", 1)] * 6
                await everything_is_acknowledged(after)
                async with after.coordinator("main") as main:
                    told = [message.result.task_id for message in await main.results(newest=100) if message.result]
                assert sorted(told) == sorted([*ids, waiting.id])


def unhurried(bus: OwnBus, folder: Path, agent: str) -> Path:
    """The configuration of a worker whose commands may take as long as the upgrade."""
    nats = bus.nats(agent)
    return worker_toml(folder, str(nats.pop("url")), agent=agent, nats=nats, worker={"task_timeout_seconds": 600})


async def everything_is_acknowledged(bus: OwnBus) -> None:
    async with connect(bus.settings(ADMINISTRATOR)) as admin:

        async def empty() -> bool:
            return (await admin.stream_info(TASKS)).state.messages == 0

        await eventually(empty, "every task is acknowledged")


async def test_each_half_can_be_interrupted_and_repeated(tmp_path: Path, folder: Path) -> None:
    manifest = (folder / "bus.toml").read_bytes()
    async with serving(folder, tmp_path) as bus:
        async with bus.coordinator("main") as main:
            task = await main.publish("doc", "say:kept", task_type="test")
        await first_half(folder)
        (folder / "bus.toml").write_bytes(manifest)  # the last file: as if it had not been written yet
        await first_half(folder)
        early = await upgrade(folder)
        assert early.code == 1
        assert "does not know the accounts of the new layout yet: restart the server, and run this again" in early.err
    async with serving(folder, tmp_path) as bus:
        refused = await run_cli("setup", "--config", str(folder / "admin.toml"), "--agent", "code")
        assert refused.code == 1
        assert "AGENT_TASKS lies in the account BUS and belongs into TASKS: agentbus init --upgrade" in refused.err
        findings = await doctor("--role", "administrator", "--config", str(folder / "admin.toml"), code=1)
        assert [one for one in findings if one["check"] == "layout" and one["verdict"] == "failed"]
        async with connect(bus.settings(ADMINISTRATOR)) as admin, connect(only_first(bus)) as streams:
            await copy_stream(streams, admin.of_stream(TASKS), TASKS, tmp_path / "copy")  # and not deleted yet
        assert await queues(bus) == [[TASKS], [TASKS]]
        await second_half(folder)
        assert await queues(bus) == [[], [TASKS]]
        assert await second_half(folder) == f"the bus in {folder} has the newest layout\n"
        async with bus.coordinator("main") as main, worker(bus.worker_toml(tmp_path, "doc")):
            assert (await main.wait([task.id], timeout_s=BOUND_S)).settled[task.id].state == "completed"


def only_first(bus: OwnBus) -> ConnectionSettings:
    return replace(bus.settings(ADMINISTRATOR), tasks_credentials=None)


async def test_with_one_of_two_credentials_the_administrator_cannot_make_a_second_queue(
    tmp_path: Path, folder: Path
) -> None:
    async with serving(folder, tmp_path):
        kept = (folder / "admin.toml").read_bytes()
        await first_half(folder)
    async with serving(folder, tmp_path) as bus:
        await second_half(folder)
        (tmp_path / "kept.toml").write_bytes(kept)
        ran = await run_cli("setup", "--config", str(tmp_path / "kept.toml"), "--agent", "code")
        assert ran.code == 1
        assert "does not allow this user to publish to $js.api.stream.create.agent_tasks" in ran.err.lower()
        assert await queues(bus) == [[], [TASKS]]


async def test_a_folder_of_the_older_layout_is_used_as_it_is_until_it_is_upgraded(tmp_path: Path, folder: Path) -> None:
    bus = BusFolder(folder)
    bus.add("lead", ["code"])
    bus.rotate("admin")
    text = (folder / "accounts.conf").read_text(encoding="utf-8")
    assert ("TASKS: {" in text, bus.tasks_secret_file, bus.bundle("admin").tasks_secret) == (False, None, None)
    assert "to: " not in text
    assert (folder / "bus.toml").read_text(encoding="utf-8").count("version = 1\n") == 1
    async with serving(folder, tmp_path) as running:
        every_agent = [word for agent in ("code", "doc", "lead") for word in ("--agent", agent)]
        ran = await run_cli("setup", "--config", str(folder / "admin.toml"), *every_agent)
        assert ran.code == 0, ran.err
        assert "has an older layout, in which a party can disturb the tasks of others; upgrade it with:" in ran.err
        findings = await doctor("--role", "administrator", "--config", str(folder / "admin.toml"))
        assert [one["fix"] for one in findings if one["check"] == "layout"] == ["agentbus init --upgrade FOLDER"]
        async with running.coordinator("main") as main, worker(running.worker_toml(tmp_path, "code")):
            assert await outcome_of(main, "code") == "completed"


async def test_a_bus_without_room_for_the_new_layout_is_left_as_it_is(tmp_path: Path, folder: Path) -> None:
    async with serving(folder, tmp_path):
        limited = ("setup", "--config", str(folder / "admin.toml"), "--agent", "code", "--files-limit", "1GiB")
        assert (await run_cli(*limited)).code == 0
        before = {path: path.read_bytes() for path in folder.glob("*") if path.is_file()}
        ran = await upgrade(folder)
        assert ran.code == 1
        assert "all streams together may take" in ran.err
        assert "raise max_file in bus.toml and max_file_store in nats-server.conf" in ran.err
        assert {path: path.read_bytes() for path in before} == before


async def test_the_ledger_is_divided_while_a_task_runs_and_a_coordinator_waits(tmp_path: Path) -> None:
    go = tmp_path / "go"
    async with own_bus(
        tmp_path, coordinators={"alice": ("member", None)}, lease_s=25, layout=LAYOUT_WITH_LEDGERS_APART - 1
    ) as bus:
        folder, config = bus.folder.path, str(bus.folder.administrator)
        async with worker(unhurried(bus, tmp_path, "code")) as process:
            async with bus.coordinator("main") as main, bus.coordinator("alice") as alice:
                running = await main.publish("code", f"wait:{go}", task_type="test")
                await process.until_said(running.id)
                queued = await alice.publish("code", "say:queued", task_type="test")
                waits = await main.publish("doc", "say:waits", task_type="test")
                await main.bus.store("$KV.AGENT_STATE.gone.old", b"{}")
            findings = await doctor("--role", "administrator", "--config", config)
            [told] = [one for one in findings if one["check"] == "layout"]
            assert "has an older layout, in which one agent can fill the ledger of all" in told["text"]
            await first_half(folder)
            early = await upgrade(folder)
            assert (early.code, "restart the server, and run this again" in early.err) == (1, True), early
            assert 'retired = ["gone"]' in (folder / "bus.toml").read_text(encoding="utf-8")
            async with connect(bus.settings(ADMINISTRATOR)) as admin:
                before = {one: await revision(admin, one, "KV_AGENT_STATE") for one in ("gone.old", f"doc.{waits.id}")}
            bus.server.kill()
            async with serving(folder, tmp_path) as after, after.coordinator("main") as main:
                assert "divided the ledger: 4 entries in 3 streams" in await second_half(folder)
                assert await second_half(folder) == f"the bus in {folder} has the newest layout\n"
                async with connect(after.settings(ADMINISTRATOR)) as admin:
                    kept = {one: await revision(admin, one, f"KV_AGENT_STATE_{one.split('.')[0]}") for one in before}
                    sizes = [(await admin.stream_info(f"KV_AGENT_STATE_{one}")).max_bytes for one in ("code", "gone")]
                assert kept == before
                assert min(sizes) > 0
                go.touch()
                status = (await main.wait([running.id], timeout_s=2 * BOUND_S)).settled[running.id]
                assert (status.state, status.result.to_json()["attempt"] if status.result else None) == ("completed", 1)
                async with after.coordinator("alice") as alice:
                    waited = await alice.wait([queued.id], timeout_s=2 * BOUND_S)
                    assert waited.settled[queued.id].state == "completed"
                listed = await main.list_tasks()
                assert {one.task_id for one in listed.tasks} == {running.id, queued.id, waits.id}
                assert len(listed.unreadable) == 1


async def revision(admin: Bus, key: str, stream: str) -> tuple[int, datetime]:
    """Where and when an entry was stored."""
    found = await admin.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": f"$KV.AGENT_STATE.{key}"})
    return found["message"]["seq"], found["message"]["time"]


@pytest.mark.parametrize("done", ["nothing", "the mirrors", "one of the two streams"])
async def test_a_division_of_the_ledger_that_was_interrupted_is_finished(tmp_path: Path, done: str) -> None:
    async with own_bus(tmp_path, layout=LAYOUT_WITH_LEDGERS_APART - 1) as bus:
        folder = bus.folder.path
        async with bus.coordinator("main") as main:
            tasks = [await main.publish(agent, "x", task_type="test") for agent in ("code", "doc")]
        await first_half(folder)
    async with serving(folder, tmp_path) as bus, connect(bus.settings(ADMINISTRATOR)) as admin:
        if done != "nothing":
            for agent in ("code", "doc"):
                source = {"name": "KV_AGENT_STATE", "filter_subject": f"$KV.AGENT_STATE.{agent}.>"}
                mirror = {"name": f"KV_AGENT_STATE_{agent}", "allow_direct": True, "mirror": source}
                await admin.api(f"STREAM.CREATE.KV_AGENT_STATE_{agent}", {**LIKE_A_LEDGER, **mirror})
        if done == "one of the two streams":
            old = (await admin.stream_info("KV_AGENT_STATE")).config
            await eventually(lambda: has_entries(admin, "KV_AGENT_STATE_code"), "the mirror has the task")
            await admin.api("STREAM.UPDATE.KV_AGENT_STATE", {**old, "subjects": ["$KV.AGENT_STATE"]})
            mirrored = (await admin.stream_info("KV_AGENT_STATE_code")).config
            made = {key: value for key, value in mirrored.items() if key != "mirror"}
            made["subjects"] = ["$KV.AGENT_STATE.code.>"]
            await admin.api("STREAM.UPDATE.KV_AGENT_STATE_code", made)
        await second_half(folder)
        async with bus.coordinator("main") as main:
            assert {one.task_id for one in (await main.list_tasks()).tasks} == {task.id for task in tasks}
            assert (await main.task(tasks[0].id).cancel()).state == "cancelled"


LIKE_A_LEDGER = {
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "max_msgs_per_subject": 1,
    "deny_delete": True,
    "deny_purge": True,
}


async def has_entries(admin: Bus, stream: str) -> bool:
    return (await admin.stream_info(stream)).state.messages > 0


async def test_from_a_ledger_for_each_party_one_run_and_a_reload_let_workers_take_follow_ups(tmp_path: Path) -> None:
    async with own_bus(tmp_path, layout=LAYOUT_WITH_LEDGERS_APART) as bus:
        folder, config = bus.folder.path, conversing(bus, tmp_path)
        findings = await doctor("--role", "administrator", "--config", str(bus.folder.administrator))
        [told] = [one for one in findings if one["check"] == "layout"]
        assert "has an older layout, in which no follow-up finds its session" in told["text"]
        async with worker(config, env=home(tmp_path)) as process:
            await process.until_said("no follow-ups are taken: the bus has an older layout")
            async with bus.coordinator("main") as main:
                assert (await done(await main.publish("code", "recall")))["result"] == "nothing"
        ran = await upgrade(folder)
        assert (ran.code, "Now reload the server" in ran.out, "restart" in ran.out) == (0, True, False), ran
        bus.server.reload()
        await eventually(lambda: b"Reloaded server configuration" in bus.server.log.read_bytes(), "it has read it")
        assert await second_half(folder) == f"the bus in {folder} has the newest layout\n"
        async with worker(config, env=home(tmp_path)), bus.coordinator("main") as main:
            first = await main.publish("code", "remember heron")
            await done(first)
            assert (await done(await first.follow_up("recall")))["result"] == "heron"


def conversing(bus: OwnBus, folder: Path) -> Path:
    """The configuration of a worker whose agent keeps sessions."""
    (folder / "home").mkdir()
    nats = bus.nats("code")
    config = worker_toml(folder, str(nats.pop("url")), nats=nats, chat_cmd=COMMAND)
    resuming = [*COMMAND, "--resume", "{session}"]
    return agent_keys(config, prompt_via="stdin", output="claude", resume_cmd=resuming)


async def test_without_a_server_the_upgrade_says_so_and_changes_nothing(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "jetstream" not in path.parts}
    ran = await upgrade(folder)
    assert (ran.code, "error: " in ran.err) == (1, True)
    assert {path: path.read_bytes() for path in before} == before

"""The audit: who did what, as the server tells it. No publisher can leave its line out, or write one for another."""

import json
import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.admin import dead_letters
from agentbus.admin.audit_log import Wanted, lost_lines, name, newest_lines
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.setup import set_up
from agentbus.config.toml_text import toml_text
from agentbus.errors import ApiError, PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.audit import names as audit
from agentbus.protocol.json_codec import encode
from agentbus.protocol.messages import new_task
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.provision.bus_folder.manifest import NEWEST_LAYOUT
from support.attacker import headers_against
from support.doctor import doctor
from support.harness import BOUND_S, Ran, eventually, run_cli, worker
from support.installation import OwnBus
from support.older_bus import serving

pytestmark = pytest.mark.posix("a worker needs process groups and signals")

ANY = Wanted()


@pytest.fixture
async def bob(team: OwnBus) -> AsyncGenerator[Bus]:
    """A viewer."""
    async with team.coordinator("bob", "viewer") as viewer:
        yield viewer.bus


async def told(bus: Bus, wanted: Wanted = ANY) -> list[tuple[str, str, str, str]]:
    """Who did what with which task, and the detail."""
    return [(one.who, one.what, str(name(one)), one.detail) for one in await newest_lines(bus, wanted, 1000)]


async def until_told(bus: Bus, *lines: tuple[str, str, str, str]) -> list[tuple[str, str, str, str]]:
    async def there() -> list[tuple[str, str, str, str]] | None:
        found = await told(bus)
        return found if all(line in found for line in lines) else None

    return await eventually(there, f"the audit tells {lines}")


async def settled(coordinator: Coordinator, task_id: str) -> str:
    return (await coordinator.wait([task_id], timeout_s=BOUND_S)).settled[task_id].state


async def test_it_tells_who_published_cancelled_answered_and_retried(team: OwnBus, bob: Bus, tmp_path: Path) -> None:
    async with (
        team.coordinator("main") as main,
        team.coordinator("alice", "member") as alice,
        team.coordinator("carol", "operator") as carol,
        worker(team.worker_toml(tmp_path, "code")),
    ):
        await alice.publish("code", "approval", task_type="test", task_id="asks")
        await main.publish("code", "say:done", task_type="test", task_id="job.1")
        assert await settled(alice, "asks") == "needs_approval"
        assert await settled(main, "job.1") == "completed"
        # Only then: tasks of two publishers have no order, and this one keeps the worker busy.
        await alice.publish("code", "sleep:600", task_type="test", task_id="long")
        await carol.task("code/~alice/long").cancel("SECRET-REASON")
        await carol.task("code/~alice/long").cancel("again")  # changes nothing, and is no line
        assert await settled(alice, "long") == "cancelled"
        await alice.task("asks").answer(approve=True, comment="SECRET-COMMENT")
        again = await main.task("job.1").retry()
        lines = await until_told(
            bob,
            ("alice", "publish", "code/~alice/asks", ""),
            ("main", "publish", "code/job.1", ""),
            ("alice", "publish", "code/~alice/long", ""),
            ("carol", "cancel", "code/~alice/long", ""),
            ("alice", "answer", "code/~alice/asks", "approved"),
            ("alice", "publish", "code/~alice/asks.answer", ""),
            ("main", "retry", "code/job.1", again.id),
            ("main", "publish", f"code/{again.id}", ""),
        )
    assert len(lines) == 8
    assert all(one.named_by == "subject" for one in await newest_lines(bob, ANY, 100))
    assert team.violations() == []


async def test_it_holds_no_content(team: OwnBus, bob: Bus) -> None:
    async with team.coordinator("alice", "member") as alice, connect(team.settings(ADMINISTRATOR)) as admin:
        task = await alice.publish("code", "SECRET-CONTENT", task_type="SECRET-TYPE")
        await alice.task(task.id).cancel("SECRET-REASON")
        await until_told(bob, ("alice", "cancel", f"code/~alice/{task.id}", ""))
        for stream in (audit.STREAM, audit.SAID_STREAM):
            stored = await admin.message(stream, 1)
            assert stored
            assert "SECRET" not in f"{stored.headers}{stored.data!r}"
        assert (await newest_lines(bob, ANY, 1)) != []


async def test_a_party_cannot_write_a_line_for_another(team: OwnBus, bob: Bus) -> None:
    async with team.coordinator("alice", "member") as alice:
        for subject in (
            "audit.main.said.cancel",
            "audit.alice.said.cancel",
            "audit.~.said.anything",
            "audit.code.tasks",
            "audit.code.tasks.main",
            "audit.code.tasks.alice",
        ):
            with pytest.raises(PermissionDeniedError):
                await alice.bus.store(subject, b"{}")
        claims = encode({"by": "main", "agent": "code", "task": "victim"})
        await alice.bus.publish(audit.said("cancel"), claims)
        await until_told(bob, ("alice", "cancel", "code/victim", ""))
    assert [one for one in await told(bob) if one[0] == "main"] == []


HEADERS = {
    "sequence": {"Nats-Expected-Last-Sequence": "0"},  # first, for that of an empty queue
    **headers_against("doc"),
    "small letters": {"nats-expected-stream": subjects.TASKS_STREAM},
    "long": {"X-Long": "x" * audit.MAX_HEADER_BYTES},
    "longer than a line": {"X-Longer": "x" * audit.MAX_LINE_BYTES},
    "long id": {"Nats-Msg-Id": "x" * 5000},
    "api level": {"Nats-Required-Api-Level": "0"},
    "trace": {"Nats-Trace-Dest": "agent.alice.results", "Nats-Trace-Only": "false"},
    "server's own": {"Nats-Stream": "X", "Nats-Subject": "audit.doc.tasks", "Nats-Sequence": "1", "Nats-Msg-Size": "1"},
}


async def test_no_task_runs_without_a_line(team: OwnBus, bob: Bus, tmp_path: Path) -> None:
    """A publisher that keeps its line out has its task refused: by the server, or by the worker."""

    async def lines() -> int:
        return len([one for one in await newest_lines(bob, ANY, 1000) if one.who == "alice" and one.size])

    stored: list[str] = []
    async with team.coordinator("alice", "member") as alice, worker(team.worker_toml(tmp_path, "code")):
        for number, (what, header) in enumerate(HEADERS.items()):
            before, ran = await lines(), tmp_path / f"ran-{number}"
            task = new_task(to="code", content=f"touch:{ran}", task_type="test", sender="alice", reply_to="alice")
            try:
                await alice.bus.store(subjects.tasks_of("code", "alice"), encode(task.to_json()), headers=header)
            except ApiError:
                continue
            stored.append(what)
            await alice.publish("code", "say:next", task_type="test", task_id=f"next-{number}")
            assert await settled(alice, f"next-{number}") == "completed"
            assert await lines() == before + 2 or not ran.exists(), what
    assert {"sequence", "stream", "long", "longer than a line", "long id"} <= set(stored), stored


async def test_a_task_that_is_queued_again_is_told_with_who_did_that(team: OwnBus, bob: Bus, tmp_path: Path) -> None:
    async with (
        team.coordinator("alice", "member") as alice,
        connect(team.settings(ADMINISTRATOR)) as admin,
        worker(team.worker_toml(tmp_path, "code", max_task_bytes=1000)),
    ):
        large = await alice.publish("code", "x" * 2000, task_type="test", task_id="large")

        async def letters() -> list[dead_letters.DeadLetter]:
            return await dead_letters.newest_dead_letters(admin, 1)

        [letter] = await eventually(letters, "the dead letter is there")
        assert letter.publisher == "alice"
        await dead_letters.drop(admin, letter.seq)
        await until_told(bob, ("admin", "drop", f"code/~alice/{large.id}", f"dead letter {letter.seq}"))


async def test_a_full_audit_stops_no_work_and_each_party_loses_its_own_lines_only(
    team: OwnBus, bob: Bus, tmp_path: Path
) -> None:
    async with (
        team.coordinator("main") as main,
        team.coordinator("alice", "member") as alice,
        connect(team.settings(ADMINISTRATOR)) as admin,
    ):
        for stream in (audit.STREAM, audit.SAID_STREAM):
            config = (await admin.stream_info(stream)).config
            await admin.api(f"STREAM.UPDATE.{stream}", {**config, "max_msgs_per_subject": 3})
        await main.publish("code", "say:x", task_type="test", task_id="kept")
        for number in range(8):
            await alice.publish("code", "say:x", task_type="test", task_id=f"t{number}")
            await alice.task(f"t{number}").cancel()
        lines = await until_told(
            bob, ("alice", "publish", "code/~alice/t7", ""), ("alice", "cancel", "code/~alice/t7", "")
        )
        assert ("main", "publish", "code/kept", "") in lines
        assert len(lines) == 1 + 3 + 3
        lost = await lost_lines(bob)
        assert lost.count == 5  # the gap between the line of main and those of alice
        assert lost.parties == ("alice",)
        shown = await run_audit(team, tmp_path, "bob")
        assert shown.err.endswith("are gone before their 90 days, for newer ones of their party, those of alice\n")


async def test_without_the_streams_of_the_audit_work_goes_on(team: OwnBus, tmp_path: Path) -> None:
    async with connect(team.settings(ADMINISTRATOR)) as admin:
        for stream in (audit.STREAM, audit.SAID_STREAM):
            await admin.api(f"STREAM.DELETE.{stream}")
    async with team.coordinator("alice", "member") as alice, worker(team.worker_toml(tmp_path, "code")):
        task = await alice.publish("code", "sleep:600", task_type="test")
        await alice.task(task.id).cancel()
        assert await settled(alice, task.id) == "cancelled"
    shown = await run_audit(team, tmp_path, "carol")
    assert shown.code == 1
    assert "agentbus setup" in shown.err


# -- the command ------------------------------------------------------------------------------------------------


async def run_audit(team: OwnBus, folder: Path, party: str, *arguments: str) -> Ran:
    config = folder / f"{party}.toml"
    role = {"bob": "viewer", "carol": "operator"}.get(party, "member")
    nats = {key: str(value) for key, value in team.nats(party).items()}
    config.write_text(toml_text({"coordinator": {"id": party, "role": role}, "nats": nats}), encoding="utf-8")
    return await run_cli("audit", "--config", str(config), *arguments)


def lines_of(ran: Ran) -> list[dict[str, Any]]:
    assert ran.code == 0, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


async def test_the_command_shows_the_lines_that_are_asked_for(team: OwnBus, bob: Bus, tmp_path: Path) -> None:
    async with team.coordinator("main") as main, team.coordinator("alice", "member") as alice:
        for one in (main, alice):
            await one.publish("code", "say:x", task_type="test", task_id="same")
        await main.publish("doc", "say:x", task_type="test", task_id="other")
        await until_told(bob, ("main", "publish", "doc/other", ""))
    everything = lines_of(await run_audit(team, tmp_path, "bob"))
    assert [(one["who"], one["agent"], one["owner"], one["task"]) for one in everything] == [
        ("main", "code", "main", "same"),
        ("alice", "code", "alice", "same"),
        ("main", "doc", "main", "other"),
    ]
    assert all(one["named_by"] == "subject" and one["bytes"] > 0 and one["what"] == "publish" for one in everything)
    assert lines_of(await run_audit(team, tmp_path, "carol", "--who", "alice")) == everything[1:2]
    assert lines_of(await run_audit(team, tmp_path, "bob", "--task", "code/same")) == everything[:2]
    assert lines_of(await run_audit(team, tmp_path, "bob", "--task", "code/~alice/same")) == everything[1:2]
    assert lines_of(await run_audit(team, tmp_path, "bob", "--limit", "1")) == everything[2:]
    assert lines_of(await run_audit(team, tmp_path, "bob", "--since", "1h")) == everything
    assert lines_of(await run_audit(team, tmp_path, "bob", "--since", everything[1]["at"])) == everything[1:]
    later = datetime.now(UTC) + timedelta(days=1)
    assert lines_of(await run_audit(team, tmp_path, "bob", "--since", later.isoformat())) == []
    refused = await run_audit(team, tmp_path, "bob", "--since", "yesterday")
    assert (refused.code, "'yesterday' is no time: use 90s, 15m, 2h, 7d" in refused.err) == (2, True)


async def test_a_member_cannot_read_the_audit(team: OwnBus, tmp_path: Path) -> None:
    refused = await run_audit(team, tmp_path, "alice")
    assert refused.code == 1
    assert "allow" in refused.err
    async with connect(team.settings("alice")) as bus:
        with pytest.raises(PermissionDeniedError):
            await lost_lines(bus)


# -- older buses ------------------------------------------------------------------------------------------------


async def test_a_bus_of_the_layout_before_gets_the_audit_by_the_upgrade(team: OwnBus, tmp_path: Path) -> None:
    await take_back(team)
    folder = team.folder.path
    async with team.coordinator("main") as main:
        before = await main.publish("code", "say:before", task_type="test")
        await main.task(before.id).cancel()
    found = await doctor("--role", "administrator", "--config", str(team.folder.administrator), code=1)
    assert [one for one in found if one["check"] == "layout" and "without the audit" in one["text"]]
    ran = await run_cli("init", "--upgrade", str(folder))
    assert ran.code == 0, ran.err
    assert "the accounts of the new layout are written. Now restart the server" in ran.out
    team.server.kill()
    async with (
        serving(folder, tmp_path) as after,
        after.coordinator("main") as main,
        after.coordinator("bob", "viewer") as bob,
    ):
        task = await main.publish("code", "say:after", task_type="test")
        await main.task(task.id).cancel()
        await until_told(bob.bus, ("main", "publish", f"code/{task.id}", ""), ("main", "cancel", f"code/{task.id}", ""))
        ran = await run_cli("init", "--upgrade", str(folder))
        assert ran.out == f"the bus in {folder} has the newest layout\n"
        await doctor("--role", "administrator", "--config", str(team.folder.administrator))


async def take_back(team: OwnBus) -> None:
    """Make the bus one of the layout before the audit."""
    async with connect(team.settings(ADMINISTRATOR)) as admin:
        for stream in (audit.STREAM, audit.SAID_STREAM):
            await admin.api(f"STREAM.DELETE.{stream}")
        config = (await admin.stream_info(subjects.TASKS_STREAM)).config
        del config["republish"]
        await admin.api(f"STREAM.UPDATE.{subjects.TASKS_STREAM}", config)
    manifest = team.folder.path / "bus.toml"
    text = manifest.read_text(encoding="utf-8").replace(f"version = {NEWEST_LAYOUT}", "version = 2")
    manifest.write_text(text, encoding="utf-8")
    accounts = team.folder.servers[0].accounts
    lines = accounts.read_text(encoding="utf-8").splitlines(keepends=True)
    accounts.write_text("".join(line for line in lines if not re.search(r"audit|AGENT_AUDIT", line)), encoding="utf-8")
    team.server.reload()
    async with connect(team.settings("bob")) as bus:

        async def refused() -> bool:
            try:
                await lost_lines(bus)
            except PermissionDeniedError:
                return True
            except SetupMissingError:
                return False
            return False

        await eventually(refused, "the server has read the accounts")


async def test_set_up_gives_the_queue_of_an_earlier_version_its_audit(coordinator: Coordinator) -> None:
    config = (await coordinator.bus.stream_info(subjects.TASKS_STREAM)).config
    del config["republish"]
    await coordinator.bus.api(f"STREAM.UPDATE.{subjects.TASKS_STREAM}", config)
    [queue] = [one for one in await set_up(coordinator.bus) if one.name == subjects.TASKS_STREAM]
    assert queue.outcome == "updated"
    task = await coordinator.publish("code", "say:x", task_type="test")
    await until_told(coordinator.bus, ("main", "publish", f"code/{task.id}", ""))

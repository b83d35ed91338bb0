"""Groups: the tasks of one job are listed, awaited, cancelled and summed up together."""

import json
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.cli.coordinator.task_line import Line, read_task
from agentbus.errors import InvalidIdError
from agentbus.many_tasks import NewTask
from agentbus.protocol import subjects
from agentbus.protocol.headers import GROUP, REVISION, SUMMARY
from agentbus.protocol.ledger_entry import Claim, Entry, Record, claimed, queued, settled
from agentbus.protocol.listed.labels import first_words, group_of, is_group_name
from agentbus.protocol.messages import Task, decode_task, new_result, new_task
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.listing.spending import WITHOUT_GROUP
from support.harness import Ran, run_cli


def test_names_of_groups_are_bounded() -> None:
    for name in ("a", "release-1.2", "9", "a" * 64, "A_b.c-"):
        assert is_group_name(name), name
    for name in ("", "-", "-a", ".a", "a..b", "a.", "a" * 65, "a/b", "a b", "ä", "a\n", 7, None):
        assert not is_group_name(name), name
    with pytest.raises(InvalidIdError, match="group 'a b' is not valid"):
        new_task(to="code", content="x", task_type="t", group="a b")
    assert group_of({"group": {"of": "an earlier publisher"}}) is None


def test_first_words_are_one_bounded_line() -> None:
    assert first_words("Review\tthe  diff\r\nof\x1b[31m \u202ePR 7\x00") == "Review the diff of [31m PR 7"
    assert first_words({"pr": 7, "who": "Ümit"}) == '{"pr": 7, "who": "Ümit"}'
    assert first_words(None) == first_words("") == ""
    for text in ("x" * 1_000_000, "审查这个提交并写出报告" * 100, "\U0001f600" * 100, "  " * 100_000 + "late"):
        found = first_words(text)
        assert len(found) <= 60
        assert len(json.dumps(found)) <= 242
        assert found.endswith("…") or not found.strip()


async def settle_by_hand(bus: Coordinator, task: Task, entry: Entry, revision: int) -> Record:
    """Settle a task as a worker does, with an entry of its own."""
    claim = Claim(worker="w", nonce="n", lease_s=30, since="2026-12-01T00:00:00+00:00")
    ledger, key = Ledger(bus.bus), TaskKey(task.agent, task.id)
    revision = await ledger.write(key, claimed(entry, claim, 1), revision=revision)
    result = new_result(task.to_json(), result_id="r1", status="completed", result="done")
    revision = await ledger.write(key, settled(claimed(entry, claim, 1), result), revision=revision)
    found = await ledger.read_newer(key, revision - 1)
    assert isinstance(found, Record)
    return found


async def test_tasks_of_a_group_are_found_by_it_in_every_state(coordinator: Coordinator) -> None:
    one = await coordinator.publish("code", "one", task_id="one", group="job")
    await coordinator.publish("code", "other", task_id="other", group="else")
    await coordinator.publish("code", "none", task_id="none")
    await coordinator.publish_to(["doc", "qa"], "two", task_id="two", group="job")
    assert {status.task_id for status in await coordinator.group_tasks("job")} == {"one", "two-doc", "two-qa"}
    record = await Ledger(coordinator.bus).read(TaskKey("code", "one"))
    assert isinstance(record, Record)
    assert record.headers[GROUP] == "job"
    done = await settle_by_hand(coordinator, one.message, record.entry, record.revision)
    assert done.headers[GROUP] == "job"
    assert json.loads(done.headers[SUMMARY])["about"] == "one"
    listed = (await coordinator.list_tasks(group="job", with_results=False)).tasks
    assert {(status.task_id, status.group, status.about) for status in listed} == {
        ("one", "job", "one"),
        ("two-doc", "job", "two"),
        ("two-qa", "job", "two"),
    }
    assert [status.task_id for status in (await coordinator.list_tasks(text="OTH")).tasks] == ["other"]
    again = await one.retry()
    assert again.message.to_json()["group"] == "job"
    sums = await coordinator.spending("group")
    assert sums.groups.keys() == {"job"}
    assert WITHOUT_GROUP not in sums.groups


async def test_workers_of_an_earlier_version_do_not_lose_a_group(coordinator: Coordinator) -> None:
    """They keep what they do not know in an entry that they read, and write no header of it."""
    old = await coordinator.publish("code", "x", task_id="old", group="job")
    message = await coordinator.bus.next_at_the_leader(subjects.TASKS_STREAM, subjects.tasks("code"), 1)
    assert message is not None
    assert message.headers[REVISION] == "0", "a worker of an earlier version has to read the entry"
    assert group_of(decode_task(message.data).model_extra or {}) == "job"
    record = await Ledger(coordinator.bus).read(TaskKey("code", "old"))
    assert isinstance(record, Record)
    done = await settle_by_hand(coordinator, old.message, record.entry, record.revision)
    headers = {name: value for name, value in done.headers.items() if name in ("Bus-State", SUMMARY)}
    summary = json.loads(headers[SUMMARY])
    del summary["about"]
    await coordinator.bus.store(
        subjects.state(done.key),
        done.entry.model_dump_json(exclude_none=True).encode(),
        expected_revision=done.revision,
        headers={**headers, SUMMARY: json.dumps(summary)},
    )
    assert [status.task_id for status in await coordinator.group_tasks("job")] == ["old"]
    assert not await coordinator.group_tasks("other")
    assert [status.about for status in (await coordinator.list_tasks(text="old", with_results=False)).tasks] == ["x"]


async def test_a_list_by_group_reads_no_entries_of_others(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(coordinator.bus)
    for number in range(50):
        task = new_task(to="code", content="x", task_type="t", task_id=f"n{number}")
        await ledger.create(TaskKey("code", task.id), queued(task, "main"))
    await coordinator.publish("code", "x", task_id="mine", group="job")
    read: list[str] = []
    real = coordinator.bus.last_message

    async def counted(stream: str, subject: str) -> Any:
        read.append(subject)
        return await real(stream, subject)

    monkeypatch.setattr(coordinator.bus, "last_message", counted)
    assert [status.task_id for status in await coordinator.group_tasks("job")] == ["mine"]
    assert len(read) <= 1


async def test_the_command_line_acts_on_a_group(coordinator: Coordinator, server: NatsServer) -> None:
    async def cli(*arguments: str) -> Ran:
        return await run_cli(*arguments, "--nats-url", server.url)

    many = coordinator.publish_many(
        [NewTask("code", f"n{number}", task_id=f"n{number}", group="job") for number in range(40)]
    )
    async for _ in many:
        pass
    await coordinator.publish("code", "x", task_id="apart")
    lines = [
        json.loads(line) for line in (await cli("task", "list", "--group", "job", "--limit", "50")).out.splitlines()
    ]
    assert len(lines) == 40
    assert {(line["group"], line["agent"]) for line in lines} == {("job", "code")}
    refused = await cli("task", "cancel", "--group", "job")
    assert (refused.code, refused.out) == (2, "")
    assert "40 tasks would be cancelled" in refused.err
    done = await cli("task", "cancel", "--group", "job", "--yes", "--reason", "over")
    assert {json.loads(line)["state"] for line in done.out.splitlines()} == {"cancelled"}
    assert (await coordinator.task("apart").status()).state == "queued"
    waited = await cli("task", "wait", "--group", "job", "--exit-status")
    assert waited.code == 4
    assert len(waited.out.splitlines()) == 40
    none = await cli("task", "wait", "--group", "nothing")
    assert "the bus knows no task of the group nothing" in none.err


def test_a_line_can_name_a_group() -> None:
    wanted = read_task(Line(1, b'{"to":"code","content":"x","group":"job"}'), {"group": "default"})
    assert wanted.group == "job"
    assert read_task(Line(1, b'{"to":"code","content":"x"}'), {"group": "default"}).group == "default"


async def test_a_known_task_is_told_with_the_group_that_is_kept(server: NatsServer, coordinator: Coordinator) -> None:
    for task_id, first, again in (("a", "job", "else"), ("b", None, "else"), ("c", "job", None)):
        await coordinator.publish("code", "x", task_id=task_id, group=first)
        known = await coordinator.publish("code", "x", task_id=task_id, group=again)
        assert known.known
        assert group_of(known.message.model_extra or {}) == first
        assert (await coordinator.task(task_id).status()).record.entry.group == first
    on_bus = ("--nats-url", server.url)
    ran = await run_cli("task", "publish", "--to", "code", "--task-id", "a", "--group", "third", "x", *on_bus)
    assert (ran.code, json.loads(ran.out)["group"]) == (0, "job"), ran.err

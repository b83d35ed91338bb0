"""Today's code reads what an earlier version stored, and stores the same bytes.

`tests/recorded/wire` holds what `make_recorded.py` made there with the earlier version: the messages of a bus with
their headers, and the files of a worker and of a bus folder. The test does the same, with the same times and ids.
"""

import base64
import difflib
import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from agentbus import Coordinator
from agentbus.admin.dead_letters import dead_letter
from agentbus.bus.jetstream import Bus
from agentbus.config import nkeys
from agentbus.errors import ApiError
from agentbus.protocol import subjects, timestamps
from agentbus.protocol.headers import parse
from agentbus.protocol.ids import make_result_id
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Claim, Entry, Record, claimed, read_entry, renewed
from agentbus.protocol.listed.labels import first_words
from agentbus.protocol.listed.summary import summary_of
from agentbus.protocol.messages import Result, ResultStatus, Task, decode_result, decode_task, new_result, new_task
from agentbus.protocol.stored_message import StoredMessage
from agentbus.protocol.subjects import TaskKey
from agentbus.provision import bundle
from agentbus.provision.bus_folder import manifest, new_bus
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.tasks import publish as publish_module
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.presence import Presence, announce, present
from agentbus.tasks.settle import Won, settle
from agentbus_mcp.task_extension import records
from agentbus_worker.running import process_tree
from agentbus_worker.settling.dead_letter import store_dead_letter
from agentbus_worker.settling.outbox import Outbox, OutboxEntry
from support.harness import ROOT
from support.old_version import OldVersion

if TYPE_CHECKING:
    from agentbus.bus.pull_consumer import Delivery
    from agentbus_worker.settling.context import Context

pytestmark = pytest.mark.posix("a worker needs process groups and signals")

RECORDED = ROOT / "tests" / "recorded" / "wire"
CONTENT: Final[dict[str, Any]] = {"text": "Prüfe PR 123", "list": [1, 2.5, None, True]}
TIME = datetime.fromisoformat("2026-11-28T22:26:36.123456+00:00")
CLAIM = Claim(worker="machine-1", nonce="n" * 20, lease_s=60.0, since=TIME.isoformat())
STATUSES: tuple[ResultStatus, ...] = ("completed", "failed", "needs_approval", "cancelled")
STREAMS = ("AGENT_TASKS", "AGENT_RESULTS", "AGENT_DEAD", "KV_AGENT_STATE", "KV_AGENT_REGISTRY")
STATE = {"watch": {"task_ids": ["job-queued"], "until": "any"}, "inbox": "main", "elicits": True}
NO_TASK = '{"id":"job-7","from":"agent-main","type":"task.request","task_type":7,"note":"grün"}'.encode()


class FixedTime(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "FixedTime":
        return cast("FixedTime", TIME.astimezone(tz))


def seeds() -> Iterator[str]:
    """Give the seeds of the recording."""
    prefix = bytes([nkeys._SEED | (nkeys._USER >> 5), (nkeys._USER & 31) << 3])  # pyright: ignore[reportPrivateUsage]
    for number in range(1, 9):
        yield nkeys._encode(prefix + bytes([number]) * 32)  # pyright: ignore[reportPrivateUsage]


@pytest.fixture(autouse=True)
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the times, ids and keys of the recording."""

    def token(chars: int = 20) -> str:
        return "r" * chars

    def start_time(_pid: int) -> str:
        return "b0071d 12345"

    given = seeds()
    for module in (timestamps, records):
        monkeypatch.setattr(module, "datetime", FixedTime)
    for module in (process_tree, records, publish_module):
        monkeypatch.setattr(module, "random_token", token)
    monkeypatch.setattr(process_tree, "start_time", start_time)
    monkeypatch.setattr(nkeys, "new_seed", lambda: next(given))


@dataclass
class Refused:
    """A delivery of a message that is no task."""

    data: bytes = NO_TASK
    subject: str = "agent.code.tasks"
    stream: str = "AGENT_TASKS"
    stream_seq: int = 17
    stored_at: datetime = TIME
    headers: dict[str, str] = field(default_factory=lambda: {"Nats-Msg-Id": "task.code.job-7"})

    async def term(self, reason: str) -> None:
        """Take the end of the delivery."""


def recorded_messages(*streams: str) -> list[dict[str, str]]:
    found = json.loads((RECORDED / "messages.json").read_text(encoding="utf-8"))
    return [message for message in found if not streams or message["stream"] in streams]


def recorded(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


def stored(message: dict[str, str]) -> StoredMessage:
    headers, _ = parse(message["headers"].encode())
    return StoredMessage(subject=message["subject"], seq=1, data=message["data"].encode(), time=TIME, headers=headers)


# -- writing ----------------------------------------------------------------------------------------------------


def result_of(task: Task, status: ResultStatus) -> Result:
    return new_result(
        task.to_json(),
        result_id=make_result_id("code", task.id, CLAIM.nonce),
        status=status,
        result="grün ✓\n",
        error="the command exited with status 3" if status == "failed" else None,
        extra={"worker": "machine-1", "exit_code": 3 if status == "failed" else 0, "duration_seconds": 1.5},
    )


async def publish_one(coordinator: Coordinator, task_id: str) -> tuple[Task, Record]:
    published = await coordinator.publish(
        "code", CONTENT, task_type="review", payload_format="json", reply_to="ops", task_id=task_id
    )
    record = await Ledger(coordinator.bus).read(TaskKey("code", task_id))
    assert isinstance(record, Record)
    return published.message, record


async def claim_one(coordinator: Coordinator, task_id: str) -> tuple[Task, Entry, int]:
    task, record = await publish_one(coordinator, task_id)
    entry = claimed(record.entry, CLAIM, 1)
    return task, entry, await Ledger(coordinator.bus).write(TaskKey("code", task_id), entry, revision=record.revision)


async def store_tasks(coordinator: Coordinator) -> None:
    ledger = Ledger(coordinator.bus)
    await publish_one(coordinator, "job-queued")
    _, entry, revision = await claim_one(coordinator, "job-working")
    await ledger.write(TaskKey("code", "job-working"), renewed(entry), revision=revision)
    _, entry, revision = await claim_one(coordinator, "job-retried")
    changes = {"state": "queued", "retry_after_s": 10.5, "last_failure": "the command exited with status 3"}
    await ledger.write(TaskKey("code", "job-retried"), entry.model_copy(update=changes), revision=revision)
    await publish_one(coordinator, "job-cancelling")
    await coordinator.task("job-cancelling").cancel("not needed")
    for status in STATUSES:
        task, entry, revision = await claim_one(coordinator, f"job-{status}")
        verdict = await settle(
            coordinator.bus, TaskKey("code", task.id), entry, result_of(task, status), revision=revision
        )
        assert isinstance(verdict, Won)


PRESENCE = Presence(
    agent="code", instance="machine-1", host="machine", pid=4711, version="0.1.0", description="reviews",
    command="claude", slots=2, free=1, running=("job-working",), started_at=TIME.isoformat(),
)  # fmt: skip


async def store_others(coordinator: Coordinator) -> None:
    reason = "not a valid task: to: is missing"
    delivery = cast("Delivery", Refused())
    context = cast(
        "Context",
        SimpleNamespace(
            bus=coordinator.bus,
            ledger=Ledger(coordinator.bus),
            agent="code",
            instance="machine-1",
            dead_letters=dict[str, str](),
        ),
    )
    assert await store_dead_letter(context, delivery, reason)
    await announce(coordinator.bus, PRESENCE)
    await records.create(coordinator, "watch_results", STATE, ttl_ms=2_592_000_000)
    found = await records.create(coordinator, "publish_task", STATE, ttl_ms=2_592_000_000)
    body = {"content": [{"type": "text", "text": "grün"}], "isError": False}
    assert await records.change(coordinator, found, end=records.End(status="completed", body=body))


async def messages_of(bus: Bus) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for stream in STREAMS:
        state = (await bus.api(f"STREAM.INFO.{stream}"))["state"]
        for seq in range(state["first_seq"], state["last_seq"] + 1):
            try:
                message = (await bus.api(f"STREAM.MSG.GET.{stream}", {"seq": seq}))["message"]
            except ApiError:  # a later one of the same key has replaced it
                continue
            headers, data = (base64.b64decode(message.get(name, "")).decode() for name in ("hdrs", "data"))
            found.append({"stream": stream, "subject": message["subject"], "headers": headers, "data": data})
    return found


def as_of_today(message: dict[str, str]) -> dict[str, str]:
    """Make the changes since the recording.

    The message id of a task has a random part, which its entry holds, as it holds the first words of the content. The
    headers of an entry name its group, and sum a settled one up. The result of a message that was not accepted has the
    code of its failure.
    """
    part, headers, data = "r" * 20, message["headers"], message["data"]
    refused = r'("error":"(not accepted: [^"]*)","completed_at":"[^"]*")'
    data = re.sub(refused, r'\1,"failure":{"code":"rejected","message":"\2"}', data)
    if message["stream"] == "AGENT_TASKS":
        headers = re.sub(
            r"Bus-Ledger-Revision(.*)\r\nNats-Msg-Id: (.*)\r", rf"Bus-Revision\1\r\nNats-Msg-Id: \2.{part}\r", headers
        )
    if subjects.parse_state(message["subject"]) is not None:
        data = re.sub(r'("created_at":"[^"]*")', rf'\1,"publication":"{part}"', data, count=1)
        if data:
            about = json.dumps(first_words(CONTENT), ensure_ascii=False)
            data = f'{data.removesuffix("}")},"about":{about}}}'
            headers = re.sub(r"(Bus-State: .*\r\n)", r"\1Bus-Group: -\r\n", headers)
        if data and (summary := summary_of(Entry.model_validate_json(data))) is not None:
            headers = headers.replace("Bus-Group: -\r\n", f"Bus-Group: -\r\nBus-Summary: {summary}\r\n")
    return {**message, "headers": headers, "data": data}


async def test_every_message_on_the_bus_is_written_byte_for_byte_as_before(coordinator: Coordinator) -> None:
    await store_tasks(coordinator)
    await store_others(coordinator)
    assert await messages_of(coordinator.bus) == [as_of_today(message) for message in recorded_messages()]


async def test_an_outbox_entry_is_read_and_written_byte_for_byte_as_before(tmp_path: Path) -> None:
    before = recorded(f"outbox/{CLAIM.nonce}.json")
    (tmp_path / "before.json").write_bytes(before)
    [read] = Outbox(tmp_path).entries()
    task = new_task(to="code", content="x", task_type="test", task_id="job-outbox")
    unsent = OutboxEntry(
        agent="code", task_id=task.id, nonce=CLAIM.nonce, status="completed", inbox="ops",
        result=result_of(task, "completed"), written_at=1795904796.5, revision=7, trace={"traceparent": "00-1-2-01"},
    )  # fmt: skip
    for one in (read, unsent):
        await Outbox(tmp_path).put(one)
        assert (tmp_path / f"{CLAIM.nonce}.json").read_bytes() == before


def test_the_records_of_running_commands_are_written_byte_for_byte_as_before(tmp_path: Path) -> None:
    with process_tree.Children(tmp_path) as children:
        children.record(process_tree.Run(4711, children.new_run_id()), "job-working")
        written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_bytes() for path in (RECORDED / "children").iterdir()}


def without_comments(text: str) -> list[str]:
    """The lines that nats-server and agentbus read; what comments say may change."""
    return [line for line in text.splitlines() if not line.lstrip().startswith("#")]


def accounts_of_today(text: str) -> str:
    """Make the changes since the recording: tighter limits of accounts, and grants for what bears a party's name.

    What runs tell is kept in streams, where it went to each listener before; no version told anything.

    Results may bear the name of who made them, and outputs that of the owner of their task. What earlier versions use
    is covered by both.
    """
    text = re.sub(r"(CONSUMER\.CREATE\.AGENT_RESULTS\.\*\.agent\.\w+\.)results", r"\1>", text)
    text = re.sub(r"(\$O\.AGENT_FILES_\w+\.[CM]\.)\*", r"\1>", text)
    text = re.sub(r"(DIRECT\.GET\.OBJ_\w+\.\$O\.AGENT_FILES_\w+\.)>", r"\1M.>", text)
    text = re.sub(r"(?m)^.*\bagent\.\w+\.progress\.>.*\n", "", text)
    first, *accounts = text.split('\n  "agent-')
    for number, account in enumerate(accounts):
        subscriptions = 256 if account.startswith(("lead", "main")) else 64
        limits = f"limits: {{ max_connections: 64, max_subscriptions: {subscriptions} }}"
        accounts[number] = account.replace("limits: { max_connections: 256 }", limits)
    return '\n  "agent-'.join([first, *accounts])


OF_OWNED_TASKS = re.compile(
    r"AGENT_TASKS\.tasks-\w+|agent\.[*]\.tasks\.|agent\.\w+\.dead\.[*]|audit\.|AGENT_AUDIT|INFO\.KV_AGENT_STATE"
    r"|AGENT_CONTROL|AGENT_PROGRESS|agent\.\w+\.progress\.|STREAM\.LIST|AGENT_INPUTS|AGENT_REGISTRY\.\w+\.place\."
)
"""What a bus of the older layout has more than before: so far it is used by nothing but the upgrade."""


def test_a_bus_folder_of_the_older_layout_is_written_as_before_but_for_grants_of_what_it_may_get(
    tmp_path: Path,
) -> None:
    (tmp_path / "bus.toml").write_bytes(recorded("bus.toml"))
    manifest.write_manifest(tmp_path, manifest.read_manifest(tmp_path), replace=True)
    written = (tmp_path / "bus.toml").read_text(encoding="utf-8")
    assert without_comments(written) == without_comments(recorded("bus.toml").decode())
    text = (tmp_path / "accounts.conf").read_text(encoding="utf-8")
    before = without_comments(accounts_of_today(recorded("accounts.conf").decode()))
    changes = [line for line in difflib.ndiff(before, without_comments(text)) if line[0] in "+-"]
    assert [line for line in changes if line[0] == "-" or not OF_OWNED_TASKS.search(line)] == []


def test_bundles_and_the_configuration_of_the_administrator_are_written_as_before_but_for_the_second_key(
    tmp_path: Path,
) -> None:
    made = new_bus.create(tmp_path, new_bus.Plan(hosts=("bus.example.com",)), ["code", "doc"])
    made.add("lead", ["code"])
    text = (tmp_path / "admin.toml").read_text(encoding="utf-8").replace(str(tmp_path), "/srv/bus")
    added = [line for line in without_comments(text) if line not in without_comments(recorded("admin.toml").decode())]
    assert [line.partition(" = ")[0] for line in added] == ["tasks_nkey_file"]
    bundled = made.bundle("lead").model_copy(update={"ca": "no certificate\n", "secret": seeds_of_lead()})
    assert bundle.bundle_text(bundled) == recorded("lead.bundle").decode()


def seeds_of_lead() -> str:
    return [*seeds()][4]


# -- reading ----------------------------------------------------------------------------------------------------


def test_recorded_tasks_and_results_are_read_and_written_again_unchanged() -> None:
    tasks = recorded_messages("AGENT_TASKS")
    for message in tasks:
        assert encode(decode_task(message["data"].encode()).to_json()).decode() == message["data"]
    *results, refused = recorded_messages("AGENT_RESULTS")
    for message in (*results, refused):
        assert encode(decode_result(message["data"].encode()).to_json()).decode() == message["data"]
    assert [decode_result(message["data"].encode()).status for message in results] == list(STATUSES)


def test_recorded_ledger_entries_are_read_and_written_again_unchanged() -> None:
    messages = [one for one in recorded_messages("KV_AGENT_STATE") if subjects.parse_state(one["subject"])]
    states: list[str] = []
    for message in messages:
        record = read_entry(stored(message))
        assert isinstance(record, Record)
        assert record.entry.model_dump_json(exclude_none=True) == message["data"]
        states.append(record.entry.state)
    assert states == ["queued", "working", "queued", "queued", *STATUSES]


def test_recorded_mcp_tasks_are_read_and_written_again_unchanged() -> None:
    messages = [one for one in recorded_messages("KV_AGENT_STATE") if not subjects.parse_state(one["subject"])]
    assert len(messages) == 2
    for message in messages:
        record = records.record_in(message["data"].encode(), "any")
        assert encode(record.model_dump(mode="json", exclude_none=True)).decode() == message["data"]


async def test_a_recorded_dead_letter_and_presence_are_read(coordinator: Coordinator) -> None:
    for message in recorded_messages("AGENT_DEAD", "KV_AGENT_REGISTRY"):
        one = stored(message)
        headers = {name: value for name, value in one.headers.items() if name != "Nats-Msg-Id"}
        await coordinator.bus.store(one.subject, one.data, headers=headers)
    letter = await dead_letter(coordinator.bus, 1)
    assert (letter.agent, letter.worker, letter.origin) == ("code", "machine-1", "AGENT_TASKS.17")
    assert (letter.reason, letter.data, letter.complete) == ("not a valid task: to: is missing", NO_TASK, True)
    [presence] = await present(coordinator.bus)
    assert presence.model_copy(update={"seen_at": ""}) == PRESENCE


def test_a_recorded_bus_folder_and_bundle_are_read(tmp_path: Path) -> None:
    (tmp_path / "bus.toml").write_bytes(recorded("bus.toml"))
    found = BusFolder(tmp_path)
    assert (found.agents, found.may_task("lead")) == (("code", "doc", "lead"), ("code",))
    read = bundle.read_bundle(RECORDED / "lead.bundle")
    assert (read.id, read.role, read.may_task, read.secret) == ("lead", "worker", ("code",), [*seeds()][4])
    assert bundle.bundle_text(read) == recorded("lead.bundle").decode()


async def test_the_recording_is_what_the_earlier_version_writes(tmp_path: Path, old: OldVersion) -> None:
    (tmp_path / "made").mkdir()
    ran = await old.python(str(RECORDED / "make_recorded.py"), str(tmp_path / "made"))
    assert ran.code == 0, ran
    files = {path.relative_to(RECORDED): path.read_bytes() for path in _files(RECORDED) if path.suffix != ".py"}
    assert {path.relative_to(tmp_path / "made"): path.read_bytes() for path in _files(tmp_path / "made")} == files


def _files(folder: Path) -> Generator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)

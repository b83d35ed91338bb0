"""A bus whose queue has an account of its own: what that holds, and the administrator who works in both accounts."""

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.admin.consumers import consumers_of_bus
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.setup import set_up
from agentbus.errors import AuthenticationError, BusUnavailableError, PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import ledger_of
from agentbus.protocol.permissions import ADMINISTRATOR
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.bus_folder.folder import BusFolder
from agentbus.provision.nats_server import run_server
from support.doctor import doctor, the_finding
from support.harness import BOUND_S, eventually, run_cli, worker
from support.installation import OwnBus, outcome_of, own_bus
from support.old_version import OldVersion
from support.older_bus import make_older_bus, serving

pytestmark = pytest.mark.posix("not tried on Windows")

NEXT_OF_CODE = subjects.pull(subjects.TASKS_STREAM, "agent-code")
MIB = 1 << 20


@pytest.fixture
async def own(tmp_path: Path) -> AsyncGenerator[OwnBus]:
    async with own_bus(tmp_path) as running:
        yield running


async def cli(*words: str | Path) -> str:
    ran = await run_cli(*map(str, words))
    assert ran.code == 0, ran.out + ran.err
    return ran.out


# -- the queue --------------------------------------------------------------------------------------------------


async def push_into_the_queue(bus: OwnBus, task: str) -> int:
    """Have the server ask for the tasks of `code` by a consumer of `main`; returns how many tasks were delivered."""
    apart = bus.folder.ledgers_apart
    state, keys = (
        (ledger_of("code"), subjects.states("code")) if apart else (subjects.STATE_STREAM, subjects.STATE_SUBJECTS)
    )
    consumer = f"push-{task}"
    async with bus.coordinator("main") as main, connect(bus.settings(ADMINISTRATOR)) as admin:
        await main.publish("code", "the victim", task_type="test", task_id=task)
        config = {"name": consumer, "deliver_subject": NEXT_OF_CODE, "ack_policy": "explicit", "mem_storage": True}
        body = {"stream_name": state, "config": {**config, "filter_subject": keys}}
        await main.bus.api(f"CONSUMER.CREATE.{state}.{consumer}.{keys}", body)
        for number in range(20):
            await main.bus.store(subjects.state(TaskKey("code", f"{task}-{number}")), b"1")
        pushed = await admin.consumer_info(state, consumer)
        if pushed.delivered_stream_seq:

            async def delivered() -> bool:
                return (await admin.consumer_info(subjects.TASKS_STREAM, "agent-code")).num_ack_pending > 0

            await eventually(delivered, "the task is delivered into the void")
        return (await admin.consumer_info(subjects.TASKS_STREAM, "agent-code")).num_ack_pending


async def test_a_consumer_of_a_party_cannot_ask_for_the_tasks_of_an_agent(own: OwnBus, tmp_path: Path) -> None:
    assert await push_into_the_queue(own, "task-1") == 0
    async with own.coordinator("main") as main, worker(own.worker_toml(tmp_path, "code")):
        assert (await main.wait(["task-1"], timeout_s=BOUND_S)).settled["task-1"].state == "completed"


async def test_in_the_older_layout_it_can(tmp_path: Path, old: OldVersion) -> None:
    # What the test before would see if the queue lay in the account of the ledger.
    folder = await make_older_bus(tmp_path, old)
    async with serving(folder, tmp_path) as running:
        assert await push_into_the_queue(running, "task-1") > 0


async def test_a_stored_result_names_the_party_that_sent_it(own: OwnBus) -> None:
    async with connect(own.settings("code")) as code, connect(own.settings(ADMINISTRATOR)) as admin:
        await code.store(subjects.results("main"), b"{}")
        with pytest.raises(PermissionDeniedError):
            await code.store("agent.main.results.doc", b"{}")
        stored = await admin.last_message(subjects.RESULTS_STREAM, subjects.inbox("main"))
    assert stored is not None
    assert stored.subject == "agent.main.results.code"


async def test_the_streams_share_what_the_bus_may_store_as_if_it_were_one_account(own: OwnBus) -> None:
    async with connect(own.settings(ADMINISTRATOR)) as admin:
        granted = [(await one.account_info()).max_storage_bytes for one in (admin.accounts[1], admin)]
        bounds = {name: (await admin.stream_info(name)).max_bytes for name in await admin.stream_names()}
    assert granted == [1024 * MIB * 16 // 100, 1024 * MIB]
    assert bounds["AGENT_TASKS"] == int(1024 * MIB * 0.15)
    assert bounds["KV_AGENT_STATE_code"] == int(1024 * MIB * 0.31 / 4)
    assert bounds["AGENT_RESULTS"] == int(1024 * MIB * 0.25)


# -- the administrator ------------------------------------------------------------------------------------------


async def test_a_backup_of_both_accounts_is_restored_into_both(tmp_path: Path) -> None:
    async with own_bus(tmp_path) as own:
        config, backup = own.folder.administrator, tmp_path / "backup"
        async with own.coordinator("main") as main:
            async with worker(own.worker_toml(tmp_path, "code")):
                assert await outcome_of(main, "code") == "completed"
            queued = await main.publish("code", "say:done", task_type="test")
        copied = [json.loads(line)["stream"] for line in (await cli("backup", backup, "--config", config)).splitlines()]
        assert copied[0] == "AGENT_TASKS"
        assert set(copied) >= {"AGENT_RESULTS", "AGENT_DEAD", "KV_AGENT_STATE_code", "OBJ_AGENT_FILES_code"}
    shutil.move(own.folder.path / "jetstream", tmp_path / "lost")
    async with run_server(store=tmp_path / "nats", config=own.folder.servers[0].configuration):
        await cli("restore", backup, "--config", config)
        await cli("setup", "--config", config, "--agent", "code")
        async with connect(own.settings(ADMINISTRATOR)) as admin:
            of_bus, of_queue = [await streams_of(one) for one in admin.accounts]
        assert of_queue == ["AGENT_TASKS"]
        assert "AGENT_TASKS" not in of_bus
        async with own.coordinator("main") as main, worker(own.worker_toml(tmp_path, "code")):
            assert (await queued_state(main, queued.id)) == "completed"


async def streams_of(account: Bus) -> list[str]:
    """The names of the streams of one account, as the server tells them."""
    return (await account.api("STREAM.NAMES"))["streams"]


async def queued_state(main: Coordinator, task: str) -> str:
    return (await main.wait([task], timeout_s=BOUND_S)).settled[task].state


async def plant(own: OwnBus) -> None:
    """Make a foreign consumer in each account."""
    async with connect(own.settings(ADMINISTRATOR)) as admin:
        for stream, filtered in (
            (subjects.TASKS_STREAM, "agent.x.tasks.alice"),
            (ledger_of("code"), "$KV.AGENT_STATE.code.y"),
        ):
            body = {"durable_name": "foreign", "filter_subject": filtered, "ack_policy": "explicit"}
            await admin.api(f"CONSUMER.CREATE.{stream}.foreign.{filtered}", {"stream_name": stream, "config": body})


async def foreign_consumers(own: OwnBus) -> list[str]:
    async with connect(own.settings(ADMINISTRATOR)) as admin:
        return [one.path for one in await consumers_of_bus(admin) if one.foreign]


FOREIGN = ["AGENT_TASKS/foreign", "KV_AGENT_STATE_code/foreign"]


async def test_foreign_consumers_and_switches_are_found_in_both_accounts(own: OwnBus) -> None:
    await plant(own)
    config = own.folder.administrator
    async with connect(own.settings(ADMINISTRATOR)) as admin:
        for name, src, dest in (
            (subjects.TASKS_STREAM, subjects.TASK_SUBJECTS, "x.{{wildcard(1)}}"),
            (ledger_of("code"), subjects.states("code"), "y.>"),
        ):
            found = (await admin.stream_info(name)).config
            await admin.api(f"STREAM.UPDATE.{name}", {**found, "republish": {"src": src, "dest": dest}})
    findings = await doctor("--role", "administrator", "--config", str(config))
    said = [finding["text"] for finding in findings if finding["verdict"] == "warning"]
    assert [path for path in FOREIGN if not any(path in text for text in said)] == []
    for name in ("AGENT_TASKS", "KV_AGENT_STATE_code"):
        assert [text for text in said if name in text and "republish" in text]
    warned = await run_cli("setup", "--config", str(config))
    assert "2 foreign consumers" in warned.err


@pytest.mark.parametrize(
    "words", [("agent", "remove", "doc"), ("agent", "rotate", "code"), ("agent", "rotate", "main")]
)
async def test_a_party_that_loses_its_credential_leaves_no_foreign_consumer(
    own: OwnBus, words: tuple[str, ...]
) -> None:
    await plant(own)
    said = await cli(*words, "--bus", own.folder.path)
    for path in FOREIGN:
        assert f"deleted the foreign consumer {path}: it" in said
    assert await foreign_consumers(own) == []


async def test_while_the_bus_is_down_the_command_says_how_to_delete_them_later(tmp_path: Path) -> None:
    async with own_bus(tmp_path) as own:
        await plant(own)
    async with asyncio.timeout(BOUND_S):
        said = await cli("agent", "remove", "doc", "--bus", own.folder.path)
    assert "consumers that it may have left on the bus were not deleted" in said
    assert f"agentbus consumers remove --foreign --config {own.folder.administrator}" in said
    assert own.folder.agents == ("code", "doc")
    assert BusFolder(own.folder.path).agents == ("code",)


async def test_the_administrator_of_another_machine_has_both_credentials_and_loses_both(
    own: OwnBus, tmp_path: Path
) -> None:
    here, bundle, folder = tmp_path / "here", tmp_path / "admin.bundle", own.folder
    await cli("agent", "bundle", "admin", "--bus", folder.path, "--output", bundle)
    await cli("coordinator", "init", "--bundle", bundle, "--folder", here)
    config = here / "coordinator.toml"
    await cli("setup", "--config", config, "--agent", "code")
    assert await consumer_names(config) == ["agent-code", "agent-doc", "tasks-code", "tasks-doc"]

    await cli("agent", "rotate", "admin", "--bus", folder.path)
    own.server.reload()

    async def refused() -> bool:
        return "refused the credentials" in (await run_cli("consumers", "list", "--config", str(config))).err

    await eventually(refused, "the old credentials are refused")
    again = tmp_path / "again.bundle"
    await cli("agent", "bundle", "admin", "--bus", folder.path, "--output", again)
    await cli("coordinator", "init", "--bundle", again, "--folder", here, "--renew")
    assert await consumer_names(config) == ["agent-code", "agent-doc", "tasks-code", "tasks-doc"]


async def consumer_names(config: Path) -> list[str]:
    listed = [json.loads(line) for line in (await cli("consumers", "list", "--config", config)).splitlines()]
    return [one["name"] for one in listed if one["stream"] == subjects.TASKS_STREAM]


async def test_the_administrator_cannot_sign_in_with_one_of_two_credentials_refused(own: OwnBus) -> None:
    other = BusFolder(own.folder.path)
    old = own.folder.tasks_secret_file
    assert old is not None
    kept = old.read_text(encoding="utf-8")
    other.rotate("admin")
    old.write_text(kept, encoding="utf-8")
    own.server.reload()

    async def refused() -> str:
        try:
            async with connect(own.settings(ADMINISTRATOR)) as admin:
                await set_up(admin)
        except AuthenticationError as error:
            return str(error) if "check tasks_nkey_file in [nats]" in str(error) else ""
        except BusUnavailableError:  # the server was reading its configuration
            return ""
        return ""

    await eventually(refused, "the first credential is taken, and the second one refused")  # after the reload
    findings = await doctor("--role", "administrator", "--config", str(own.folder.administrator), code=1)
    assert the_finding(findings, "sign-in")["verdict"] == "failed"

"""Foreign consumers, as a party with its real credentials makes them: found, named, and deleted on request alone."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from agentbus.admin.consumers import consumers_of_bus
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.setup import set_up
from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import ledger_of
from agentbus.protocol.permissions import ADMINISTRATOR
from support.doctor import coordinator_toml, doctor, the_finding
from support.harness import eventually, run_cli
from support.installation import OwnBus, own_bus

pytestmark = pytest.mark.posix("not tried on Windows")

STATE = ledger_of("doc")
THEIRS = subjects.states("doc", "lead")
NS = 10**9


@pytest.fixture
async def own(tmp_path: Path) -> AsyncGenerator[OwnBus]:
    """A bus as `agentbus init` makes it, with an agent `lead` that may give tasks to `doc`."""
    async with own_bus(tmp_path, may_task={"lead": ["doc"]}) as running:
        yield running


async def make(bus: Bus, name: str, filtered: str, *, stream: str = STATE, **config: Any) -> None:
    """Make a consumer as a party can whose permission binds the name of the stream and the filter."""
    body = {"name": name, "filter_subject": filtered, "ack_policy": "none", "mem_storage": True, **config}
    await bus.api(f"CONSUMER.CREATE.{stream}.{name}.{filtered}", {"stream_name": stream, "config": body})


async def plant(own: OwnBus) -> None:
    """Leave foreign consumers behind, with the credentials of a worker that may give tasks to `doc`."""
    async with connect(own.settings("lead")) as lead:
        await make(lead, "durable", THEIRS, durable_name="durable")
        await make(lead, "pushed", THEIRS, deliver_subject="$SYS.REQ.USER.INFO")
        await make(lead, "short", THEIRS, inactive_threshold=60 * NS)  # as readers of agentbus do


async def cli(own: OwnBus, folder: Path, *arguments: str, **options: Any) -> Any:
    config = folder / "admin.toml"
    if not config.exists():
        coordinator_toml(folder, own, ADMINISTRATOR)
    return await run_cli(*arguments, "--config", str(config), **options)


async def test_what_a_party_leaves_behind_is_listed_with_the_reason_and_deleted_on_request(own: OwnBus, tmp_path: Path):
    await plant(own)
    listed = await cli(own, tmp_path, "consumers", "list")
    foreign = await cli(own, tmp_path, "consumers", "list", "--foreign")
    assert listed.code == foreign.code == 0, listed.err + foreign.err
    every = [json.loads(line) for line in listed.out.splitlines()]
    assert {(one["stream"], one["name"], bool(one.get("foreign"))) for one in every} == {
        ("AGENT_TASKS", "agent-code", False),
        ("AGENT_TASKS", "agent-doc", False),
        ("AGENT_TASKS", "agent-lead", False),
        ("AGENT_TASKS", "tasks-code", False),
        ("AGENT_TASKS", "tasks-doc", False),
        ("AGENT_TASKS", "tasks-lead", False),
        (STATE, "durable", True),
        (STATE, "pushed", True),
        (STATE, "short", False),
    }
    assert [one for one in every if "foreign" in one] == [json.loads(line) for line in foreign.out.splitlines()]
    asked = await cli(own, tmp_path, "consumers", "remove", "--foreign")
    assert asked.code == 2
    assert f"{STATE}/durable: it is durable" in asked.err
    assert "nothing was deleted: no person can be asked here; add --yes" in asked.err
    assert len((await cli(own, tmp_path, "consumers", "list", "--foreign")).out.splitlines()) == 2
    removed = await cli(own, tmp_path, "consumers", "remove", "--foreign", "--yes")
    assert [json.loads(line)["name"] for line in removed.out.splitlines()] == ["durable", "pushed"]
    async with connect(own.settings(ADMINISTRATOR)) as admin:
        left = await consumers_of_bus(admin)
    assert [one.path for one in left if one.stream == STATE] == [f"{STATE}/short"]
    assert [one.foreign for one in left] == [""] * len(left)


async def test_consumers_are_deleted_by_their_names(own: OwnBus, tmp_path: Path):
    await plant(own)
    removed = await cli(own, tmp_path, "consumers", "remove", f"{STATE}/pushed", f"{STATE}/pushed")
    assert [json.loads(line) for line in removed.out.splitlines()] == [
        {"stream": STATE, "name": "pushed", "removed": True}
    ]
    missing = await cli(own, tmp_path, "consumers", "remove", f"{STATE}/durable", f"{STATE}/no-such")
    assert missing.code == 1
    assert missing.err.count("\n") == 1
    assert f"there is no consumer {STATE}/no-such" in missing.err
    assert len((await cli(own, tmp_path, "consumers", "list", "--foreign")).out.splitlines()) == 1  # none was deleted


@pytest.mark.parametrize("arguments", [[], ["--foreign", f"{STATE}/x"]])
async def test_removing_wants_names_or_all_foreign_ones(own: OwnBus, tmp_path: Path, arguments: list[str]):
    done = await cli(own, tmp_path, "consumers", "remove", *arguments)
    assert done.code == 2
    assert "name the consumers as STREAM/NAME, or give --foreign" in done.err


async def test_setup_and_doctor_name_foreign_consumers_and_delete_nothing(own: OwnBus, tmp_path: Path):
    config = str(coordinator_toml(tmp_path, own, ADMINISTRATOR))
    clean = await doctor("--role", "administrator", "--config", config)
    assert the_finding(clean, "consumers")["verdict"] == "ok"
    await plant(own)
    findings = await doctor("--role", "administrator", "--config", config)
    found = the_finding(findings, "consumers")
    assert found["verdict"] == "warning"
    assert f"{STATE}/durable: it is durable" in found["text"]
    assert f"{STATE}/pushed: the server sends" in found["text"]
    assert "agentbus consumers remove --foreign" in found["fix"]
    done = await cli(own, tmp_path, "setup", "--agent", "code")
    assert done.code == 0
    assert "warning: 2 foreign consumers" in done.err
    async with connect(own.settings(ADMINISTRATOR)) as admin:
        assert len([one for one in await consumers_of_bus(admin) if one.foreign]) == 2


async def test_a_durable_of_another_name_that_takes_the_tasks_of_an_agent_is_no_foreign_one(own: OwnBus):
    async with connect(own.settings(ADMINISTRATOR)) as admin:
        tasks = subjects.TASKS_STREAM
        body = {"durable_name": "mine", "filter_subject": "agent.extra.tasks", "ack_policy": "explicit"}
        await make(admin, "mine", "agent.extra.tasks", stream=tasks, **body)
        await make(admin, "odd", "agent.*.other", stream=tasks, ack_policy="explicit")
        found = {one.name: one.foreign for one in await consumers_of_bus(admin) if one.stream == tasks}
    assert found["mine"] == ""
    assert found["odd"] == "it does not take the tasks of one agent"


async def test_a_consumer_that_its_maker_has_left_behind_goes_by_itself(own: OwnBus):
    async with connect(own.settings(ADMINISTRATOR)) as admin:
        config = (await admin.stream_info(STATE)).config
        short = {**config, "consumer_limits": {"inactive_threshold": NS}}
        await admin.api(f"STREAM.UPDATE.{STATE}", short)
        async with connect(own.settings("lead")) as lead:
            await make(lead, "forgotten", THEIRS)  # without a threshold of its own

        async def gone() -> bool:
            return not await admin.consumers(STATE)

        await eventually(gone, "the server has removed it")


async def test_a_party_that_makes_a_thousand_consumers_locks_out_no_reader(own: OwnBus):
    async with connect(own.settings("lead")) as lead:
        for first in range(0, 1_050, 50):
            await asyncio.gather(*(make(lead, f"c{number}", THEIRS) for number in range(first, first + 50)))
    async with own.coordinator("main") as main:
        await main.publish("code", "say:hi", task_type="test", task_id="job")
        assert [task.task_id for task in (await main.list_tasks()).tasks] == ["job"]
        assert "job" in (await main.wait(["job"], timeout_s=0.5)).pending


# -- switches of streams ----------------------------------------------------------------------------------------


async def test_a_switch_that_lets_publishers_do_more_is_named_and_taken_back_where_the_server_can(own: OwnBus):
    stream = subjects.RESULTS_STREAM
    async with connect(own.settings(ADMINISTRATOR)) as admin:
        config = (await admin.stream_info(stream)).config
        copies = {"src": "agent.*.results", "dest": "copy.{{wildcard(1)}}"}
        await admin.api(f"STREAM.UPDATE.{stream}", {**config, "allow_rollup_hdrs": True, "republish": copies})
        found = {item.name: item for item in await set_up(admin)}
        assert found[stream].outcome == "different"
        assert "allow_rollup_hdrs is True, wanted False" in found[stream].differences
        assert any(text.startswith("republish is src agent.*.results") for text in found[stream].differences)
        updated = {item.name: item for item in await set_up(admin, update=True)}
        assert updated[stream].outcome == "updated"
        assert {item.outcome for item in await set_up(admin)} == {"found"}
        after = (await admin.stream_info(stream)).config
    assert not after.get("republish")
    assert not after["allow_rollup_hdrs"]


async def test_a_switch_that_the_server_does_not_take_back_is_named_with_its_refusal(own: OwnBus):
    async with connect(own.settings(ADMINISTRATOR)) as admin:
        config = (await admin.stream_info(subjects.REGISTRY_STREAM)).config
        answer = await admin.api(f"STREAM.UPDATE.{subjects.REGISTRY_STREAM}", {**config, "allow_msg_ttl": True})
        if not answer["config"].get("allow_msg_ttl"):
            pytest.skip("this server does not know the switch")
        found = {item.name: item for item in await set_up(admin, update=True)}
    registry = found[subjects.REGISTRY_STREAM]
    assert registry.outcome == "different"
    assert "allow_msg_ttl is True, wanted False" in registry.differences
    assert any(text.startswith("cannot be changed: ") for text in registry.differences)

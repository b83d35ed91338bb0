"""Hostile parties with their real credentials on a bus of `agentbus init`: nothing of others is reached or changed.

The gate tries two of the ways; `make attacks` tries each for each party, with each subject that the server has a
subscription on. What a party can do at most, and what it costs, is in docs/explanation/security.md.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agentbus.admin.consumers import consumers_of_bus
from agentbus.concurrently import concurrently
from agentbus.protocol import subjects
from agentbus.protocol.audit import names as audit
from agentbus.protocol.parties.ledger_streams import ledger_of
from agentbus.protocol.permissions import ADMINISTRATOR
from support import installation
from support.attacker import (
    AT_ONCE,
    BUSY,
    HOSTILE,
    IDLE,
    OTHER,
    VARIANTS,
    Ground,
    battleground,
    create_subject,
    creations,
    headers_against,
    publish_with_replies,
    push,
    put_payloads,
    store_with_headers,
    targets,
)
from support.doctor import coordinator_toml
from support.free_ports import free_port
from support.harness import BOUND_S, run_cli

pytestmark = pytest.mark.posix("not tried on Windows")
every = pytest.mark.attacks


@pytest.fixture
async def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Ground]:
    monitoring = free_port()
    monkeypatch.setattr(installation, "PLAN", replace(installation.PLAN, monitoring_port=monitoring))
    async with battleground(tmp_path, monitoring) as made:
        yield made


@asynccontextmanager
async def nothing_of_others_changes(ground: Ground, attacker: str = "") -> AsyncGenerator[None]:
    """Check it after an attack: what others have stored, what was delivered, and what arrived at the idle victim.

    Args:
        attacker: who may have written lines of the audit, in its own name.
    """
    before = await ground.of_others()
    yield
    await ground.fence()
    after = await ground.of_others()
    changed = {name: (before.get(name), after.get(name)) for name in {*before, *after}}
    own = f"{audit.SAID_STREAM} audit.{attacker}.said."
    assert {name: both for name, both in changed.items() if both[0] != both[1] and not name.startswith(own)} == {}
    assert ground.heard == []


def reached(ground: Ground) -> list[str]:
    """Where an attacker has the server deliver: what there is a subscription on, and what belongs to the victims."""
    found = {*ground.literals("BUS"), *ground.literals("TASKS"), *targets(IDLE), *targets(BUSY)}
    assert len(found) > 50
    return sorted(found)


async def loaded(ground: Ground, name: str) -> list[tuple[str, str]]:
    """Store payloads for the consumers that a party may make; returns their streams and filters."""
    return [one for one in creations(ground.parties[name]) if await put_payloads(ground, *one)]


async def push_to(ground: Ground, name: str, consumers: Sequence[tuple[str, str]], variants: Sequence[str]) -> int:
    """Make consumers that deliver to every subject, in each variant; returns how many the server made."""
    bus = ground.connections[name]
    pushes = [(*one, target, variant) for one in consumers for target in reached(ground) for variant in variants]
    made = await concurrently(pushes, lambda one: push(bus, *one), at_once=AT_ONCE)
    return sum(made)


async def foreign(ground: Ground) -> int:
    return sum(bool(one.foreign) for one in await consumers_of_bus(ground.admin))


async def remove_foreign(ground: Ground, folder: Path) -> None:
    """Delete what attackers have left behind, as an operator does."""
    config = folder / "admin.toml"
    coordinator_toml(folder, ground.own, ADMINISTRATOR)
    ran = await run_cli("consumers", "remove", "--foreign", "--yes", "--config", str(config), timeout_s=5 * BOUND_S)
    assert ran.code == 0, ran.err
    assert await foreign(ground) == 0


# -- consumers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variants"),
    [("lead", ["plain"]), *(pytest.param(name, [*VARIANTS], marks=every) for name in HOSTILE if name != "code")],
)
async def test_consumers_that_deliver_to_any_subject_reach_nothing_of_others(
    ground: Ground, tmp_path: Path, name: str, variants: list[str]
):
    consumers = await loaded(ground, name)
    async with nothing_of_others_changes(ground):
        assert await push_to(ground, name, consumers, variants) > 0
    await remove_foreign(ground, tmp_path)
    async with nothing_of_others_changes(ground):
        pass


@every
async def test_a_plain_worker_can_make_no_consumer(ground: Ground):
    assert list(creations(ground.parties["code"])) == []


# -- replies and headers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["code", *(pytest.param(name, marks=every) for name in HOSTILE if name != "code")])
async def test_replies_and_headers_reach_nothing_of_others(ground: Ground, name: str):
    party, bus = ground.parties[name], ground.connections[name]
    async with nothing_of_others_changes(ground, attacker=name):
        await publish_with_replies(bus, party, reached(ground))
    async with nothing_of_others_changes(ground, attacker=name):
        for victim in (IDLE, BUSY):
            await store_with_headers(bus, party, headers_against(victim).values())


@every
@pytest.mark.parametrize("name", ["lead", "alice"])
async def test_a_guessed_message_id_has_no_task_dropped(ground: Ground, name: str):
    bus = ground.connections[name]
    queue = next(one for one in ground.parties[name].publish if one.startswith("agent.code.tasks"))
    for guess in (f"{IDLE}.mine", f"{IDLE}.main.mine", f"{IDLE}.~main.mine"):
        await bus.store(queue, b"{}", msg_id=guess)
    await ground.main.publish(IDLE, "say:done", task_type="test", task_id="mine")
    assert f"{subjects.TASKS_STREAM} {subjects.tasks(IDLE)}" in await ground.of_others()


# -- the ledger -------------------------------------------------------------------------------------------------


@every
async def test_the_id_of_a_task_that_another_agent_writes_too_changes_nothing_for_the_task(ground: Ground):
    task = await ground.main.publish(IDLE, "say:done", task_type="test", task_id="same")
    entry = await ground.admin.last_message(ledger_of(IDLE), f"$KV.AGENT_STATE.{IDLE}.same")
    assert entry is not None
    await ground.connections["code"].store("$KV.AGENT_STATE.code.same", entry.data)
    assert (await ground.main.task(f"{IDLE}/same").status()).agent == IDLE
    assert "same" in (await ground.main.wait([task], timeout_s=0)).pending
    assert (await task.cancel()).state == "cancelled"
    assert (await ground.main.task("code/same").status()).state == "queued"


@every
async def test_a_thousand_durables_on_the_ledger_keep_no_reader_out(ground: Ground, tmp_path: Path):
    bus = ground.connections["main"]
    stream, filtered = next(one for one in creations(ground.parties["main"]) if one[0] == ledger_of(OTHER) and one[1])

    async def durable(number: int) -> None:
        config = {"name": f"evil-{number}", "durable_name": f"evil-{number}", "filter_subject": filtered}
        body = {"stream_name": stream, "config": {**config, "ack_policy": "none"}, "action": "create"}
        await bus.api(create_subject(stream, f"evil-{number}", filtered), body)

    await concurrently(range(1_050), durable, at_once=AT_ONCE)
    await ground.fence()
    assert (await ground.main.list_tasks()).tasks
    await remove_foreign(ground, tmp_path)

"""`agentbus doctor` and `agentbus status` on a bus where each party has a ledger of its own."""

import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import pytest

from agentbus.bus.jetstream import Bus, connect
from agentbus.errors import BusError
from support.doctor import coordinator_toml, doctor, not_ok
from support.harness import run_cli
from support.installation import OwnBus, own_bus

pytestmark = pytest.mark.posix("not tried on Windows")


@pytest.fixture
async def own(tmp_path: Path) -> AsyncGenerator[OwnBus]:
    async with own_bus(tmp_path, coordinators={"alice": ("member", None)}) as bus:
        yield bus


@pytest.fixture
async def admin(own: OwnBus) -> AsyncGenerator[Bus]:
    async with connect(own.settings("admin")) as bus:
        yield bus


async def test_a_coordinator_without_its_ledger_is_told_how_to_make_it_and_that_helps(
    tmp_path: Path, own: OwnBus, admin: Bus
) -> None:
    alice = ("--config", str(coordinator_toml(tmp_path, own, "alice")))
    assert not_ok(await doctor(*alice)) == []
    await admin.api("STREAM.DELETE.KV_AGENT_STATE_alice")
    [found] = [one for one in await doctor(*alice, code=1) if one["check"] == "streams" and one["verdict"] != "ok"]
    assert found["text"] == "the ledger of alice does not exist: its MCP clients have no tasks of their own"
    assert found["fix"] == "agentbus setup --coordinator alice, as the administrator"
    made = await run_cli("setup", "--coordinator", "alice", "--config", str(coordinator_toml(tmp_path, own, "admin")))
    assert made.code == 0, made.err
    assert not_ok(await doctor(*alice)) == []


async def test_an_agent_without_its_ledger_is_a_failure_for_the_administrator(own: OwnBus, admin: Bus) -> None:
    administrator = ("--role", "administrator", "--config", str(own.folder.administrator))
    assert [one for one in await doctor(*administrator) if one["verdict"] == "failed"] == []
    await admin.api("STREAM.DELETE.KV_AGENT_STATE_code")
    found = [one for one in await doctor(*administrator, code=1) if one["verdict"] == "failed"]
    assert [(one["check"], "KV_AGENT_STATE_code" in one["text"]) for one in found] == [("streams", True)]


async def test_the_ledger_of_an_agent_that_is_nearly_full_is_a_warning_about_that_one(
    tmp_path: Path, own: OwnBus, admin: Bus
) -> None:
    config = (await admin.stream_info("KV_AGENT_STATE_code")).config
    await admin.api("STREAM.UPDATE.KV_AGENT_STATE_code", {**config, "max_bytes": 1 << 20})
    async with connect(own.settings("code")) as code:
        await code.store("$KV.AGENT_STATE.code.filler", b"x" * 850_000)
    main = ("--config", str(coordinator_toml(tmp_path, own)))
    administrator = ("--role", "administrator", "--config", str(own.folder.administrator))
    for arguments in (main, administrator):
        [found] = [one for one in await doctor(*arguments) if one["check"] == "room"]
        assert (found["verdict"], found["text"]) == ("warning", "KV_AGENT_STATE_code holds 81% of its 1 MiB")
        assert "--keep-results 11 --keep-states 19" in found["fix"]
    page = json.loads((await run_cli("status", *main)).out)
    [warned] = page["warnings"]
    assert warned.startswith("KV_AGENT_STATE_code holds 81% of its 1 MiB; an administrator can ")


async def test_what_accepted_tasks_will_add_counts_for_the_ledger_of_their_agent(
    tmp_path: Path, own: OwnBus, admin: Bus
) -> None:
    for agent in ("code", "doc"):
        config = (await admin.stream_info(f"KV_AGENT_STATE_{agent}")).config
        await admin.api(f"STREAM.UPDATE.KV_AGENT_STATE_{agent}", {**config, "max_bytes": 1 << 20})
    async with own.coordinator("main") as main:
        await main.publish("code", "x" * 850_000)
    coordinator = ("--config", str(coordinator_toml(tmp_path, own)))
    for arguments in (coordinator, ("--role", "administrator", "--config", str(own.folder.administrator))):
        [found] = [one for one in await doctor(*arguments) if one["check"] == "room"]
        assert found["text"] == "KV_AGENT_STATE_code holds 0% of its 1 MiB, and accepted tasks will add 81%"
    [warned] = json.loads((await run_cli("status", *coordinator)).out)["warnings"]
    assert warned.startswith("KV_AGENT_STATE_code holds 0% of its 1 MiB, and accepted tasks will add 81%; an admin")


async def test_an_upgrade_without_room_for_the_bounds_says_that_the_ledger_is_divided_and_what_to_do(
    own: OwnBus, admin: Bus
) -> None:
    name = "KV_AGENT_STATE_code"
    config = (await admin.stream_info(name)).config
    await admin.api(f"STREAM.DELETE.{name}")
    reserved = (await Bus.account_info(admin.of_stream(name))).max_storage_bytes
    while (reserved := reserved // 2) > config["max_bytes"] // 64:
        with suppress(BusError):
            filler = {"name": f"FILLER-{reserved}", "subjects": [f"filler.{reserved}"], "max_bytes": reserved}
            await admin.api(f"STREAM.CREATE.FILLER-{reserved}", {**filler, "storage": "file"})
    ran = await run_cli("init", "--upgrade", str(own.folder.path))
    assert ran.code == 1
    assert "The ledger is divided and nothing is lost" in ran.err
    assert "make room, and run this again" in ran.err

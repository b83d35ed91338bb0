"""Workers and coordinators of an earlier version and of today do the main job together, on one bus.

Each test runs both ways round. The old side runs from its wheel, in processes of its own.
"""

import hashlib
import json
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from agentbus import Coordinator
from agentbus.bus.pull_consumer import return_to_server
from agentbus.bus.setup import set_up
from agentbus.protocol.json_codec import decode
from agentbus.protocol.ledger_entry import Record, lease_ended
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus_worker.claim_records import left_claims
from support.harness import BOUND_S, Process, Ran, eventually, run_cli, worker, worker_toml
from support.jobs import (
    ASKS_UNLESS_ANSWERED,
    WAIT_S,
    acknowledged,
    counts,
    gone,
    pid_from,
    publish,
    ran_nothing,
    result_messages,
    settled,
    short_lease,
    text,
)
from support.mcp_harness import data_of, over_stdio
from support.old_version import OldVersion

pytestmark = pytest.mark.posix("a worker needs process groups and signals")

PACKAGES = ["agentbus", "agentbus_worker", "agentbus_mcp"]
ASKING = [sys.executable, "-c", ASKS_UNLESS_ANSWERED.replace("sys.stdin.read()", "sys.argv[1]"), "{input}"]
OUTPUT = b"a line of the output\n" * 100_000
"""Two megabytes: too large for a result, and for one piece of the object store."""


class Sides:
    """A worker of one version, and the coordinator's programs of the other."""

    def __init__(self, server: NatsServer, worker_env: dict[str, str], coordinator_env: dict[str, str]) -> None:
        self._url = server.url
        self._worker_env = worker_env
        self._coordinator_env = coordinator_env

    def worker(self, folder: Path, **keys: Any) -> AbstractAsyncContextManager[Process]:
        return worker(worker_toml(folder, self._url, **keys), env=self._worker_env)

    def other_worker(self, folder: Path, **keys: Any) -> AbstractAsyncContextManager[Process]:
        """A worker of the coordinator's version."""
        return worker(worker_toml(folder, self._url, **keys), env=self._coordinator_env)

    def mcp(self, folder: Path) -> AbstractAsyncContextManager[Client]:
        args = ("--nats-url", self._url)
        return over_stdio(folder / "mcp.log", "auto", *args, env=self._coordinator_env)

    async def run(self, *args: str) -> Ran:
        """Run a command of the coordinator."""
        return await run_cli(*args, "--nats-url", self._url, env=self._coordinator_env)

    async def told(self, *args: str) -> list[Any]:
        """Run a command of the coordinator that succeeds; return the lines of JSON that it prints."""
        ran = await self.run(*args)
        assert ran.code == 0, ran
        return [json.loads(line) for line in ran.out.splitlines()]

    async def publish(self, content: str) -> str:
        [task] = await self.told("task", "publish", "--to", "code", "--task-type", "test", content)
        return task["id"]

    async def wait(self, task_id: str) -> Any:
        [task] = await self.told("task", "wait", "--timeout", "30", task_id)
        return task


@pytest.fixture(params=["old worker, new coordinator", "new worker, old coordinator"])
def sides(request: pytest.FixtureRequest, old: OldVersion, server: NatsServer) -> Sides:
    if request.param.startswith("old worker"):
        return Sides(server, old.env, {})
    return Sides(server, {}, old.env)


async def test_the_old_side_runs_the_old_code(old: OldVersion) -> None:
    names = ", ".join(PACKAGES)
    ran = await old.python("-c", f"import {names}; print(*(one.__file__ for one in ({names})), sep='\\n')")
    assert ran.out.splitlines() == [str(old.folder / name / "__init__.py") for name in PACKAGES]
    assert (old.folder / "agentbus" / "transport.py").exists(), "a module that today's code does not have"
    assert "0.1.0" in (await old.cli("--version")).out


# -- the whole job ----------------------------------------------------------------------------------------------


async def test_tasks_are_published_and_their_results_come_back_once(
    tmp_path: Path, coordinator: Coordinator, sides: Sides
) -> None:
    async with sides.worker(tmp_path):
        good = await sides.publish("say:all_is_well")
        bad = await sides.publish("say:half stderr:no_disk exit:3")
        by_id = {task["id"]: task for task in await sides.told("task", "wait", "--timeout", "30", good, bad)}
        [online] = await sides.told("agent", "list", "--agent", "code")
        await acknowledged(coordinator)
    assert (by_id[good]["state"], by_id[good]["result"]["result"]) == ("completed", "all is well\n")
    assert (by_id[bad]["state"], by_id[bad]["result"]["result"]) == ("failed", "half\n")
    assert "no disk" in by_id[bad]["result"]["error"]
    assert await sides.told("task", "get", good) == [by_id[good]]
    assert (online["agent"], len(online["workers"])) == ("code", 1)
    messages = await sides.told("result", "get", "--agent", "main", "--limit", "9")
    assert messages == await result_messages(coordinator)
    assert sorted(message["task"]["id"] for message in messages) == sorted([good, bad])


async def test_a_queued_task_is_cancelled_and_never_runs(
    tmp_path: Path, coordinator: Coordinator, sides: Sides
) -> None:
    task_id = await sides.publish(f"touch:{tmp_path}/ran")
    await sides.told("task", "cancel", task_id, "--reason", "not needed")
    async with sides.worker(tmp_path) as child:
        await acknowledged(coordinator)
        assert ran_nothing(child)
    assert not (tmp_path / "ran").exists()
    [task] = await sides.told("task", "get", task_id)
    assert (task["state"], task["result"]["status"]) == ("cancelled", "cancelled")
    assert [message["status"] for message in await result_messages(coordinator)] == ["cancelled"]


async def test_a_running_task_is_cancelled_and_its_command_ends(
    tmp_path: Path, coordinator: Coordinator, sides: Sides
) -> None:
    async with sides.worker(tmp_path):
        task_id = await sides.publish(f"pid:{tmp_path}/pid say:half sleep:1000")
        pid = await pid_from(tmp_path / "pid")
        await sides.told("task", "cancel", task_id)
        assert (await sides.wait(task_id))["state"] == "cancelled"
        await gone(pid)
        await acknowledged(coordinator)
    assert [message["status"] for message in await result_messages(coordinator)] == ["cancelled"]


async def test_a_task_asks_for_an_approval_and_the_answer_continues_it(
    tmp_path: Path, coordinator: Coordinator, sides: Sides
) -> None:
    async with sides.worker(tmp_path, chat_cmd=ASKING):
        task_id = await sides.publish("delete the branch")
        assert (await sides.wait(task_id))["state"] == "needs_approval"
        [answer] = await sides.told("task", "answer", task_id, "--approve", "--comment", "only that one")
        assert answer["id"] == f"{task_id}.answer"
        task = await sides.wait(answer["id"])
        await acknowledged(coordinator)
    assert (task["state"], task["result"]["result"]) == ("completed", "deleted\n")


async def test_a_large_output_is_read_in_full(tmp_path: Path, coordinator: Coordinator, sides: Sides) -> None:
    await set_up(coordinator.bus, ["code"])
    script = "print('a line of the output\\n' * 100_000, end='')"
    async with sides.worker(tmp_path, chat_cmd=[sys.executable, "-c", script, "{input}"]):
        task_id = await sides.publish("x")
        task = await sides.wait(task_id)
    note = task["result"]["output"]
    assert (note["bytes"], note["sha256"]) == (len(OUTPUT), hashlib.sha256(OUTPUT).hexdigest())
    assert (await sides.run("result", "get", "--full", task_id)).out.encode() == OUTPUT
    pieces = [piece async for piece in coordinator.task(task_id).output()]
    assert b"".join(pieces) == OUTPUT


async def test_the_sender_of_an_invalid_task_gets_a_failed_result(
    tmp_path: Path, coordinator: Coordinator, sides: Sides
) -> None:
    sent = b'{"id":"job-7","from":"agent-main","to":"agent-code","type":"task.request","task_type":7}'
    await coordinator.bus.store("agent.code.tasks", sent)
    async with sides.worker(tmp_path):
        await acknowledged(coordinator)
    [message] = await sides.told("result", "get", "--agent", "main")
    assert (message["status"], message["task"]) == ("failed", decode(sent))
    assert message["error"].startswith("not accepted: not a valid task: task_type")
    [letter] = await sides.told("dead", "show", "1")
    assert (letter["agent"], letter["data"].encode(), letter["bytes"]) == ("code", sent, len(sent))


async def test_a_model_publishes_and_watches_over_mcp(tmp_path: Path, coordinator: Coordinator, sides: Sides) -> None:
    async with sides.worker(tmp_path), sides.mcp(tmp_path) as client:
        call = {"to": "code", "content": "say:all_is_well", "task_type": "test"}
        published = data_of(await client.call_tool("publish_task", call))
        watched = data_of(await client.call_tool(**_call(published["next"])))
        agents = data_of(await client.call_tool("list_agents", {}))
    [result] = watched["results"]
    assert (result["status"], result["output"]) == ("completed", "all is well\n")
    assert [agent["agent"] for agent in agents["agents"]] == ["code"]


def _call(following: dict[str, Any]) -> dict[str, Any]:
    return {"name": following["tool"], "arguments": following["arguments"]}


# -- workers of both versions -----------------------------------------------------------------------------------


async def test_a_worker_takes_over_the_task_of_a_killed_one_of_the_other_version(
    tmp_path: Path, coordinator: Coordinator, sides: Sides
) -> None:
    await short_lease(coordinator)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with sides.worker(tmp_path) as first:
        task_id = await publish(coordinator, f"touch:{tmp_path}/ran pid:{tmp_path}/pid wait:{tmp_path}/go say:done")
        pid = await pid_from(tmp_path / "pid")
        (tmp_path / "pid").unlink()
        async with sides.other_worker(elsewhere):
            first.kill()
            await pid_from(tmp_path / "pid")
            (tmp_path / "go").touch()
            status = await settled(coordinator, task_id)
            await acknowledged(coordinator)
    await gone(pid)
    assert (status.state, text(status), status.record.entry.attempt) == ("completed", "done\n", 2)
    assert (tmp_path / "ran").read_text(encoding="utf-8") == "ran\nran\n"
    assert (await counts(coordinator))["AGENT_RESULTS"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="supervisors end the command of a killed worker on Linux alone")
async def test_an_old_worker_takes_a_task_at_once_whose_lease_was_ended_after_the_death_of_a_new_one(
    tmp_path: Path, coordinator: Coordinator, old: OldVersion, server: NatsServer
) -> None:
    dead, elsewhere = tmp_path / "dead", tmp_path / "elsewhere"
    for folder in (dead, elsewhere):
        folder.mkdir()
    await short_lease(coordinator, lease_s=10 * BOUND_S)
    config = worker_toml(dead, server.url)
    async with worker(config) as first:
        task_id = await publish(coordinator, f"touch:{tmp_path}/ran pid:{tmp_path}/pid wait:{tmp_path}/go say:done")
        pid = await pid_from(tmp_path / "pid")
        first.kill()
    await gone(pid)
    (tmp_path / "go").touch()
    [left] = left_claims(next(dead.glob("state/*/code/*/claims")))
    [claim] = left.claims
    ledger = Ledger(coordinator.bus)
    held = await ledger.read(claim.key)
    assert isinstance(held, Record)
    await ledger.write(claim.key, lease_ended(held.entry, "new"), revision=held.revision)
    await return_to_server(coordinator.bus, claim.reply)
    async with worker(worker_toml(elsewhere, server.url), env=old.env):
        waited = await coordinator.wait([task_id], timeout_s=BOUND_S)  # and not after the lease
        assert (waited.settled[task_id].state, waited.settled[task_id].record.entry.attempt) == ("completed", 2)
        await acknowledged(coordinator)
    assert (await counts(coordinator))["AGENT_RESULTS"] == 1


async def test_workers_of_both_versions_share_the_tasks_and_the_state_folder(
    tmp_path: Path, coordinator: Coordinator, sides: Sides
) -> None:
    async with sides.worker(tmp_path), sides.other_worker(tmp_path):
        waits = f"wait:{tmp_path}/go"
        ids = [await publish(coordinator, f"touch:{tmp_path}/{number} {waits} say:done") for number in range(2)]
        for number in range(2):
            await eventually((tmp_path / str(number)).exists, "both tasks run at once")
        assert len((await sides.told("agent", "list"))[0]["workers"]) == 2
        (tmp_path / "go").touch()
        assert {text(await settled(coordinator, task_id)) for task_id in ids} == {"done\n"}
        await acknowledged(coordinator)
    assert sorted(message["task"]["id"] for message in await result_messages(coordinator)) == sorted(ids)


# -- tasks of named coordinators --------------------------------------------------------------------------------


async def test_an_old_worker_takes_the_tasks_of_main_and_never_those_of_other_owners(
    tmp_path: Path, old: OldVersion, server: NatsServer, coordinator: Coordinator
) -> None:
    """Not even with one task id for all: it would run them under the key of main, and make a second result."""
    await set_up(coordinator.bus, ["code"])
    alice, bob = Coordinator(coordinator.bus, "alice"), Coordinator(coordinator.bus, "bob")
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    async with worker(worker_toml(tmp_path / "old", server.url), env=old.env):
        tasks = [await one.publish("code", f"say:{one.agent}", task_id="job") for one in (alice, bob, coordinator)]
        assert (await tasks[-1].result(timeout_s=WAIT_S)).result == "main\n"
        assert [(await task.status()).state for task in tasks] == ["queued", "queued", "completed"]
        async with worker(worker_toml(tmp_path / "new", server.url)):
            for task in tasks[:2]:
                assert (await task.result(timeout_s=WAIT_S)).result == f"{task.owner}\n"
            await acknowledged(coordinator)
    for one in (coordinator, alice, bob):
        assert [found.result.task_id for found in await one.results(newest=5) if found.result] == ["job"]

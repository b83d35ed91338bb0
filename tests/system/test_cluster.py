"""Three servers: one that leads is lost, and a bus with one copy gets three. `make cluster` also runs a long storm."""

import asyncio
import json
import random
import sys
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from agentbus.bus.jetstream import Bus, connect
from agentbus.errors import BusError, BusUnavailableError
from agentbus.protocol.json_codec import encode
from agentbus.protocol.progress import names
from agentbus.protocol.progress.events import ProgressMessage, RunEvent
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.task_handle import TaskHandle
from support.clustered import ELECTION_S, Cluster, cluster, once_led
from support.harness import eventually, run_cli, worker
from system.chaos.plan import clustered_short
from system.chaos.storm import run_storm

pytestmark = pytest.mark.posix("a storm over workers")

TASKS = 12
AWAY = "what runs of the agent code tell cannot be read now: the one server that keeps it is away"


@pytest.mark.cluster
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
async def test_every_task_has_one_result_though_the_leader_of_the_ledger_is_killed():
    account = await run_storm(clustered_short(seed=random.randrange(1_000_000)))
    assert not account.wrong, f"\n{account.table()}\n{account.faults()}"
    assert account.numbers["leader of ledger"] == 1


async def set_up(servers: Cluster, *options: str) -> tuple[int, dict[str, str], str]:
    """Run `agentbus setup`: its exit code, the outcomes by name, and what it said beside."""
    ran = await run_cli("setup", "--config", str(servers.folder.administrator), *options, timeout_s=4 * ELECTION_S)
    found = [json.loads(line) for line in ran.out.splitlines()]
    # The ledger of a coordinator is looked at twice: the first time it is made, or changed.
    return ran.code, {item["name"]: item["outcome"] for item in reversed(found)}, ran.err


@pytest.mark.cluster
async def test_set_up_goes_on_while_the_server_with_what_runs_tell_is_away(tmp_path: Path):
    async with cluster(tmp_path) as servers:
        code, _, said = await set_up(servers, "--agent", "code", "--replicas", "3")
        assert code == 0, said
        away = await servers.led_by("AGENT_PROGRESS_code")  # its only replica
        servers.kill(away)

        async def to_the_end() -> bool:  # not before what was led there has another leader
            _, outcomes, _ = await set_up(servers, "--agent", "code", "--wait", "0")
            return outcomes.get("AGENT_PROGRESS_code") == "found"

        await eventually(to_the_end, "set-up goes to its end", timeout_s=4 * ELECTION_S)


@pytest.mark.cluster
async def test_who_follows_a_task_is_told_that_what_its_runs_tell_is_away_and_goes_on_once_it_is_back(tmp_path: Path):
    async with cluster(tmp_path) as servers:
        code, _, said = await set_up(servers, "--agent", "code", "--replicas", "3")
        assert code == 0, said
        away = await servers.led_by("AGENT_PROGRESS_code")  # its only replica
        servers.kill(away)
        first = next(number for number, name in enumerate(servers.names) if name != away)
        async with servers.coordinator(first=first) as coordinator:

            async def published() -> TaskHandle | None:  # once what was led there has another leader
                with suppress(BusError):
                    return await coordinator.publish("code", "say:hello wait:never", task_type="test", task_id="job")
                return None

            task = await eventually(published, "a task is published", timeout_s=4 * ELECTION_S)
            async with asyncio.timeout(4 * ELECTION_S), aclosing(task.events()) as events:
                told = await anext(events)
                assert (told.kind, told.text) == ("dropped", f"{AWAY}; it goes on by itself when that is back")
                with pytest.raises(BusUnavailableError, match=f"{AWAY}; try again"):
                    await anext(task.events(follow=False))
                await servers.start(away)
                key = TaskKey("code", "job")
                message = ProgressMessage("run", 1, 0.5, (RunEvent("text", 0.5, "here again"),))
                async with connect(servers.settings("code")) as worker_bus:
                    await eventually(lambda: _tells(worker_bus, key, message), "a run can tell again")
                assert (await anext(events)).text == "here again"


async def _tells(bus: Bus, key: TaskKey, message: ProgressMessage) -> bool:
    with suppress(BusError):
        await bus.store(names.of_task(key), encode(message.to_json()), timeout_s=1)
        return True
    return False


@pytest.mark.cluster
async def test_a_bus_with_one_replica_gets_three_and_loses_nothing(tmp_path: Path):
    async with cluster(tmp_path) as servers:
        code, outcomes, said = await set_up(servers, "--agent", "code")
        assert (code, set(outcomes.values())) == (0, {"made"}), said
        assert "has one replica in the cluster" in said
        async with servers.coordinator() as coordinator:
            done = [(await coordinator.publish("code", "say:early", task_type="test")) for _ in range(TASKS)]
            async with worker(servers.worker_toml(tmp_path, "code")):
                assert not (await coordinator.wait([task.id for task in done], timeout_s=ELECTION_S)).pending
            queued = [(await coordinator.publish("code", "say:late", task_type="test")) for _ in range(TASKS)]
            code, outcomes, said = await set_up(servers, "--replicas", "3")
            assert code == 0, said
            kept = {"agent-code", "tasks-code", "AGENT_PROGRESS_code"}  # what runs tell has one replica
            assert {name for name, outcome in outcomes.items() if outcome == "found"} == kept
            assert {outcome for name, outcome in outcomes.items() if name not in kept} == {"updated"}
            assert "everything has 3 replicas, and all are current" in said
            code, outcomes, said = await set_up(servers, "--replicas", "3")
            assert (code, set(outcomes.values())) == (0, {"found"}), said
            # One of three may go, whichever it is: here the one that leads the tasks.
            lost = await servers.led_by("AGENT_TASKS")
            servers.kill(lost)
            async with worker(servers.worker_toml(tmp_path, "code")):
                waited = await coordinator.wait([task.id for task in queued], timeout_s=2 * ELECTION_S)
            assert not waited.pending
            assert {status.state for status in waited.settled.values()} == {"completed"}
            newest = await once_led(lambda: coordinator.results(3 * TASKS))
            assert sorted(message.result.task_id for message in newest if message.result) == sorted(
                task.id for task in (*done, *queued)
            )
        code, outcomes, said = await set_up(servers, "--replicas", "3", "--wait", "0")
        assert code == 1
        assert f"has 2 of 3 replicas current ({lost} is " in said
        doctor = await run_cli("doctor", "--role", "administrator", "--config", str(servers.folder.administrator))
        assert "AGENT_RESULTS has 2 of 3 replicas current" in doctor.out
        await servers.start(lost)
        assert (await set_up(servers, "--replicas", "3"))[0] == 0


@pytest.mark.cluster
async def test_an_id_whose_publication_was_taken_back_is_free_at_once_at_each_server(tmp_path: Path):
    """A server that does not lead the ledger still shows one in twenty of the entries that were just removed."""
    async with cluster(tmp_path) as servers:
        await servers.set_up(replicas=3, lease_s=30)
        for first in range(3):
            async with servers.coordinator(first=first) as coordinator:
                for number in range(100):
                    name = f"job-{first}-{number}"
                    given_up = asyncio.create_task(coordinator.publish("code", "say:one", task_id=name))
                    while not coordinator.bus.begun.any:  # noqa: ASYNC110  # it is cut at the very next step
                        await asyncio.sleep(0)
                    given_up.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await given_up
                    assert not (await coordinator.publish("code", "say:other", task_id=name)).known


async def test_three_replicas_without_a_cluster_are_refused_with_what_to_do(server: NatsServer):
    first = await run_cli("setup", "--nats-url", server.url, "--replicas", "3")
    assert first.code == 1
    assert "this server is not in a cluster, so there cannot be 3 replicas" in first.err
    assert (await run_cli("setup", "--nats-url", server.url)).code == 0
    again = await run_cli("setup", "--nats-url", server.url, "--replicas", "3")
    assert again.code == 1
    assert "leave out --replicas" in again.err

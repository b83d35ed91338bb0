"""Each party can do its job without one refusal, and nothing else - whatever subject it names as the reply."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from agentbus import Coordinator, PublishedTask, TaskFailure
from agentbus.admin.dead_letters import drop, newest_dead_letters, requeue
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.nats_client import Msg
from agentbus.errors import ApiError, PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.timestamps import now
from agentbus.tasks.output_store import read_file
from agentbus.tasks.presence import Presence, announce, withdraw
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.server import create_server
from support.forbidden import denied, for_admin, for_agent, for_main
from support.harness import BOUND_S, eventually, worker
from support.installation import Certificates, Installed, OwnBus, Sample, make_certificates, own_bus, sample_bus
from support.mcp_task_client import knowing_tasks
from support.messages_on_bus import contents

pytestmark = pytest.mark.posix("not tried on Windows")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["accounts", "sample"])
async def bus(request: pytest.FixtureRequest, tmp_path: Path, certificates: Certificates) -> AsyncGenerator[Installed]:
    """A bus as `agentbus init` makes it, and one from the shipped sample."""
    made = own_bus(tmp_path) if request.param == "accounts" else sample_bus(tmp_path, certificates)
    async with made as running:
        yield running


@pytest.fixture
async def sample(tmp_path: Path, certificates: Certificates) -> AsyncGenerator[Sample]:
    async with sample_bus(tmp_path, certificates) as running:
        yield running


@pytest.fixture
async def own(tmp_path: Path) -> AsyncGenerator[OwnBus]:
    """A bus as `agentbus init` makes it, with an agent `lead` that may give tasks to `doc`."""
    async with own_bus(tmp_path, may_task={"lead": ["doc"]}) as running:
        yield running


# -- what is allowed --------------------------------------------------------------------------------------------


async def test_the_main_job_runs_without_a_permission_violation(bus: Installed, tmp_path: Path) -> None:
    async with (
        bus.coordinator("main") as main,
        worker(bus.worker_toml(tmp_path, "code")) as first,
        worker(bus.worker_toml(tmp_path, "doc")),
        main.inbox() as watched,
    ):
        # To both, long enough to be renewed; results, inbox and ledger agree.
        tasks = await main.publish_to(["code", "doc"], "sleep:1.5 say:done", task_type="test", task_id="build.1.2")
        waited = await main.wait([task.id for task in tasks], timeout_s=BOUND_S)
        assert [waited.settled[task.id].state for task in tasks] == ["completed", "completed"]
        claim = waited.settled["build.1.2-code"].record.entry.claim
        assert claim
        assert claim.renewals > 0
        seen = {await _task_of_next(watched.next), await _task_of_next(watched.next)}
        assert seen == {task.id for task in tasks}
        assert {message.result and message.result.task_id for message in await main.results(newest=5)} == seen
        assert (await main.task("build.1.2-doc").status()).state == "completed"
        again = await main.publish("code", "sleep:1.5 say:done", task_type="test", task_id="build.1.2-code")
        assert again.known

        # A message that is no task: a dead letter for the administrator, a failed result for its sender.
        await main.bus.store("agent.code.tasks", b'{"id": "broken", "from": "agent-main"}', msg_id="code.broken")
        assert await _task_of_next(watched.next) == "broken"
        async with bus.coordinator("admin") as admin:
            [letter] = await newest_dead_letters(admin.bus, 5)
            assert letter.data.startswith(b'{"id": "broken"')
            await requeue(admin.bus, letter.seq)
            [again] = await eventually(lambda: newest_dead_letters(admin.bus, 5), "it is a dead letter once more")
            await drop(admin.bus, again.seq)
        assert await _task_of_next(watched.next) == "broken"

        # The worker dies: another takes the task over once it is sure that no worker holds the lease.
        task = await main.publish("code", "sleep:1.5 say:again", task_type="test")
        await eventually(lambda: _is_working(main, task.id), "the task is being worked on")
        first.kill()
        async with worker(bus.worker_toml(tmp_path, "code")):
            rescued = (await main.wait([task.id], timeout_s=BOUND_S)).settled[task.id]
            assert (rescued.state, rescued.record.entry.attempt) == ("completed", 2)
            assert await _task_of_next(watched.next) == task.id
    assert bus.violations() == []


async def _task_of_next(following: Callable[[], Awaitable[object]]) -> str:
    async with asyncio.timeout(BOUND_S):
        message = await following()
    result = getattr(message, "result", None)
    return result.task_id if result else repr(message)


async def _is_working(main: Coordinator, task_id: str, agent: str | None = None) -> bool:
    return (await main.task(task_id, agent=agent).status()).state == "working"


async def test_an_agent_reads_its_own_inbox(sample: Sample, tmp_path: Path) -> None:
    async with sample.coordinator("main") as main, worker(sample.worker_toml(tmp_path, "code")):
        task = await main.publish("code", "say:for_doc", task_type="test", reply_to="doc")
        await main.wait([task.id], timeout_s=BOUND_S)
    async with sample.coordinator("doc") as doc:
        [message] = await doc.results(newest=5)
        assert message.result
        assert (message.result.task_id, message.result.result) == (task.id, "for doc\n")
    assert sample.violations() == []


async def test_a_task_is_cancelled_without_a_violation(bus: Installed, tmp_path: Path) -> None:
    async with bus.coordinator("main") as main:
        queued = await main.publish("code", "say:no", task_type="test")
        await main.task(queued.id).cancel("not needed")
        async with worker(bus.worker_toml(tmp_path, "code")):
            running = await main.publish("code", "sleep:30", task_type="test")
            await eventually(lambda: _is_working(main, running.id), "the second task is being worked on")
            await main.task(running.id).cancel()
            waited = await main.wait([queued.id, running.id], timeout_s=BOUND_S)
    assert [waited.settled[task.id].state for task in (queued, running)] == ["cancelled", "cancelled"]
    assert bus.violations() == []


async def test_presence_and_control_messages_arrive(bus: Installed) -> None:
    arrived: asyncio.Queue[str] = asyncio.Queue()

    def hear(message: Msg) -> None:
        arrived.put_nowait(message.subject)

    async with bus.coordinator("main") as main, bus.coordinator("code") as code:
        await main.bus.subscribe("agent.*.heartbeat", hear)
        await code.bus.subscribe("agent.code.control", hear)
        for connected in (
            main.bus,
            code.bus,
        ):  # once an answer has come, the server has handled all that was sent before
            await connected.last_message(subjects.STATE_STREAM, "$KV.AGENT_STATE.code.none")
        await main.bus.publish("agent.code.control")
        here = Presence(
            agent="code", instance="host-1", host="host", pid=1, version="1", slots=1, free=1, started_at="now"
        )
        await announce(code.bus, here)
        async with asyncio.timeout(BOUND_S):
            heard = {await arrived.get() for _ in range(2)}
        assert heard == {"agent.code.control", "agent.code.heartbeat"}
        assert [(agent.agent, agent.online) for agent in await main.overview()] == [
            ("code", True),
            ("doc", False),
        ]
        assert [one.instance for one in await main.agents("code")] == ["host-1"]
        await withdraw(code.bus, here)
        assert await main.agents() == []
    assert bus.violations() == []


async def test_a_large_output_is_stored_by_the_worker_and_read_by_the_coordinator(
    bus: Installed, tmp_path: Path
) -> None:
    async with bus.coordinator("main") as main, worker(bus.worker_toml(tmp_path, "code")):
        task = await main.publish("code", "bytes:700000", task_type="test")
        result = (await main.wait([task.id], timeout_s=BOUND_S)).settled[task.id].result
        assert result
        file = result.to_json()["output"]["file"]
        assert file["bucket"] == "AGENT_FILES_code"
        read = [chunk async for chunk in read_file(main.bus, "code", file["name"])]
    assert b"".join(read) == b"x" * 700_000
    assert bus.violations() == []


async def test_the_coordinator_sees_the_backlog_and_its_own_inbox_over_mcp(bus: Installed) -> None:
    async with bus.coordinator("main") as main:
        task = await main.publish("code", "later", task_type="test")
    bus_link = BusLink(bus.settings("main"), "main")
    async with bus_link.open(), Client(create_server(bus_link)) as client:
        tasks = await _read_resource(client, "agentbus://streams/AGENT_TASKS")
        assert bus.violations() == []
        results = await _read_resource(client, "agentbus://streams/AGENT_RESULTS")
    assert tasks["state"]["messages"] == 1
    names = [consumer["name"] for consumer in tasks["consumers"]]
    assert names == ["agent-code", "agent-doc", "tasks-code", "tasks-doc"]
    assert [newest["task_id"] for newest in tasks["newest"]] == [task.id]
    # Other inboxes are not main's to read, and neither are the names of those who read there.
    assert (results["newest"], results["not_permitted"]) == ([], ["consumers"])


@asynccontextmanager
async def _mcp(bus: Installed, name: str, **about: Any) -> AsyncGenerator[Client]:
    """A client of an MCP server that one party runs."""
    bus_link = BusLink(bus.settings(name), name)
    async with bus_link.open(), Client(create_server(bus_link), **about) as client:
        yield client


async def test_every_mcp_tool_does_its_work_without_a_violation(bus: Installed) -> None:
    job = {"to": ["code", "doc"], "content": "work", "task_type": "test", "task_id": "job"}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("publish_task", job),
        ("watch_results", {"task_ids": ["job-code", "job-doc"], "timeout_seconds": 0}),
        ("watch_results", {"cursor": 0, "timeout_seconds": 0}),
        ("get_results", {"task_ids": ["job-code"]}),
        ("get_results", {}),
        ("get_task", {"task_id": "job-doc"}),
        ("list_tasks", {"state": "queued"}),
        ("list_questions", {}),
        ("list_agents", {"response_format": "detailed"}),
        ("cancel_task", {"task_ids": ["job-code"]}),
        ("answer_approval", {"task_id": "job-doc", "approve": True}),
    ]
    async with _mcp(bus, "main") as client:
        answers = [(tool, await client.call_tool(tool, arguments)) for tool, arguments in calls]
        assert {tool for tool, _ in calls} == {tool.name for tool in (await client.list_tools()).tools}
    assert [tool for tool, answer in answers if answer.is_error] == ["answer_approval"]
    publication: dict[str, Any] = answers[0][1].structured_content or {}
    # The server counts what waits for a consumer a moment after it has acknowledged the message.
    assert [(task["agent"], task["online"], task["waiting"] in (0, 1)) for task in publication["published"]] == [
        ("code", False, True),
        ("doc", False, True),
    ]
    assert bus.violations() == []


async def test_an_mcp_task_completes_without_a_violation(bus: Installed) -> None:
    async with knowing_tasks(partial(_mcp, bus, "main")) as tasks, bus.coordinator("main") as main:
        job = {"to": "code", "content": "work", "task_type": "test", "watch": True}
        publication, inbox = await tasks.call("publish_task", job), await tasks.call("watch_results")
        async with tasks.listening(publication["taskId"], inbox["taskId"]):
            assert [(await tasks.told())["status"] for _ in range(2)] == ["working", "working"]
            await tasks.cancel(publication["taskId"])
            assert (await tasks.told())["status"] == "cancelled"
        listed = await main.list_tasks()
        assert [status.state for status in listed.tasks] == ["cancelled"]
    assert bus.violations() == []


async def _read_resource(client: Client, uri: str) -> dict[str, Any]:
    [content] = (await client.read_resource(uri)).contents
    return json.loads(getattr(content, "text", ""))


# -- what is denied ---------------------------------------------------------------------------------------------


def for_lead() -> dict[str, str]:
    """What an agent may not do that may give tasks to doc: all that code may not, but for what a member may."""
    member = (
        "read its own inbox",
        "watch its own ledger",
        "watch it where it is apart",
        "see which ledgers there are",
        "list the consumers of the tasks",
        "follow which agents are paused",
    )
    return {what: subject for what, subject in for_agent("lead", "code").items() if what not in member} | {
        "give tasks to doc as main": "agent.doc.tasks",
        "give tasks to doc as another party": "agent.doc.tasks.main",
        "write the states of main's tasks of doc": "$KV.AGENT_STATE.doc.job",
        "watch the states of main's tasks of doc": "$JS.API.CONSUMER.CREATE.KV_AGENT_STATE.f.$KV.AGENT_STATE.doc.>",
        "take doc's tasks": "$JS.API.CONSUMER.MSG.NEXT.AGENT_TASKS.agent-doc",
        "watch every ledger": "$JS.API.CONSUMER.CREATE.KV_AGENT_STATE.f.$KV.AGENT_STATE.>",
        "read doc's inbox": "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f.agent.doc.results",
        "control the workers of all agents": "agent.code.control",
    }


def for_worker() -> dict[str, str]:
    return for_agent("code", "doc") | {
        "read its own inbox": "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.f.agent.code.results",
        "make a durable in the newer way": "$JS.API.CONSUMER.CREATE.AGENT_RESULTS.mine.agent.code.results",
        "pull from any consumer of results": "$JS.API.CONSUMER.MSG.NEXT.AGENT_RESULTS.f",
    }


@pytest.mark.parametrize(
    ("user", "table"),
    [("code", for_worker()), ("lead", for_lead()), ("main", for_main()), ("admin", for_admin())],
    ids=["code", "lead", "main", "admin"],
)
async def test_a_party_can_do_nothing_beyond_its_grants(own: OwnBus, user: str, table: dict[str, str]) -> None:
    before = await contents(own)
    async with connect(own.settings(user)) as connected:
        done = [what for what, subject in table.items() if not await denied(connected, subject)]
    assert done == []
    assert len(own.violations()) == len(table)
    assert await contents(own) == before


async def test_a_task_for_an_agent_that_is_not_permitted_fails_and_the_others_run(own: OwnBus, tmp_path: Path) -> None:
    before = await contents(own, but="doc")
    async with own.coordinator("lead") as lead, worker(own.worker_toml(tmp_path, "doc")):
        async with asyncio.timeout(BOUND_S):
            refused, accepted = await lead.publish_to(["code", "doc"], "say:done", task_id="job")
        assert isinstance(refused, TaskFailure)
        assert (refused.id, refused.agent, type(refused.error)) == ("job-code", "code", PermissionDeniedError)
        assert "an administrator must grant it" in str(refused.error)
        tried = {line.rpartition('Subject "')[2].rstrip('"') for line in own.violations()}
        assert tried == {"$JS.API.STREAM.INFO.KV_AGENT_STATE_code", "$KV.AGENT_STATE.code.~lead.job-code"}
        assert isinstance(accepted, PublishedTask)
        assert (await accepted.result(timeout_s=BOUND_S)).status == "completed"
    after = await contents(own, but="doc")
    assert {key for key in after if after[key] != before.get(key)} <= {"agent.lead.results.doc"}
    assert before.keys() <= after.keys()


TARGETS = {
    "a task for another agent": "agent.doc.tasks",
    "a task for itself": "agent.code.tasks",
    "the ledger of another agent": "$KV.AGENT_STATE.doc.victim",
    "the registry entry of another agent": "$KV.AGENT_REGISTRY.doc.host-1",
    "the files of another agent": "$O.AGENT_FILES_doc.M.victim",
    "the dead letters of another agent": "agent.doc.dead",
    "the workers of another agent": "agent.doc.control",
    "deleting a stream": "$JS.API.STREAM.DELETE.AGENT_DEAD",
    "emptying a stream": "$JS.API.STREAM.PURGE.AGENT_RESULTS",
    "deleting a consumer": "$JS.API.CONSUMER.DELETE.AGENT_TASKS.agent-doc",
    "acknowledging for another agent": "$JS.ACK.AGENT_TASKS.agent-doc.1.1.1.1700000000000000000.0",
}


async def relay(connected: Bus, target: str, own_key: str, own_consumer: str) -> None:
    """Have the server send each kind of answer that it gives to `target`, in place of an inbox of one's own."""
    direct_get = subjects.last_of(subjects.STATE_STREAM, own_key)
    await connected.publish(direct_get, reply=target)  # an answer whose content one has chosen
    await connected.publish(own_key, b"{}", reply=target)  # an acknowledgement of JetStream
    pull = subjects.pull(subjects.TASKS_STREAM, own_consumer)
    await connected.publish(pull, encode({"batch": 1, "no_wait": True}), reply=target)  # a status without content
    await connected.publish(subjects.api(f"CONSUMER.INFO.{subjects.TASKS_STREAM}.{own_consumer}"), reply=target)
    # The server handles a connection's messages one by one: with the answer to this one, all are on their way.
    await connected.last_message(subjects.STATE_STREAM, own_key)


async def prepared(installed: Installed) -> None:
    """A dead letter, a result, a task of doc with its ledger entry that a worker has taken, a file of doc."""
    async with connect(installed.settings("admin")) as admin, installed.coordinator("main") as main:
        await main.publish("doc", "the victim", task_type="test", task_id="victim")
        taken, inbox = asyncio.Event(), admin.new_inbox()

        def take(_: Msg) -> None:
            taken.set()

        await admin.subscribe(inbox, take)
        pull = subjects.pull(subjects.TASKS_STREAM, "agent-doc")
        await admin.publish(pull, encode({"batch": 1, "no_wait": True}), reply=inbox)
        async with asyncio.timeout(BOUND_S):
            await taken.wait()
        await main.bus.store("agent.main.results", b'{"a": "result"}')
    async with connect(installed.settings("doc")) as doc:
        await doc.store("agent.doc.dead", b"a dead letter")
        await doc.store("$O.AGENT_FILES_doc.M.victim", b"a file")


async def test_no_reply_subject_gives_a_worker_access_to_other_parties(own: OwnBus) -> None:
    await prepared(own)
    heard: list[str] = []

    def hear(message: Msg) -> None:
        heard.append(message.subject)

    async with connect(own.settings("doc")) as doc, connect(own.settings("code")) as code:
        await doc.subscribe("agent.doc.control", hear)
        await doc.last_message(subjects.STATE_STREAM, "$KV.AGENT_STATE.doc.victim")
        await code.store("$KV.AGENT_STATE.code.own", b"{}")
        before = await contents(own, but="code")
        for target in TARGETS.values():
            await relay(code, target, "$KV.AGENT_STATE.code.own", "agent-code")
        assert await contents(own, but="code") == before
        await doc.last_message(subjects.STATE_STREAM, "$KV.AGENT_STATE.doc.victim")
    assert heard == []
    assert "agent.code.tasks" not in await contents(own)


async def test_no_reply_subject_gives_the_coordinator_more_rights(own: OwnBus) -> None:
    await prepared(own)
    beyond = {what: target for what, target in TARGETS.items() if target not in MAIN_MAY}
    async with connect(own.settings("main")) as main:
        await main.store("$KV.AGENT_STATE.code.own", b"{}")
        before = await contents(own, but="code")
        info = subjects.api(f"STREAM.INFO.{subjects.TASKS_STREAM}")
        for target in beyond.values():
            await main.publish(subjects.last_of(subjects.STATE_STREAM, "$KV.AGENT_STATE.code.own"), reply=target)
            await main.publish("$KV.AGENT_STATE.code.own", b"{}", reply=target)
            await main.publish(info, reply=target)
            await main.api(f"STREAM.INFO.{subjects.TASKS_STREAM}")
        assert len(beyond) == 7
        assert await contents(own, but="code") == before


MAIN_MAY = {"agent.doc.tasks", "agent.code.tasks", "agent.doc.control", "$KV.AGENT_STATE.doc.victim"}


async def test_within_one_account_the_same_reply_subjects_do_harm(sample: Sample) -> None:
    # What the accounts are for, and the proof that the two tests before would see it.
    await prepared(sample)
    async with connect(sample.settings("code")) as code:
        await code.store("$KV.AGENT_STATE.code.own", b"{}")
        before = await contents(sample, but="code")
        for target in TARGETS.values():
            await relay(code, target, "$KV.AGENT_STATE.code.own", "agent-code")
        after = await contents(sample, but="code")
    assert "AGENT_DEAD" in before
    assert "AGENT_DEAD" not in after
    assert after["$KV.AGENT_STATE.doc.victim"] != before["$KV.AGENT_STATE.doc.victim"]
    assert after["agent.doc.tasks"] != before["agent.doc.tasks"]


@pytest.mark.parametrize("scope", ["all", "sub"])
@pytest.mark.parametrize(
    "subject",
    [
        "$KV.AGENT_STATE.code.own",
        "$KV.AGENT_REGISTRY.code.host-1",
        "$O.AGENT_FILES_code.M.own",
        "$O.AGENT_FILES_code.C.own",
        "agent.main.results",
        "agent.code.dead",
    ],
)
async def test_no_stream_can_be_emptied_with_a_rollup_header(own: OwnBus, subject: str, scope: str) -> None:
    await prepared(own)
    before = await contents(own)
    async with connect(own.settings("code")) as code:
        with pytest.raises(ApiError, match="rollup"):
            await code.store(subject, b"{}", headers={"Nats-Rollup": scope})
    assert await contents(own) == before


# -- forged results ---------------------------------------------------------------------------------------------


async def test_a_forged_result_ends_no_wait_and_is_shown_as_unverified(own: OwnBus, tmp_path: Path) -> None:
    async with own.coordinator("main") as main, connect(own.settings("code")) as code:
        task = await main.publish("doc", "say:true", task_type="test")
        forged = {
            "id": f"result-doc-{task.id}-forged",
            "type": "task.result",
            "status": "completed",
            "task": task.message.to_json(),
            "result": "forged by code",
            "completed_at": now(),
        }
        await code.store("agent.main.results", encode(forged), msg_id=str(forged["id"]))
        waited = await main.wait([task.id], timeout_s=1)
        assert (list(waited.settled), waited.pending[task.id].state) == ([], "queued")
        bus_link = BusLink(own.settings("main"), "main")
        async with bus_link.open(), Client(create_server(bus_link)) as client:
            inbox = await _read_resource(client, "agentbus://agents/main/results")
            [shown] = inbox["newest"]
            assert shown["unverified"] == "sent by code, which is not the agent doc"
            # The true one comes all the same, is the one that counts, and the forged one stays unverified.
            async with worker(own.worker_toml(tmp_path, "doc")):
                waited = await main.wait([task.id], timeout_s=BOUND_S)
            assert waited.settled[task.id].result is not None
            await eventually(lambda: _count(main, 2), "the true result is in the inbox as well")
            inbox = await _read_resource(client, "agentbus://agents/main/results")
        verdicts = {result["output"]: result.get("unverified") for result in inbox["newest"]}
    assert set(verdicts) == {"forged by code", "true\n"}
    assert verdicts["true\n"] is None
    assert verdicts["forged by code"] == "sent by code, which is not the agent doc"


async def _count(main: Coordinator, wanted: int) -> bool:
    return len(await main.results(newest=9)) == wanted


# -- giving tasks to others -------------------------------------------------------------------------------------


async def test_an_agent_that_may_give_tasks_to_another_does_that_without_a_violation(
    own: OwnBus, tmp_path: Path
) -> None:
    async with own.coordinator("lead") as lead, worker(own.worker_toml(tmp_path, "doc")):
        task = await lead.publish("doc", "say:done", task_type="test")
        waited = await lead.wait([task.id], timeout_s=BOUND_S, agent="doc")
        assert waited.settled[task.id].state == "completed"
        assert (await lead.task(task.id, agent="doc").status()).state == "completed"
        [message] = await eventually(lambda: lead.results(newest=5), "the result is in its inbox")
        assert message.result.task_id == task.id
        running = await lead.publish("doc", "sleep:30", task_type="test")
        await eventually(lambda: _is_working(lead, running.id, "doc"), "the task is being worked on")
        await lead.task(running.id, agent="doc").cancel()
        assert (await lead.wait([running.id], timeout_s=BOUND_S, agent="doc")).settled[running.id].state == "cancelled"
    assert own.violations() == []


async def test_an_agent_that_may_give_tasks_to_another_follows_them_as_an_mcp_task(own: OwnBus, tmp_path: Path) -> None:
    async with knowing_tasks(partial(_mcp, own, "lead")) as tasks, worker(own.worker_toml(tmp_path, "doc")):
        job = {"to": "doc", "content": "say:done", "task_type": "test", "watch": True}
        done = await tasks.until((await tasks.call("publish_task", job))["taskId"], "completed")
        [result] = done["result"]["structuredContent"]["results"]
        assert result["output"] == "done\n"
        watched = await tasks.call("watch_results", {"task_ids": [result["task_id"]], "agent": "doc"})
        assert watched["structuredContent"]["results"] == [result]


async def test_an_agent_that_may_give_tasks_also_runs_its_own(own: OwnBus, tmp_path: Path) -> None:
    async with own.coordinator("main") as main, worker(own.worker_toml(tmp_path, "lead")):
        task = await main.publish("lead", "say:done", task_type="test")
        assert (await main.wait([task.id], timeout_s=BOUND_S)).settled[task.id].state == "completed"
    assert own.violations() == []


async def test_tasks_for_all_other_agents_are_refused(own: OwnBus) -> None:
    async with own.coordinator("lead") as lead:
        with pytest.raises(PermissionDeniedError):
            await lead.publish("code", "no", task_type="test")
    async with own.coordinator("code") as code:
        with pytest.raises(PermissionDeniedError):
            await code.publish("doc", "no", task_type="test")

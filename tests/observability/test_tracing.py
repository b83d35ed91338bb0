"""One trace leads from the publisher of a task to the command that works on it, and what is no trace does nothing."""

import asyncio
import json
import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from mcp_types import RequestParamsMeta
from opentelemetry import trace
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentbus import Coordinator
from agentbus.admin.dead_letters import requeue
from agentbus.bus.nats_client import Msg
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.bus.setup import set_up
from agentbus.errors import TaskNotFoundError
from agentbus.observability import tracing
from agentbus.protocol import subjects
from agentbus.protocol.headers import MSG_ID
from agentbus.protocol.json_codec import encode
from agentbus.protocol.messages import new_task
from agentbus.provision.nats_server import NatsServer
from support.harness import SUPPORT, eventually, process, run_cli, worker, worker_toml
from support.installation import own_bus
from support.jobs import acknowledged, counts, outcome, pid_from, publish, settled, short_lease, text
from support.mcp_harness import NOWHERE, both_eras, data_of, in_memory, over_http, over_stdio
from support.traced_runs import TRACED, ended_spans, spans_in, traced_worker

pytestmark = pytest.mark.posix("not tried on Windows")

DYING = str(SUPPORT / "dying.py")
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{CALLER}-01"
STATE = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
SECRET = "s3cret-c0ntent"
ASKS = "env:TRACEPARENT env:TRACESTATE env:BAGGAGE"


def span_in(file: Path, name: str) -> dict[str, Any]:
    [found] = [span for span in spans_in(file) if span["name"] == name]
    return found


def own_id(span: dict[str, Any]) -> str:
    return span["context"]["span_id"].removeprefix("0x")


def parent_id(span: dict[str, Any]) -> str:
    return span["parent_id"].removeprefix("0x")


def trace_id(span: dict[str, Any]) -> str:
    return span["context"]["trace_id"].removeprefix("0x")


def traceparent(span: dict[str, Any]) -> str:
    return f"00-{trace_id(span)}-{own_id(span)}-01"


def of_caller(**more: str) -> RequestParamsMeta:
    """What a client that traces sends with a call."""
    return cast("RequestParamsMeta", {"traceparent": PARENT, "tracestate": STATE, **more})


async def publish_within(parent: str | None, server: NatsServer, task_id: str, content: str) -> None:
    """Publish with the command, started by a process that traces."""
    where = ("--nats-url", server.url, "--to", "code", "--task-type", "test", "--task-id", task_id)
    env = {"TRACEPARENT": parent, "TRACESTATE": STATE} if parent else {}
    ran = await run_cli("task", "publish", *where, content, env=env)
    assert ran.code == 0, ran.err


def within(parent: str) -> AbstractContextManager[object]:
    """As if this were a span of a program that traces."""
    context = TraceContextTextMapPropagator().extract({"traceparent": parent})
    return trace.use_span(trace.get_current_span(context))


async def trace_of_result(coordinator: Coordinator) -> str | None:
    """What the one message of the inbox carries."""
    async with OrderedConsumer(coordinator.bus, subjects.RESULTS_STREAM, subjects.results("main"), after=0) as feed:
        [message] = [message async for message in feed.backlog()]
        return message.headers.get("traceparent")


# -- one trace --------------------------------------------------------------------------------------------------


@pytest.mark.gate("2026")
@both_eras
async def test_one_trace_leads_from_a_tool_call_over_the_worker_to_the_environment_of_the_command(
    era: str, server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await set_up(coordinator.bus, ["code"])
    calls, runs = tmp_path / "calls.jsonl", tmp_path / "runs.jsonl"
    command = [sys.executable, TRACED, str(calls), "batch", "agentbus_mcp"]
    async with (
        traced_worker(worker_toml(tmp_path, server.url), runs),
        over_stdio(tmp_path / "log", era, "--nats-url", server.url, command=command) as client,
    ):
        answer = await client.call_tool(
            "publish_task",
            {"to": ["code"], "content": f"{ASKS} say:{SECRET}", "task_type": "test"},
            meta=of_caller(baggage=f"token={SECRET}"),
        )
        [task_id] = [task["task_id"] for task in data_of(answer)["published"]]
        status = await settled(coordinator, task_id)
        await client.call_tool("get_results", {"task_ids": [task_id]}, meta=of_caller())
    # The server has ended without the usual exit of a process, and its spans are there.
    [ran] = await ended_spans(runs, "process agent.code.tasks")
    called, published = span_in(calls, "tools/call publish_task"), span_in(calls, "publish agent.code.tasks")
    read = span_in(calls, "tools/call get_results")

    assert [trace_id(span) for span in (called, published, ran)] == [TRACE] * 3
    assert [parent_id(span) for span in (called, published, ran)] == [CALLER, own_id(called), own_id(published)]
    assert [span["kind"] for span in (called, published, ran)] == [
        "SpanKind.SERVER", "SpanKind.PRODUCER", "SpanKind.CONSUMER"
    ]  # fmt: skip
    assert text(status).splitlines()[:3] == [traceparent(ran), STATE, ""]
    for span, operation, kind in ((published, "publish", "send"), (ran, "process", "process")):
        said = span["attributes"]
        assert (said["messaging.operation.name"], said["messaging.operation.type"]) == (operation, kind)
        assert (said["messaging.system"], said["messaging.destination.name"]) == ("nats", "agent.code.tasks")
        assert (said["messaging.message.id"], said["agentbus.agent"]) == (task_id, "code")
        assert span["status"]["status_code"] == "UNSET"
    assert ran["attributes"]["agentbus.task.status"] == "completed"
    assert (ran["attributes"]["agentbus.task.attempt"], ran["attributes"]["process.exit.code"]) == (1, 0)
    # A reader of the result can link to the run that it came from: in the inbox, and by its id.
    assert await trace_of_result(coordinator) == traceparent(ran)
    assert [link["context"]["span_id"] for link in read["links"]] == [ran["context"]["span_id"]]
    assert SECRET not in calls.read_text(encoding="utf-8") + runs.read_text(encoding="utf-8")


@both_eras
async def test_without_an_sdk_the_trace_of_a_tool_call_is_passed_on_as_it_came(
    era: str, server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await set_up(coordinator.bus, ["code"])
    async with (
        worker(worker_toml(tmp_path, server.url)) as child,
        over_stdio(tmp_path / "log", era, "--nats-url", server.url) as client,
    ):
        arguments = {"to": ["code"], "content": ASKS, "task_type": "test"}
        answer = await client.call_tool("publish_task", arguments, meta=of_caller(baggage="a=1"))
        traced = await settled(coordinator, data_of(answer)["published"][0]["task_id"])
        answer = await client.call_tool("publish_task", arguments)
        untraced = await settled(coordinator, data_of(answer)["published"][0]["task_id"])
    assert text(traced) == f"{PARENT}\n{STATE}\n\n"
    assert text(untraced) == "\n\n\n"
    lines = [line for line in child.log.read_text(encoding="utf-8").splitlines() if f"task {traced.task_id}:" in line]
    assert len(lines) == 2
    assert all(f" trace_id={TRACE} " in line for line in lines)
    assert child.log.read_text(encoding="utf-8").count("trace_id") == 2, (
        "and none for the task that came without a trace"
    )


async def test_a_command_gets_the_trace_of_its_task_and_never_that_of_the_worker(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAGGAGE", "of=the-worker")
    monkeypatch.setenv("TRACEPARENT", f"00-{'a' * 32}-{'b' * 16}-01")
    monkeypatch.setenv("TRACESTATE", "of=the-worker")
    async with worker(worker_toml(tmp_path, server.url)):
        monkeypatch.delenv("TRACEPARENT")
        await publish_within(None, server, "untraced", ASKS)
        await publish_within(PARENT, server, "traced", ASKS)
        assert text(await settled(coordinator, "untraced")) == "\n\n\n"
        assert text(await settled(coordinator, "traced")) == f"{PARENT}\n{STATE}\n\n"


async def test_a_task_that_came_without_a_trace_begins_one_at_its_worker(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    spans = tmp_path / "spans.jsonl"
    async with traced_worker(worker_toml(tmp_path, server.url), spans):
        status = await outcome(coordinator, "env:TRACEPARENT")
        [ran] = await ended_spans(spans, "process agent.code.tasks")
    assert ran["parent_id"] is None
    assert text(status).startswith(f"00-{trace_id(ran)}-{own_id(ran)}-")


async def test_a_program_of_ones_own_passes_its_span_on_and_a_repetition_changes_nothing(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    for parent in (PARENT, f"00-{'a' * 32}-{'b' * 16}-01"):
        with within(parent):
            assert await publish(coordinator, "env:TRACEPARENT", task_id="once") == "once"
    assert (await counts(coordinator))["AGENT_TASKS"] == 1
    async with worker(worker_toml(tmp_path, server.url)):
        assert text(await settled(coordinator, "once")) == PARENT + "\n"


async def test_whoever_waits_has_a_link_to_the_span_that_made_the_result(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    spans = tmp_path / "spans.jsonl"
    async with traced_worker(worker_toml(tmp_path, server.url), spans):
        with TracerProvider().get_tracer("test").start_as_current_span("wait") as waiting:
            task_id = await publish(coordinator, "say:hi")
            await settled(coordinator, task_id)
            await settled(coordinator, task_id)
        [ran] = await ended_spans(spans, "process agent.code.tasks")
    assert isinstance(waiting, Span)
    assert [f"0x{link.context.span_id:016x}" for link in waiting.links] == [ran["context"]["span_id"]] * 2
    assert f"0x{waiting.get_span_context().trace_id:032x}" == ran["context"]["trace_id"]


@pytest.mark.parametrize(
    "point",
    ["outcome on disk, not committed", "committed, not published", "committed without a copy on disk"],
)
async def test_a_result_that_another_worker_publishes_belongs_to_the_same_trace(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path, point: str
) -> None:
    await short_lease(coordinator, lease_s=1)
    config = worker_toml(tmp_path, server.url)
    await publish_within(PARENT, server, "orphan", "say:hi")
    argv = [sys.executable, DYING, point, "worker", "run", "--config", str(config)]
    with process(argv, tmp_path / "log") as dying:
        assert await dying.exit_code() == -signal.SIGKILL
    async with worker(config):
        await acknowledged(coordinator)
    status = await coordinator.task("orphan").status()
    assert (status.state, status.record.entry.attempt) == ("completed", 1)
    assert status.record.headers["traceparent"] == PARENT
    assert await trace_of_result(coordinator) == PARENT


async def test_a_dead_letter_that_is_queued_again_stays_in_its_trace(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    task = new_task(to="code", content="env:TRACEPARENT " + "x" * 5000, task_type="test")
    headers = {"traceparent": PARENT}
    await coordinator.bus.store(subjects.tasks("code"), encode(task.to_json()), headers=headers)
    async with worker(worker_toml(tmp_path, server.url, worker={"max_task_bytes": 4096})):
        await acknowledged(coordinator)
    await requeue(coordinator.bus, 1)

    async def claimed() -> bool:
        with suppress(TaskNotFoundError):  # a requeued dead letter has no ledger entry before a worker claims it
            await coordinator.task(task.id).status()
            return True
        return False

    async with worker(worker_toml(tmp_path, server.url)):
        await eventually(claimed, "a worker claims the requeued task")
        status = await settled(coordinator, task.id)
    assert text(status).startswith(PARENT + "\n")


async def test_a_server_for_many_clients_sends_its_spans_before_it_ends(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await set_up(coordinator.bus, ["code"])
    spans, log = tmp_path / "spans.jsonl", tmp_path / "log"
    argv = [sys.executable, TRACED, str(spans), "batch", "agentbus_mcp", "--http", "127.0.0.1:0"]
    with process([*argv, "--nats-url", server.url], log) as child:
        await child.until_said('{"url":')
        [url] = [
            json.loads(line)["url"]
            for line in log.read_text(encoding="utf-8").splitlines()
            if line.startswith('{"url":')
        ]
        async with over_http(url) as client:
            arguments = {"to": ["code"], "content": "x", "task_type": "test"}
            data_of(await client.call_tool("publish_task", arguments, meta=of_caller()))
        child.terminate()
        assert await child.exit_code() == 0
    assert parent_id(span_in(spans, "tools/call publish_task")) == CALLER
    assert trace_id(span_in(spans, "publish agent.code.tasks")) == TRACE


@pytest.mark.parametrize("kind", ["SetupMissingError", "BusUnavailableError"])
async def test_a_command_that_fails_sends_the_span_of_its_publication(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path, kind: str
) -> None:
    spans, args = tmp_path / "spans.jsonl", ["--nats-url", server.url, "--to", "code", "--task-type", "test", "x"]
    await coordinator.bus.api(f"STREAM.DELETE.{subjects.TASKS_STREAM}")
    sending = set[asyncio.Future[None]]()
    if kind == "BusUnavailableError":  # what answers is not JetStream: the task may or may not be stored

        def answer(message: Msg) -> None:
            sending.add(asyncio.ensure_future(coordinator.bus.publish(message.reply, b"+OK")))

        await coordinator.bus.subscribe(subjects.tasks("code"), answer)
    argv = [sys.executable, TRACED, str(spans), "batch", "agentbus", "task", "publish", *args]
    with process(argv, tmp_path / "log") as child:
        assert await child.exit_code() == 1, child.log.read_text(encoding="utf-8")
    assert "error: " in child.log.read_text(encoding="utf-8")
    published = span_in(spans, "publish agent.code.tasks")
    assert published["status"]["status_code"] == "ERROR"
    assert published["attributes"]["error.type"] == kind


async def test_a_collector_that_does_not_answer_keeps_no_server_from_ending(tmp_path: Path) -> None:
    argv = [sys.executable, TRACED, str(tmp_path / "spans.jsonl"), "stuck", "agentbus_mcp", "--nats-url", NOWHERE]
    with process([*argv, "--http", "127.0.0.1:0"], tmp_path / "log") as child:
        await child.until_said('{"url":')
        [url] = [
            json.loads(line)["url"]
            for line in child.log.read_text(encoding="utf-8").splitlines()
            if line.startswith("{")
        ]
        async with over_http(url) as client:
            await client.list_tools()
        child.terminate()
        assert await child.exit_code() == 0


async def test_a_trace_needs_no_right_of_its_own(tmp_path: Path) -> None:
    async with own_bus(tmp_path) as bus, worker(bus.worker_toml(tmp_path, "code")), bus.coordinator("main") as main:
        with within(PARENT):
            status = await outcome(main, "env:TRACEPARENT")
    assert text(status) == PARENT + "\n"
    assert status.record.headers["traceparent"] == PARENT
    assert bus.violations() == []


# -- what a span says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "keys", "attributes", "description"),
    [
        (
            f"say:{SECRET} stderr:{SECRET} exit:3", {},
            {"agentbus.task.status": "failed", "error.type": "exit:3", "process.exit.code": 3},
            "the command exited with status 3",
        ),
        (
            f"say:{SECRET} sleep:1000", {"task_timeout_seconds": 0.5},
            {"agentbus.task.status": "failed", "error.type": "timeout"},
            "timed out after 0.5 s and was ended",
        ),
        ("approval", {}, {"agentbus.task.status": "needs_approval"}, None),
    ],
    ids=["exit", "time-out", "approval"],
)  # fmt: skip
async def test_a_span_says_how_its_attempt_ended_and_nothing_of_what_was_said(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path,
    content: str, keys: dict[str, Any], attributes: dict[str, Any], description: str | None,
) -> None:  # fmt: skip
    spans = tmp_path / "spans.jsonl"
    async with traced_worker(worker_toml(tmp_path, server.url, worker=keys), spans):
        await outcome(coordinator, content)
        [ran] = await ended_spans(spans, "process agent.code.tasks")
    assert attributes.items() <= ran["attributes"].items()
    assert ran["status"] == (
        {"status_code": "ERROR", "description": description} if description else {"status_code": "UNSET"}
    )
    assert SECRET not in spans.read_text(encoding="utf-8")


async def test_an_attempt_that_is_repeated_is_a_span_of_its_own_in_the_same_trace(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    spans = tmp_path / "spans.jsonl"
    keys = {"retry_on": ["exit:3"], "max_attempts": 2, "retry_backoff_seconds": 0.1}
    async with traced_worker(worker_toml(tmp_path, server.url, worker=keys), spans):
        await publish_within(PARENT, server, "twice", "exit:3")
        await settled(coordinator, "twice")
        first, second = await ended_spans(spans, "process agent.code.tasks", 2)
    assert (trace_id(first), trace_id(second)) == (TRACE, TRACE)
    assert [span["attributes"]["agentbus.task.status"] for span in (first, second)] == ["retried", "failed"]
    assert [span["attributes"]["agentbus.task.attempt"] for span in (first, second)] == [1, 2]


async def test_a_takeover_is_a_new_span_of_the_same_trace(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await short_lease(coordinator)
    spans, script = tmp_path / "spans.jsonl", f"pid:{tmp_path}/pid env:TRACEPARENT wait:{tmp_path}/go"
    config = worker_toml(tmp_path, server.url)
    async with traced_worker(config, spans) as first:
        await publish_within(PARENT, server, "taken", script)
        await pid_from(tmp_path / "pid")
        first.kill()
        (tmp_path / "pid").unlink()
        async with traced_worker(config, spans):
            await pid_from(tmp_path / "pid")
            (tmp_path / "go").touch()
            status = await settled(coordinator, "taken")
            [ran] = await ended_spans(spans, "process agent.code.tasks")
    assert text(status) == traceparent(ran) + "\n"
    assert (trace_id(ran), parent_id(ran)) == (TRACE, CALLER)
    assert ran["attributes"]["agentbus.task.attempt"] == 2
    [event] = ran["events"]
    assert event["name"] == "agentbus.takeover"
    assert str(first.pid) in event["attributes"]["agentbus.from"]


async def test_a_cancelled_task_says_when_it_was_cancelled_run_or_not(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    spans = tmp_path / "spans.jsonl"
    queued = await publish(coordinator, "say:hi")
    await coordinator.task(queued).cancel()
    async with traced_worker(worker_toml(tmp_path, server.url), spans):
        [unrun] = await ended_spans(spans, "settle agent.code.tasks")
        running = await publish(coordinator, f"pid:{tmp_path}/pid sleep:1000")
        await pid_from(tmp_path / "pid")
        await coordinator.task(running).cancel(SECRET)
        await settled(coordinator, running)
        [ran] = await ended_spans(spans, "process agent.code.tasks")
    assert unrun["attributes"]["messaging.message.id"] == queued
    assert [span["attributes"]["agentbus.task.status"] for span in (unrun, ran)] == ["cancelled", "cancelled"]
    assert [event["name"] for event in ran["events"]] == ["agentbus.cancel"]
    assert {span["status"]["status_code"] for span in (unrun, ran)} == {"UNSET"}
    assert SECRET not in spans.read_text(encoding="utf-8")


async def test_a_message_that_becomes_a_dead_letter_ends_its_trace_with_the_reason(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    spans = tmp_path / "spans.jsonl"
    async with traced_worker(worker_toml(tmp_path, server.url), spans):
        await coordinator.bus.store(subjects.tasks("code"), b"{}", headers={"traceparent": PARENT})
        [dead] = await ended_spans(spans, "settle agent.code.tasks")
    assert (trace_id(dead), dead["attributes"]["error.type"]) == (TRACE, "dead_letter")
    assert dead["status"]["status_code"] == "ERROR"


async def test_a_worker_that_stops_says_that_it_gave_the_task_back(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    spans = tmp_path / "spans.jsonl"
    config = worker_toml(tmp_path, server.url, worker={"drain_timeout_seconds": 0.1, "kill_grace_seconds": 0.5})
    async with traced_worker(config, spans) as child:
        await publish(coordinator, f"pid:{tmp_path}/pid sleep:1000")
        await pid_from(tmp_path / "pid")
        os.kill(child.pid, signal.SIGTERM)
        assert await child.exit_code() == 0
    [ran] = spans_in(spans)
    assert ran["attributes"]["agentbus.task.status"] == "given_back"
    assert ran["status"]["status_code"] == "UNSET"


async def test_a_publication_that_fails_says_why(tmp_path: Path, server: NatsServer) -> None:
    spans = tmp_path / "spans.jsonl"
    argv = [sys.executable, TRACED, str(spans), "batch", "agentbus", "task", "publish", "--nats-url", server.url]
    with process([*argv, "--to", "code", "--task-type", "test", SECRET], tmp_path / "log") as child:
        assert await child.exit_code() == 1
    [failed] = spans_in(spans)
    assert failed["attributes"]["error.type"] == "SetupMissingError"
    assert failed["status"]["status_code"] == "ERROR"
    assert SECRET not in spans.read_text(encoding="utf-8")


# -- untrusted --------------------------------------------------------------------------------------------------

HOSTILE = [
    "", "x", "00", PARENT + "x", PARENT.upper(), f"ff-{TRACE}-{CALLER}-01", f"00-{'0' * 32}-{CALLER}-01",
    f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{CALLER}-zz", f"00-{TRACE}-{CALLER}-01-more", f"{PARENT}\u0661",
    "0" * 3_000, f"{PARENT}-{'x' * 3_000}", "é" * 55, "[]", "null", f"{PARENT},{PARENT}",
]  # fmt: skip
ODD_STATES = [
    "", "x", "=", "a=", "a=b=c", "A=b", "a=b,a=c", "a=\u00e9", ",".join(f"k{n}=v" for n in range(40)),
    "a=" + "x" * 3_000, ",", "a=b,\tc=d ", "1@a=b", "a@b@c=d", "a=b,,c=d", "a b=c", "$(id)=`id`",
]  # fmt: skip


async def test_a_header_that_is_no_trace_does_nothing_to_the_task(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    sent: list[str] = []
    pairs = [*((parent, STATE) for parent in HOSTILE), *((PARENT, state) for state in ODD_STATES)]
    for parent, state in pairs:
        task = new_task(to="code", content=ASKS, task_type="test")
        headers = {"traceparent": parent, "tracestate": state, "baggage": "a=1"}
        await coordinator.bus.store(subjects.tasks("code"), encode(task.to_json()), msg_id=task.id, headers=headers)
        sent.append(task.id)
    async with worker(worker_toml(tmp_path, server.url, worker={"concurrency": 4})) as child:
        await acknowledged(coordinator)
        said = child.log.read_text(encoding="utf-8")
    assert (await counts(coordinator))["AGENT_DEAD"] == 0
    waited = await coordinator.wait(sent, timeout_s=0)
    texts = [text(waited.settled[task_id]) for task_id in sent]
    assert texts[: len(HOSTILE)] == ["\n\n\n"] * len(HOSTILE)
    assert {found.splitlines()[0] for found in texts[len(HOSTILE) :]} == {PARENT}
    said = "\n".join(line for line in said.splitlines() if "nats-server" not in line)  # its version may be warned of
    assert not {"warning", "error", "traceback"} & set(said.lower().split())


@both_eras
async def test_a_call_whose_trace_is_none_is_answered_all_the_same(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    odd: list[Any] = [*HOSTILE, 7, None, [], [7], {}, {"a": 1}, True]
    async with in_memory(server.url, era) as client:
        for number, parent in enumerate(odd):
            arguments = {"to": ["code"], "content": "x", "task_type": "test", "task_id": f"t{number}"}
            meta = cast("RequestParamsMeta", {"traceparent": parent, "tracestate": parent})
            data_of(await client.call_tool("publish_task", arguments, meta=meta))
    for number in range(len(odd)):
        message = await coordinator.bus.message(subjects.TASKS_STREAM, number + 1)
        assert message is not None
        assert "traceparent" not in message.headers


# -- no tracing ----------------------------------------------------------------------------------------------


def test_without_opentelemetry_nothing_is_traced_and_nothing_loaded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    monkeypatch.delitem(sys.modules, "agentbus.observability.spans", raising=False)
    nothing = {MSG_ID: "x"}
    assert isinstance(tracing.publishing("code", "t", 1), nullcontext)
    assert isinstance(tracing.processing(nothing, agent="code", task_id="t", worker="w", attempt=1), nullcontext)
    assert isinstance(tracing.settling(nothing, agent="code", worker="w"), nullcontext)
    assert tracing.headers() == tracing.environment() == {}
    tracing.event("x")
    tracing.outcome("completed")
    tracing.link({"traceparent": PARENT})
    tracing.flush(1)
    assert "opentelemetry.trace" not in sys.modules

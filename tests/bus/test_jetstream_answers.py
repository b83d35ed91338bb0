"""Answers of JetStream become frozen dataclasses; one that does not fit becomes an error of ours."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agentbus.bus import jetstream_answers
from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.jetstream_answers import Cluster, Replica
from agentbus.bus.nats_client import Msg
from agentbus.config.connection_settings import connection_settings
from agentbus.config.schema import NatsSection
from agentbus.errors import BusUnavailableError, MalformedAnswerError
from agentbus.provision.nats_server import run_server

STATE = {
    "messages": 2,
    "bytes": 90,
    "first_seq": 1,
    "last_seq": 3,
    "first_ts": "2026-11-29T07:00:00Z",
    "last_ts": "2026-11-29T07:00:01Z",
    "num_deleted": 1,
    "deleted": [2],
    "subjects": {"s": 2},
}
STREAM = {
    "config": {"name": "S", "num_replicas": 3, "max_bytes": 100, "max_age": 5 * 10**9, "of_tomorrow": [1]},
    "state": STATE,
    "cluster": {
        "name": "bus",
        "leader": "a",
        "replicas": [{"name": "b", "current": True}, {"name": "c", "current": False, "offline": True, "lag": 4}],
    },
    "ts": "2026-11-29T07:00:02.123456789Z",
}
CONSUMER = {
    "name": "agent-code",
    "config": {"durable_name": "agent-code", "filter_subject": "agent.code.tasks", "ack_wait": 30 * 10**9},
    "delivered": {"consumer_seq": 7, "stream_seq": 9},
    "num_pending": 4,
    "num_ack_pending": 1,
    "num_waiting": 2,
}


def test_a_stream_is_read_with_its_state_and_its_replicas_and_keeps_fields_that_we_do_not_know():
    info = jetstream_answers.read_stream_info(STREAM, "STREAM.INFO.S")
    assert info.config == STREAM["config"]
    assert (info.num_replicas, info.max_bytes, info.max_age_s, info.duplicate_window_s) == (3, 100, 5, 0)
    assert (info.state.messages, info.state.deleted, info.state.subjects) == (2, (2,), {"s": 2})
    assert info.cluster == Cluster("bus", "a", (Replica("b", True, False, 0), Replica("c", False, True, 4)))
    assert info.server_time == datetime(2026, 11, 29, 7, 0, 2, 123456, UTC)


def test_what_a_server_leaves_out_has_the_meaning_that_the_server_gives_it():
    said = {"config": {"name": "S"}, "state": {**STATE, "deleted": None, "subjects": None}, "cluster": None}
    info = jetstream_answers.read_stream_info(said, "STREAM.INFO.S")
    assert (info.num_replicas, info.max_bytes, info.max_age_s) == (1, -1, 0)
    assert (info.state.deleted, info.state.subjects, info.cluster, info.server_time) == ((), None, Cluster(), None)
    assert jetstream_answers.read_account_info({}, "INFO").max_storage_bytes == -1
    assert jetstream_answers.read_consumer_page({"consumers": None, "total": 0}, "CONSUMER.LIST.S") == ([], 0)


def test_a_consumer_is_read_with_its_progress():
    info = jetstream_answers.read_consumer_info(CONSUMER, "CONSUMER.INFO.S.agent-code")
    assert (info.name, info.durable_name, info.filter_subject) == ("agent-code", "agent-code", "agent.code.tasks")
    assert (info.ack_wait_s, info.num_replicas, info.delivered_stream_seq) == (30, 0, 9)
    assert (info.num_pending, info.num_ack_pending, info.num_waiting) == (4, 1, 2)


@pytest.mark.parametrize(
    ("read", "answer", "says"),
    [
        ("read_stream_info", [], "no JSON object"),
        ("read_stream_info", {"config": {}}, "STREAM.INFO.S: state is no JSON object"),
        ("read_stream_info", {**STREAM, "config": "S"}, "STREAM.INFO.S: config is no JSON object"),
        ("read_stream_info", {**STREAM, "state": {**STATE, "messages": "2"}}, "has '2' as messages"),
        ("read_stream_info", {**STREAM, "state": {**STATE, "messages": True}}, "has True as messages"),
        ("read_stream_info", {**STREAM, "state": {**STATE, "last_seq": None}}, "lacks last_seq"),
        ("read_stream_info", {**STREAM, "state": {**STATE, "deleted": ["2"]}}, "has '2' as deleted"),
        ("read_stream_info", {**STREAM, "state": {**STATE, "subjects": {"s": 1.5}}}, "has 1.5 as s"),
        ("read_stream_info", {**STREAM, "ts": "yesterday"}, "has 'yesterday' as ts"),
        ("read_stream_info", {**STREAM, "cluster": {"replicas": ["b"]}}, "replicas is no JSON object"),
        ("read_consumer_info", {**CONSUMER, "num_pending": None}, "lacks num_pending"),
        ("read_consumer_info", {**CONSUMER, "delivered": None}, "delivered is no JSON object"),
        ("read_consumer_page", {"consumers": "all", "total": 1}, "has 'all' as consumers"),
        ("read_consumer_page", {"consumers": []}, "lacks total"),
        ("read_name_page", {"streams": [1], "total": 1}, "has 1 as streams"),
        ("read_account_info", {"limits": {"max_storage": "all"}}, "has 'all' as max_storage"),
        ("read_snapshot", {"config": {}, "state": {}}, "lacks messages"),
        ("read_deliver_subject", {}, "lacks deliver_subject"),
        ("read_stored", {"stream": "S"}, "lacks seq"),
        ("read_message", {"message": {"subject": "s", "seq": 1}}, "lacks time"),
        ("read_message", {"message": {"subject": "s", "seq": 1, "time": STREAM["ts"], "data": "*"}}, "as data"),
    ],
)
def test_an_answer_that_does_not_fit_is_an_error_that_names_the_request_and_the_field(
    read: str, answer: Any, says: str
):
    function: Callable[[Any, str], object] = getattr(jetstream_answers, read)
    with pytest.raises(MalformedAnswerError) as refused:
        function(answer, "STREAM.INFO.S")
    assert says in str(refused.value)
    assert "STREAM.INFO.S" in str(refused.value)


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncGenerator[Bus]:
    """A server without JetStream: another party answers in its place."""
    conf = tmp_path / "plain.conf"
    conf.write_text('listen: "127.0.0.1:-1"\n', encoding="utf-8")
    async with run_server(store=tmp_path / "s", config=conf) as server:
        settings = connection_settings(NatsSection(url=server.url), agent="main", name="test")
        async with connect(settings) as opened:
            yield opened


async def answer_with(bus: Bus, subject: str, answer: bytes) -> None:
    sending = set[asyncio.Task[None]]()
    await bus.subscribe(subject, lambda message: sending.add(asyncio.ensure_future(bus.publish(message.reply, answer))))


async def test_an_answer_of_another_party_than_jetstream_is_an_error_of_ours(bus: Bus):
    await answer_with(bus, "$JS.API.STREAM.INFO.S", json.dumps({**STREAM, "state": {}}).encode())
    await answer_with(bus, "$JS.API.STREAM.INFO.LIST", b"[]")
    await answer_with(bus, "$JS.API.CONSUMER.LIST.S", json.dumps({"consumers": [{}], "total": 1}).encode())
    with pytest.raises(MalformedAnswerError, match=r"STREAM\.INFO\.S: state lacks messages"):
        await bus.stream_info("S")
    with pytest.raises(BusUnavailableError, match="no JSON object"):
        await bus.stream_info("LIST")
    with pytest.raises(MalformedAnswerError, match=r"CONSUMER\.LIST\.S: config is no JSON object"):
        await bus.consumers("S")


@pytest.mark.parametrize("answer", [b"+OK", b"{}", b'{"stream": "S", "seq": "1"}'])
async def test_a_message_whose_acknowledgement_cannot_be_read_counts_as_perhaps_stored(bus: Bus, answer: bytes):
    await answer_with(bus, "s", answer)
    with pytest.raises(BusUnavailableError):
        await bus.store("s", b"x", msg_id="1")


async def test_lists_are_read_page_by_page(bus: Bus):
    pages = [{"streams": ["A", "B"], "total": 3}, {"streams": ["C"], "total": 3}]
    asked: list[bytes] = []
    sending = set[asyncio.Task[None]]()

    def reply(message: Msg) -> None:
        asked.append(message.data)
        page = json.dumps(pages[len(asked) - 1]).encode()
        sending.add(asyncio.ensure_future(bus.publish(message.reply, page)))

    await bus.subscribe("$JS.API.STREAM.NAMES", reply)
    assert await bus.stream_names() == ["A", "B", "C"]
    assert asked == [b'{"offset":0}', b'{"offset":2}']

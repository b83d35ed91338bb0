"""Reading streams, and what JetStream refuses or answers out of turn: each has an error of ours."""

from collections.abc import AsyncGenerator

import pytest

from agentbus import Coordinator
from agentbus.admin.dead_letters import dead_letter
from agentbus.bus.jetstream import Bus, connect
from agentbus.config.connection_settings import connection_settings
from agentbus.config.schema import NatsSection
from agentbus.errors import ApiError, BusUnavailableError, DeadLetterMissingError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer
from support.altered_link import AlteredLink, altered_link, at_first, lost, refused

STARTING = refused(10008, "JetStream system temporarily unavailable", code=503)
IN_PROCESS = refused(10158, "duplicate message id is in process", code=409)


@pytest.fixture
async def link(server: NatsServer) -> AsyncGenerator[AlteredLink]:
    async with altered_link(server.url) as opened:
        yield opened


@pytest.fixture
async def bus(link: AlteredLink) -> AsyncGenerator[Bus]:
    async with connect(connection_settings(NatsSection(url=link.url), agent="main", name="test")) as opened:
        yield opened


async def test_a_message_is_read_by_its_sequence_or_there_is_none(coordinator: Coordinator):
    bus, stream = coordinator.bus, subjects.RESULTS_STREAM
    stored = await bus.store("agent.main.results", b"x", headers={"Some": "header"})
    found = await bus.message_without_headers(stream, stored.seq)
    assert found is not None
    assert (found.data, found.seq, found.headers) == (b"x", stored.seq, {})
    assert await bus.message_without_headers(stream, stored.seq + 1) is None
    with pytest.raises(SetupMissingError, match="no_such_stream"):
        await bus.message_without_headers("no_such_stream", 1)
    whole = await bus.message(stream, stored.seq)
    assert whole is not None
    assert whole.headers["Some"] == "header"
    assert await bus.message(stream, stored.seq + 1) is None


async def test_an_invalid_sequence_is_refused_in_the_words_of_the_server(coordinator: Coordinator):
    with pytest.raises(ApiError, match="Empty Request") as refusal:
        await coordinator.bus.message(subjects.RESULTS_STREAM, 0)
    assert refusal.value.code == 408
    with pytest.raises(ApiError):
        await coordinator.bus.message_without_headers(subjects.RESULTS_STREAM, -1)
    with pytest.raises(DeadLetterMissingError, match="there is no dead letter 0"):
        await dead_letter(coordinator.bus, 0)


async def test_a_request_is_repeated_while_jetstream_starts(link: AlteredLink, bus: Bus, coordinator: Coordinator):
    link.changes["agent.main.results"] = at_first(2, STARTING)
    assert (await bus.store("agent.main.results", b"x", msg_id="1")).duplicate, "the first attempt was carried out"
    assert (await coordinator.bus.stream_info(subjects.RESULTS_STREAM)).state.messages == 1


async def test_a_store_is_repeated_while_a_cluster_has_not_decided_on_the_message_of_its_id(
    link: AlteredLink, bus: Bus, coordinator: Coordinator
):
    link.changes["agent.main.results"] = at_first(2, IN_PROCESS)
    assert (await bus.store("agent.main.results", b"x", msg_id="1")).duplicate, "the first attempt was carried out"
    link.changes["agent.main.results"] = IN_PROCESS
    with pytest.raises(BusUnavailableError, match=r"not agreed on a message for agent\.main\.results yet"):
        await bus.store("agent.main.results", b"x", msg_id="1", timeout_s=0.3)


async def test_a_store_whose_answer_is_lost_is_stored_once(link: AlteredLink, bus: Bus, coordinator: Coordinator):
    link.changes["agent.main.results"] = at_first(1, lost)
    assert (await bus.store("agent.main.results", b"x", msg_id="1")).duplicate
    assert (await coordinator.bus.stream_info(subjects.RESULTS_STREAM)).state.messages == 1


async def test_a_store_without_an_id_whose_answer_is_lost_is_not_repeated(
    link: AlteredLink, bus: Bus, coordinator: Coordinator
):
    link.changes["agent.main.results"] = at_first(1, lost)
    with pytest.raises(BusUnavailableError, match=r"did not answer within 0\.3 s"):
        await bus.store("agent.main.results", b"x", timeout_s=0.3)
    assert (await coordinator.bus.stream_info(subjects.RESULTS_STREAM)).state.messages == 1


@pytest.mark.parametrize("answer", [b"", b"no JSON", b"[]", b"{}", b'{"stream":"S","seq":"1"}'])
async def test_an_answer_that_is_not_jetstreams_leaves_open_whether_the_message_is_stored(
    link: AlteredLink, bus: Bus, coordinator: Coordinator, answer: bytes
):
    link.changes["agent.main.results"] = lambda _: answer
    with pytest.raises(BusUnavailableError):
        await bus.store("agent.main.results", b"x", msg_id="1", timeout_s=1)
    assert (await coordinator.bus.stream_info(subjects.RESULTS_STREAM)).state.messages == 1

"""Describes the two streams of the bus: their state, their consumers and their newest messages."""

from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Final, TypeAlias

from agentbus.coordinator import Coordinator
from agentbus.errors import PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json
from agentbus.protocol.stored_message import StoredMessage
from agentbus.tasks.inbox import read_inbox_message
from agentbus_mcp.operations.inbox import CheckedMessage, check_messages
from agentbus_mcp.replies.budget import share
from agentbus_mcp.replies.results import result_of_message
from agentbus_mcp.replies.tasks import queued_task

NEWEST: Final = 10
CONTENT_BYTES: Final = 2_048
_MAX_CONSUMERS: Final = 50
_MAX_GAPS: Final = 100_000
"""The most deleted messages that the server lists, to find the newest ones that are left."""

_Part: TypeAlias = Callable[[Coordinator, str], Awaitable[Json]]


async def describe_stream(coordinator: Coordinator, stream: str) -> dict[str, Json]:
    """Describe a stream, and name the parts that this user may not read."""
    description: dict[str, Json] = {"stream": stream}
    refused: list[str] = []
    parts: dict[str, _Part] = {"state": _state, "consumers": _consumers, "newest": _newest}
    for name, read in parts.items():
        try:
            description[name] = await read(coordinator, stream)
        except PermissionDeniedError:
            refused.append(name)
    if refused:
        description["not_permitted"] = refused
    return description


async def _state(coordinator: Coordinator, stream: str) -> Json:
    state = (await coordinator.bus.stream_info(stream)).state
    return {
        "messages": state.messages,
        "bytes": state.bytes,
        "first_seq": state.first_seq,
        "last_seq": state.last_seq,
        "first_time": state.first_time,
        "last_time": state.last_time,
    }


async def _consumers(coordinator: Coordinator, stream: str) -> Json:
    """Return the durable consumers. The others belong to readers, and expire."""
    return [
        {
            "name": consumer.name,
            "filter_subject": consumer.filter_subject,
            "waiting_messages": consumer.num_pending,
            "unacknowledged": consumer.num_ack_pending,
            "open_pulls": consumer.num_waiting,
        }
        for consumer in await coordinator.bus.consumers(stream)
        if consumer.durable_name
    ][:_MAX_CONSUMERS]


async def _newest(coordinator: Coordinator, stream: str) -> Json:
    """Return the newest messages, oldest first; only those of the own inbox if other results are not permitted."""
    if stream == subjects.TASKS_STREAM:
        return [
            queued_task(message, CONTENT_BYTES).model_dump(exclude_none=True)
            for message in await _stored(coordinator, stream)
        ]
    try:
        messages = [read_inbox_message(message) for message in await _stored(coordinator, stream)]
    except PermissionDeniedError:
        messages = await coordinator.results(NEWEST)
    return result_list(await check_messages(coordinator, messages))


def result_list(messages: Sequence[CheckedMessage]) -> list[Json]:
    """Return the results in inbox messages, in full detail, with the beginning of each output."""
    bound = share(CONTENT_BYTES, len(messages))
    return [result_of_message(message).cut(bound).model_dump(exclude_none=True) for message in messages]


async def _stored(coordinator: Coordinator, stream: str) -> list[StoredMessage]:
    """Return the newest messages of a stream. With too many gaps, as in a work queue, it tries the last sequences."""
    bus = coordinator.bus
    state = (await bus.stream_info(stream)).state
    gaps = set[int]()
    if 0 < state.num_deleted <= _MAX_GAPS:
        gaps.update((await bus.stream_info(stream, deleted=True)).state.deleted)
    sequences = (seq for seq in range(state.last_seq, max(state.first_seq, 1) - 1, -1) if seq not in gaps)
    # A task may be settled and deleted meanwhile.
    found = [await bus.message_without_headers(stream, seq) for seq in islice(sequences, NEWEST)]
    return [message for message in reversed(found) if message is not None]

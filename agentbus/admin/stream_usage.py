"""How full the streams of a bus are: in numbers, and as warnings for a person."""

from collections.abc import Sequence
from dataclasses import dataclass

from agentbus.bus.bounds.fill import coming_to_each, remedy, warning_of
from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json


@dataclass(frozen=True, slots=True)
class StreamUsage:
    """The size of a stream. `max_bytes` is None if the stream has no limit."""

    name: str
    messages: int
    bytes: int
    max_bytes: int | None

    def to_json(self) -> dict[str, Json]:
        """Return the usage as a JSON object."""
        return {"name": self.name, "messages": self.messages, "bytes": self.bytes, "max_bytes": self.max_bytes}


def _usage(info: StreamInfo) -> StreamUsage:
    limit = info.max_bytes if info.max_bytes > 0 else None
    return StreamUsage(str(info.config.get("name")), info.state.messages, info.state.bytes, limit)


def usages(streams: Sequence[StreamInfo], ledgers: Sequence[StreamInfo] | None) -> list[StreamUsage]:
    """Return how large the streams are, with the ledgers of the agents as one, where there are such."""
    usages = [_usage(info) for info in streams]
    if ledgers is not None:
        usages.insert(min(2, len(usages)), _whole(ledgers))
    return usages


def _whole(ledgers: Sequence[StreamInfo]) -> StreamUsage:
    """Return what the ledgers of the agents take together, as that of the one ledger that other buses have."""
    limits = [info.max_bytes for info in ledgers]
    return StreamUsage(
        subjects.STATE_STREAM,
        sum(info.state.messages for info in ledgers),
        sum(info.state.bytes for info in ledgers),
        sum(limits) if limits and min(limits) > 0 else None,
    )


def warnings(streams: Sequence[StreamInfo]) -> list[str]:
    """Return a line for each stream that is nearly full, with what an administrator can do."""
    by_name = {str(info.config.get("name")): info for info in streams}
    queue = by_name.get(subjects.TASKS_STREAM)
    coming = coming_to_each(queue) if queue else {}
    texts = {name: warning_of(info, coming.get(name, 0)) for name, info in by_name.items()}
    return [f"{text}; an administrator can {remedy(by_name[name])}" for name, text in texts.items() if text]

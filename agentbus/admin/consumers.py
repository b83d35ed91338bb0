"""Lists the consumers on the streams of a bus, tells foreign ones from those of agentbus, and deletes them.

A party that may create a consumer can let the server deliver messages to any subject of the account, for as long as
the consumer exists: also after its maker's credential was removed. agentbus makes no such consumer. Its own are the
durable pull consumers that filter the tasks of one agent, whatever their name (`durable` is a setting), and short-lived
pull consumers by which readers follow a stream.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import ConsumerInfo
from agentbus.errors import ApiError, ConsumerMissingError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer of a stream.

    Attributes:
        deliver_subject: where the server sends its messages by itself; None for a pull consumer.
        foreign: why agentbus cannot have made it; empty for one of its own.
    """

    stream: str
    name: str
    filters: tuple[str, ...]
    deliver_subject: str | None
    waiting: int
    foreign: str

    @property
    def path(self) -> str:
        """How commands name it."""
        return f"{self.stream}/{self.name}"

    def to_json(self) -> dict[str, Json]:
        """Return a plain object; what does not apply is left out."""
        account: dict[str, Json] = {
            "stream": self.stream,
            "name": self.name,
            "filters": list(self.filters),
            "deliver_subject": self.deliver_subject,
            "waiting": self.waiting,
            "foreign": self.foreign or None,
        }
        return {key: value for key, value in account.items() if value is not None}


async def consumers_of_bus(bus: Bus) -> list[Consumer]:
    """List the consumers of every stream, by stream and name.

    Raises:
        PermissionDeniedError: this user may not look at all streams.
    """
    found: list[Consumer] = []
    for stream in sorted(await bus.stream_names()):
        try:
            found += [_consumer(stream, info) for info in await bus.consumers(stream)]
        except SetupMissingError:  # deleted meanwhile
            continue
    return sorted(found, key=lambda one: (one.stream, one.name))


async def remove_consumers(bus: Bus, consumers: Iterable[Consumer]) -> list[Consumer]:
    """Delete consumers; returns those that were there. One that is gone by then is no error."""
    removed: list[Consumer] = []
    for one in consumers:
        try:
            await bus.api(f"CONSUMER.DELETE.{one.stream}.{one.name}")
        except (SetupMissingError, ApiError) as error:
            if isinstance(error, ApiError) and error.code != 404:
                raise
            continue
        removed.append(one)
    return removed


def select(consumers: Iterable[Consumer], paths: Iterable[str]) -> list[Consumer]:
    """Return the consumers that are named as `STREAM/NAME`, in that order.

    Raises:
        ConsumerMissingError: there is none of a name.
    """
    by_path = {one.path: one for one in consumers}
    missing = [path for path in paths if path not in by_path]
    if missing:
        raise ConsumerMissingError(
            f"there is no consumer {missing[0]}; name it as STREAM/NAME, as `agentbus consumers list` does"
        )
    return [by_path[path] for path in dict.fromkeys(paths)]


def _consumer(stream: str, info: ConsumerInfo) -> Consumer:
    filters = tuple(map(str, info.config.get("filter_subjects") or ())) or tuple(filter(None, [info.filter_subject]))
    deliver_subject = info.config.get("deliver_subject")
    return Consumer(
        stream=stream,
        name=info.name,
        filters=filters,
        deliver_subject=str(deliver_subject) if deliver_subject else None,
        waiting=info.num_pending,
        foreign=_why_foreign(stream, info, filters),
    )


def _why_foreign(stream: str, info: ConsumerInfo, filters: tuple[str, ...]) -> str:
    if info.config.get("deliver_subject"):
        return "the server sends its messages to a subject by itself"
    if stream == subjects.TASKS_STREAM:
        one = filters[0] if len(filters) == 1 else ""
        return "" if subjects.agent_of_filter(one) is not None else "it does not take the tasks of one agent"
    if info.durable_name is not None:
        return "it is durable: it stays after its maker has gone"
    return ""

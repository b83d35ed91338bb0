"""The streams, buckets and consumers that agentbus needs, as data: `agentbus.bus.setup` makes them."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from agentbus.protocol import subjects

SECOND_NS: Final = 1_000_000_000
_DAY: Final = 86_400 * SECOND_NS
ACK_WAIT_S: Final = 30
"""The lease of a running task: renewed every third of it."""
PRESENCE_TTL_S: Final = 90
"""How long a worker is listed after its last heartbeat: three of them, so that two may get lost."""


_NO_IDS: Final = SECOND_NS
"""Of buckets: nothing is stored there under a message id, and the memory of ids takes a kilobyte of the server each."""
_READ_BY_PARTIES: Final[dict[str, Any]] = {
    # A reader's consumer lives for seconds. One that its maker has left behind goes after this time.
    "consumer_limits": {"inactive_threshold": 300 * SECOND_NS},
    # By default a stream has room for 1000: a party that made as many would lock out every reader.
    "max_consumers": 100_000,
}


SWITCHES_OFF: Final = (
    "allow_rollup_hdrs",
    "allow_msg_ttl",
    "allow_msg_schedules",
    "allow_msg_counter",
    "allow_atomic",
    "allow_batched",
    "mirror_direct",
    "no_ack",
    "sealed",
    "mirror",
    "sources",
    "republish",
    "subject_transform",
)
"""Settings of a stream that must not be on: with them a publisher, or the server by itself, moves, erases, schedules or
copies messages beyond the subject that the publisher may use. Servers leave out what they do not know."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A stream or bucket that set-up makes.

    Attributes:
        share: of the storage that the server grants, where it grants a bounded amount.
    """

    kind: Literal["stream", "bucket"]
    config: dict[str, Any]
    share: float = 0.0

    @property
    def name(self) -> str:
        """The name of the stream."""
        return self.config["name"]


def _stream(name: str, subject: str, *, max_age: int, share: float, **more: Any) -> Wanted:
    return Wanted("stream", {**_base(name, [subject], max_age), **more}, share)


def _bucket(name: str, subject_filters: list[str], *, max_age: int, share: float, **more: Any) -> Wanted:
    # Not a stock bucket: those allow rollup headers, with which a right on one key empties the whole bucket.
    denied = {"deny_delete": True, "deny_purge": True, "allow_rollup_hdrs": False}
    return Wanted("bucket", {**_base(name, subject_filters, max_age), **denied, **more}, share)


def _base(name: str, subject_filters: list[str], max_age: int) -> dict[str, Any]:
    return {
        "name": name,
        "subjects": subject_filters,
        "retention": "limits",
        "storage": "file",
        "max_age": max_age,
        "max_bytes": -1,
        # A full stream refuses the next message; with "old" it would drop the oldest without a word.
        "discard": "new",
        "allow_direct": True,
    }


def wanted_streams() -> list[Wanted]:
    """The streams and buckets that every bus has."""
    return [
        _stream(
            subjects.TASKS_STREAM,
            subjects.TASK_SUBJECTS,
            max_age=7 * _DAY,
            share=0.15,
            retention="workqueue",
            duplicate_window=_DAY,
        ),
        # The memory of result ids outlives every task, so that no redelivery can store a result twice.
        _stream(
            subjects.RESULTS_STREAM,
            subjects.RESULT_SUBJECTS,
            max_age=30 * _DAY,
            share=0.3,
            duplicate_window=8 * _DAY,
            **_READ_BY_PARTIES,
        ),
        _stream(subjects.DEAD_STREAM, subjects.DEAD_SUBJECTS, max_age=30 * _DAY, share=0.04, duplicate_window=8 * _DAY),
        # The ledger outlives every result that points to it.
        _bucket(
            subjects.STATE_STREAM,
            [subjects.STATE_SUBJECTS],
            max_age=38 * _DAY,
            share=0.3,
            max_msgs_per_subject=1,
            duplicate_window=_NO_IDS,
            **_READ_BY_PARTIES,
        ),
        _bucket(
            subjects.REGISTRY_STREAM,
            [subjects.REGISTRY_SUBJECTS],
            max_age=PRESENCE_TTL_S * SECOND_NS,
            share=0.01,
            max_msgs_per_subject=1,
            duplicate_window=_NO_IDS,
            **_READ_BY_PARTIES,
        ),
    ]


def wanted_files(agent: str, limit: int | None = None) -> Wanted:
    """The object store of one agent; `limit` is the most bytes that it may hold."""
    bucket = subjects.files_bucket(agent)
    bound = {} if limit is None else {"max_bytes": limit}
    return _bucket(
        f"OBJ_{bucket}",
        [f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"],
        max_age=38 * _DAY,
        share=0.0,
        **_READ_BY_PARTIES,
        **bound,
    )


def consumer_config(agent: str, name: str, *, ack_wait_s: float = ACK_WAIT_S) -> dict[str, Any]:
    """The durable consumer that the workers of `agent` share; it is their delivery progress, so it never expires."""
    return {
        "durable_name": name,
        "filter_subject": subjects.tasks(agent),
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(ack_wait_s * SECOND_NS),
        "max_deliver": -1,
        "max_ack_pending": 1000,
    }


@dataclass(frozen=True, slots=True)
class Copies:
    """How many copies there shall be, in how much storage (-1 for no bound).

    Attributes:
        made_with: of what is made.
        asked: of what is found; None leaves it as it is.
    """

    granted: int
    made_with: int
    asked: int | None
    clustered: bool

    def bound(self, share: float) -> dict[str, int]:
        """What one copy may hold, where there is a bound.

        The storage of an account in a cluster is that of all servers together. There are three at the least, and every
        one of them must have room for every stream, however many copies there are now.
        """
        parts = max(self.made_with, 3 if self.clustered else 1)
        return {"max_bytes": int(self.granted * share / parts)} if self.granted > 0 and share > 0 else {}

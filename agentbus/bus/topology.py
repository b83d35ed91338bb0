"""Defines the streams, buckets and consumers that agentbus needs, as data; `agentbus.bus.setup` makes them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from agentbus.bus.wanted.ledgers import Ledgers
from agentbus.bus.wanted.retention import DEFAULT, DUPLICATE_WINDOW_DAYS, NOT_ASKED, Keep, Retention
from agentbus.protocol import subjects
from agentbus.protocol.audit import names as audit
from agentbus.protocol.parties import agent_control

SECOND_NS: Final = 1_000_000_000
_DAY: Final = 86_400 * SECOND_NS
ACK_WAIT_S: Final = 30
"""The lease of a running task, which the worker renews after each third."""
MAX_ACK_PENDING: Final = 1000
"""How many tasks of an agent may be in work, for each of its two consumers, unless set-up is told otherwise."""
PRESENCE_TTL_S: Final = 90
"""How long a worker is listed after its last heartbeat: three heartbeats, so that two may get lost."""


_NO_IDS: Final = SECOND_NS
"""The duplicate window of streams that need none: the server would remember each id, which takes a kilobyte."""
_READ_BY_PARTIES: Final[dict[str, Any]] = {
    # The consumers of readers live for seconds. The server removes an abandoned one after this time.
    "consumer_limits": {"inactive_threshold": 300 * SECOND_NS},
    # The default is 1000: a party that creates that many would lock out every reader.
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
"""Settings of a stream that must be off unless it is wanted with them. With them a publisher, or the server by itself,
can move, delete, schedule or copy messages beyond the subjects that the publisher may use. Servers leave out settings
that they do not know."""


@dataclass(frozen=True, slots=True)
class SubjectBound:
    """How many messages one subject may hold, in a stream whose subjects each belong to one writer.

    The server counts the messages of a subject, not their bytes. So the number is a part of the bytes of the stream,
    divided by a size of messages that is assumed. A writer of larger ones can take more than that part.

    Attributes:
        share: the part of the stream.
        message_bytes: the size that is assumed.
        refuses: the server refuses the next message; otherwise it deletes the oldest one of the subject.
    """

    share: float
    message_bytes: int
    refuses: bool


_OF_RESULTS: Final = SubjectBound(
    # It takes four writers at their bounds to fill the stream, so one or two leave room for the others.
    share=0.25,
    # A prompt, an answer of some paragraphs, and 1 KB around them. In the 2.5 GiB of a bus with the storage of `init`
    # this allows 163,840 results in 30 days: an agent with three slots and tasks of a minute makes 129,600.
    message_bytes=4 << 10,
    refuses=True,
)
_OF_DEAD_LETTERS: Final = SubjectBound(
    # Ten pairs of an agent and a publisher at their bounds fill the stream.
    share=0.1,
    # A task that was refused is rather one with a document in it. With the storage of `init`, 2,621 are kept of one
    # publisher: more with one cause than a person looks at.
    message_bytes=16 << 10,
    # A worker must be able to get rid of a message that it cannot accept.
    refuses=False,
)
_OF_LINES: Final = SubjectBound(
    # Ten pairs of an agent and a party at their bounds fill the stream.
    share=0.1,
    # Twice what a line of agentbus takes. With the storage of `init`, this keeps 31,457 tasks of one party for one
    # agent: fourteen an hour over the 90 days of a line, or three a minute over seven days.
    message_bytes=1 << 10,
    refuses=False,
)
_LEAST_OF_ENTRY: Final = 512
"""What an entry takes at least, about: one of a task that waits takes 0.4 KB, and a settled one 1.2 KB. A party that
writes only small ones fills its ledger by their number, as each takes some memory of the server."""
_MOST_AGENTS: Final = 10_000
"""Of which operators can ask something at the same time: each party has an account, and a server has far fewer."""
_UNLIMITED: Final = 100 << 30
"""The storage that bounds are computed from where none is granted: ten times what `agentbus init` grants."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A stream or bucket that set-up makes.

    Attributes:
        share: the part that it gets of the account's storage, where that is limited.
        subject_bound: what one subject of it may hold.
        asked: the fields that the caller of set-up asked for, which are changed in an existing one as well.
        message_bytes: the size of messages that bounds their number by the bytes that it may hold; 0 for no such bound.
        gives_way: one that exists is lowered to its share, as far as it is not used, because others need the room.
    """

    kind: Literal["stream", "bucket"]
    config: dict[str, Any]
    share: float = 0.0
    subject_bound: SubjectBound | None = None
    asked: tuple[str, ...] = ()
    message_bytes: int = 0
    gives_way: bool = False

    @property
    def name(self) -> str:
        """The name of the stream."""
        return self.config["name"]

    def bounded(self, max_bytes: int) -> dict[str, Any]:
        """Return the fields that bound its messages and subjects, if it may hold `max_bytes` (-1: no limit)."""
        room = max_bytes if max_bytes > 0 else _UNLIMITED * self.share
        if self.message_bytes:
            return {"max_msgs": max(1, int(room / self.message_bytes))}
        if (bound := self.subject_bound) is None:
            return {}
        room *= bound.share
        # In this order: the server takes the second only where there is the first, also one by one.
        refuses = {"discard_new_per_subject": True} if bound.refuses else {}
        return {"max_msgs_per_subject": max(1, int(room / bound.message_bytes)), **refuses}


def _stream(
    name: str,
    *subject_filters: str,
    max_age: int,
    share: float,
    subject_bound: SubjectBound | None = None,
    asked: tuple[str, ...] = (),
    **more: Any,
) -> Wanted:
    return Wanted("stream", {**_base(name, [*subject_filters], max_age), **more}, share, subject_bound, asked)


def _audit() -> Iterator[Wanted]:
    """The streams of the audit. A full one must not stop work: the oldest line goes."""
    for name, filters, share in (
        (audit.STREAM, audit.PUBLISHED, 0.03),
        (audit.SAID_STREAM, (audit.SAID_BY_PARTY,), 0.01),
    ):
        yield _stream(
            name,
            *filters,
            max_age=90 * _DAY,
            share=share,
            subject_bound=_OF_LINES,
            discard="old",
            max_msg_size=audit.MAX_LINE_BYTES,
            duplicate_window=_NO_IDS,
            deny_delete=True,
            deny_purge=True,
            **_READ_BY_PARTIES,
        )


def _bucket(
    name: str, subject_filters: list[str], *, max_age: int, share: float, asked: tuple[str, ...] = (), **more: Any
) -> Wanted:
    # Buckets that nats tools create allow rollup headers, with which a user of one key can empty the whole bucket.
    denied = {"deny_delete": True, "deny_purge": True, "allow_rollup_hdrs": False}
    return Wanted("bucket", {**_base(name, subject_filters, max_age), **denied, **more}, share, asked=asked)


def _base(name: str, subject_filters: list[str], max_age: int) -> dict[str, Any]:
    return {
        "name": name,
        "subjects": subject_filters,
        "retention": "limits",
        "storage": "file",
        "max_age": max_age,
        "max_bytes": -1,
        # A full stream refuses the next message; with "old" it would silently drop the oldest.
        "discard": "new",
        "allow_direct": True,
    }


# The ledger and the results get what is left by the others, in the proportion of what they hold of tasks with 4 KiB of
# content and output: 38 days of entries with 1.2 KB around it, and 30 days of results with 0.7 KB. So neither is full
# long before the other. Smaller tasks fill the ledger first, larger ones the results.
_SHARE_OF_RESULTS: Final = 0.25
_SHARE_OF_LEDGER: Final = 0.35


def wanted_streams(
    *,
    attested: bool = False,
    retention: Retention = DEFAULT,
    keep: Keep = NOT_ASKED,
    ledgers: Ledgers | None = None,
) -> list[Wanted]:
    """The streams and buckets that every bus has.

    Args:
        ledgers: the parties that have a ledger of their own; None for one ledger of all.
        retention: how long results and states are kept.
        keep: what the caller of set-up asked for of that.
        attested: the server stores a result under a subject that names its writer, so that a bound of the subject
            bounds one writer. Elsewhere all writers share the subject of an inbox. A bound would then stop all of them
            for what one did, and hold no hostile one, so there is none.
    """
    return [
        _stream(
            subjects.TASKS_STREAM,
            subjects.TASK_SUBJECTS,
            subjects.ATTESTED_TASK_SUBJECTS,
            max_age=7 * _DAY,
            share=0.15,
            retention="workqueue",
            duplicate_window=_DAY,
            republish=audit.REPUBLISH,
        ),
        # The duplicate window is longer than a task can live, so that no redelivery can store a result twice.
        _stream(
            subjects.RESULTS_STREAM,
            subjects.RESULT_SUBJECTS,
            subjects.ATTESTED_RESULT_SUBJECTS,
            max_age=retention.results_ns,
            share=_SHARE_OF_RESULTS,
            subject_bound=_OF_RESULTS if attested else None,
            asked=_of_age(keep.results_days),
            duplicate_window=DUPLICATE_WINDOW_DAYS * _DAY,
            **_READ_BY_PARTIES,
        ),
        _dead_letters(),
        *_audit(),
        *_ledger(ledgers, retention, keep),
        _bucket(
            subjects.REGISTRY_STREAM,
            [subjects.REGISTRY_SUBJECTS],
            max_age=PRESENCE_TTL_S * SECOND_NS,
            share=0.01,
            max_msgs_per_subject=1,
            duplicate_window=_NO_IDS,
            **_READ_BY_PARTIES,
        ),
        _control(),
    ]


def _ledger(ledgers: Ledgers | None, retention: Retention, keep: Keep) -> Iterator[Wanted]:
    """The ledger, which keeps an entry longer than the result of its task is kept; or that of each party."""

    def made(name: str, keys: str, share: float) -> Wanted:
        return _bucket(
            name,
            [keys],
            max_age=retention.states_ns,
            share=share,
            asked=_of_age(keep.states_days),
            max_msgs_per_subject=1,
            duplicate_window=_NO_IDS,
            **_READ_BY_PARTIES,
        )

    if ledgers is None:
        yield made(subjects.STATE_STREAM, subjects.STATE_SUBJECTS, _SHARE_OF_LEDGER)
        return
    for name, keys, share in ledgers.parts:
        yield replace(made(name, keys, share), message_bytes=_LEAST_OF_ENTRY, gives_way=ledgers.more)


def _control() -> Wanted:
    """What operators ask of agents, which holds until they take it back.

    It is bounded by the number of its keys and takes what it has of the rest of the storage: a share would be room that
    nothing uses, and on a bus whose queue moves into an account of its own there is none left.
    """
    return _bucket(
        agent_control.STREAM,
        [agent_control.KEYS],
        max_age=0,
        share=0.0,
        max_msgs_per_subject=1,
        max_msgs=_MOST_AGENTS,
        max_msg_size=agent_control.MAX_ENTRY_BYTES,
        duplicate_window=_NO_IDS,
        **_READ_BY_PARTIES,
    )


def _dead_letters() -> Wanted:
    return _stream(
        subjects.DEAD_STREAM,
        subjects.DEAD_SUBJECTS,
        subjects.ATTESTED_DEAD_SUBJECTS,
        max_age=30 * _DAY,
        share=0.04,
        subject_bound=_OF_DEAD_LETTERS,
        # The server remembers the ids of messages that went, too: with a longer window, a worker that pushes out its
        # own letters could make it remember any number. A letter that is stored twice is shown once.
        duplicate_window=_NO_IDS,
    )


def _of_age(asked_days: int | None) -> tuple[str, ...]:
    return () if asked_days is None else ("max_age",)


def wanted_files(
    agent: str, limit: int | None = None, *, retention: Retention = DEFAULT, keep: Keep = NOT_ASKED
) -> Wanted:
    """The object store of one agent; `limit` is the most bytes that it may hold. The other arguments: see above."""
    bucket = subjects.files_bucket(agent)
    bound = {} if limit is None else {"max_bytes": limit}
    return _bucket(
        subjects.files_stream(agent),
        [f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"],
        max_age=retention.states_ns,
        share=0.0,
        asked=(*_of_age(keep.states_days), *bound),
        **_READ_BY_PARTIES,
        **bound,
    )


def consumer_config(
    agent: str,
    name: str,
    *,
    of_parties: bool = False,
    ack_wait_s: float = ACK_WAIT_S,
    max_ack_pending: int = MAX_ACK_PENDING,
) -> dict[str, Any]:
    """A durable consumer that the workers of `agent` share. It holds their delivery progress, so it never expires.

    Args:
        of_parties: it takes the tasks of the second form. Each form has a consumer of its own: one with two filters
            counts wrongly on servers 2.10, and workers of earlier versions must not get tasks that they misread.
    """
    return {
        "durable_name": name,
        "filter_subject": subjects.tasks_of(agent, "*") if of_parties else subjects.tasks(agent),
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(ack_wait_s * SECOND_NS),
        "max_deliver": -1,
        "max_ack_pending": max_ack_pending,
    }


def wanted_consumers(agent: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The durable consumers of an agent: for the first form of its tasks, and for the second."""
    return (
        consumer_config(agent, subjects.durable(agent)),
        consumer_config(agent, subjects.durable_of_parties(agent), of_parties=True),
    )


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """How many replicas set-up wants, and the storage for them.

    Attributes:
        granted_bytes: the storage of the account; -1 for no limit.
        for_new: the replicas of a stream that set-up creates.
        for_existing: the replicas of a stream that exists; None leaves them as they are.
        shares_anew: a stream that exists gets its share, too.
    """

    granted_bytes: int
    for_new: int
    for_existing: int | None
    clustered: bool
    shares_anew: bool = False

    def bound(self, share: float) -> dict[str, int]:
        """Compute `max_bytes` of a stream with this share; empty where the account has no limit.

        The storage of an account in a cluster counts all its servers, which are three or more. Each server must have
        room for every stream, even if there are fewer replicas now.
        """
        parts = max(self.for_new, 3 if self.clustered else 1)
        return {"max_bytes": int(self.granted_bytes * share / parts)} if self.granted_bytes > 0 and share > 0 else {}

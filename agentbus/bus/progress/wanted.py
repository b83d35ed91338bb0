"""Defines the stream that keeps what the runs of an agent tell, as data; `agentbus.bus.progress.streams` makes it."""

from typing import Any, Final

from agentbus.protocol.progress import names
from agentbus.protocol.progress.events import MAX_STORED_BYTES

_SECOND_NS: Final = 1_000_000_000
KEPT_DAYS: Final = 3
MOST_BYTES: Final = 8 << 20
"""Of one agent: four tasks at their bounds, or hundreds of agents that think and use tools."""
LEAST_BYTES: Final = 256 << 10
"""Below this, hardly more than the last minutes of one task are kept."""
_SHARE: Final = 0.04
"""The part of the account's storage that the streams of all agents may take."""
MESSAGES_OF_TASK: Final = 500
WRITES_LATER: Final = {"persist_mode": "async"}
"""What these streams are made with on servers that know it, from 2.12 on: no message is synced to the disk by itself.

On others each message is, where the server syncs always, so that a run that talks costs two syncs a second.
"""


def progress_config(agent: str) -> dict[str, Any]:
    """The configuration of the stream of one agent, without its size.

    It is on disk, because a server alone forgets a stream in memory when it is restarted, and no party but the
    administrator may make it again. It has one replica, also in a cluster: it is worth no more.
    """
    return {
        "name": names.stream(agent),
        "subjects": [names.of_agent(agent)],
        "retention": "limits",
        "storage": "file",
        "num_replicas": 1,
        "max_age": KEPT_DAYS * 86_400 * _SECOND_NS,
        "max_msgs_per_subject": MESSAGES_OF_TASK,
        "max_msg_size": MAX_STORED_BYTES,
        # What is told must never wait for room: the oldest goes.
        "discard": "old",
        "duplicate_window": _SECOND_NS,
        "allow_direct": True,
        "deny_delete": True,
        "deny_purge": True,
        "consumer_limits": {"inactive_threshold": 300 * _SECOND_NS},
        "max_consumers": 100_000,
    }


def size_for(agents: int, granted_bytes: int) -> int:
    """Return how many bytes the stream of each of so many agents may hold; `granted_bytes`: -1 for no limit.

    It is a power of two, so that one more agent hardly ever changes the streams of the others.
    """
    if granted_bytes <= 0:
        return MOST_BYTES
    size = MOST_BYTES
    while size > LEAST_BYTES and size * agents > granted_bytes * _SHARE:
        size //= 2
    return size

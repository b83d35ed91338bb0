"""Defines the bucket of what tasks bring to an agent, as data; `agentbus.bus.inputs.buckets` makes it."""

from typing import Any, Final

from agentbus.protocol.work import input_names

_SECOND_NS: Final = 1_000_000_000
KEPT_DAYS: Final = 14
"""A task waits for a worker for up to seven days; a week more lets it be retried with its files."""
MOST_BYTES: Final = 1 << 30
"""Of one agent: four tasks at the bound of what one may bring."""
LEAST_BYTES: Final = 1 << 20
_SHARE: Final = 0.04
"""The part of the account's storage that the buckets of all agents may take: the other streams have 88 %."""


def inputs_config(agent: str) -> dict[str, Any]:
    """The configuration of the bucket of one agent, without its size and its replicas.

    Any coordinator that may give tasks to the agent writes it, so it has a bound of its own. A full one refuses: the
    oldest files may be those of tasks that still wait.
    """
    bucket = input_names.bucket(agent)
    return {
        "name": input_names.stream(agent),
        "subjects": [f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"],
        "retention": "limits",
        "storage": "file",
        "max_age": KEPT_DAYS * 86_400 * _SECOND_NS,
        "discard": "new",
        # A chunk is stored again within half a minute, where its answer was lost.
        "duplicate_window": 120 * _SECOND_NS,
        "allow_direct": True,
        "deny_delete": True,
        "deny_purge": True,
        "allow_rollup_hdrs": False,
    }


def size_for(agents: int, granted_bytes: int) -> int:
    """Return how many bytes the bucket of each of so many agents may hold; `granted_bytes`: -1 for no limit.

    It is a power of two, so that one more agent hardly ever changes the buckets of the others.
    """
    size = MOST_BYTES
    while granted_bytes > 0 and size > LEAST_BYTES and size * agents > granted_bytes * _SHARE:
        size //= 2
    return size

"""The JetStream accounts of a bus, and which of them a subject lies in.

The queue has an account of its own. A party that may create a consumer lets the server deliver messages to any subject
of the account that the stream lies in: also to the API of JetStream there, as a request in the party's place. So no
party may create a consumer in the account of the queue, and what parties read by consumers lies in the other one.
"""

import re
from typing import Final, Literal

from agentbus.protocol import subjects

Account = Literal["TASKS", "BUS"]

TASKS: Final = "TASKS"
"""Holds the stream of tasks with the durable consumers of the workers."""
BUS: Final = "BUS"
"""Holds the ledger, the results, the dead letters, the registry and the files."""

LAYOUT_WITH_QUEUE_APART: Final = 2
"""The layout of a bus whose queue has an account of its own; in layout 1, all streams lie in one account."""
LAYOUT_WITH_AUDIT: Final = 3
"""The layout in which the queue tells the account of the other streams what was published."""
LAYOUT_WITH_WHOLE_LEDGER: Final = 4
"""The layout in which who may read the whole ledger may do so without a filter, for which the server looks at all."""
LAYOUT_WITH_LEDGERS_APART: Final = 6
"""The layout in which each party has a ledger of its own, so that no other one waits when it is full."""

LAYOUT_WITH_CONTROL: Final = 5
"""The layout in which operators pause agents, by a bucket that the workers of an agent read, and in which a stream for
each agent keeps what its runs do."""
LAYOUT_WITH_PLACES: Final = 7
"""The layout in which workers may read which places of their agent are alive. 6 was given to another change."""

LAYOUT_WITH_INPUTS: Final = 8
"""The layout in which tasks bring files: coordinators write a bucket for each agent, which its workers read."""

_OF_QUEUE = re.compile(
    r"""
      \$JS\.API\.(?:STREAM|CONSUMER|DIRECT)\.(?:MSG\.)?[A-Z]+\.{stream}(?:\.|$)
    | \$JS\.SNAPSHOT\.[A-Z]+\.{stream}\.
    | \$JS\.ACK\.(?:[^.]+\.[^.]+\.)?{stream}\.          # newer servers put the domain and the account before it
    | agent\.[^.]+\.tasks(?:\.[^.]+)?$
    """.replace("{stream}", subjects.TASKS_STREAM),
    re.VERBOSE,
)


def account_of(subject: str) -> Account:
    """The account that a subject lies in; `subject` may hold wildcards in place of ids."""
    return TASKS if _OF_QUEUE.match(subject) else BUS


def account_of_stream(stream: str) -> Account:
    """The account that a stream lies in."""
    return TASKS if stream == subjects.TASKS_STREAM else BUS


def covers(wide: str, narrow: str) -> bool:
    """Whether every subject that `narrow` matches is matched by `wide` (both may hold wildcards)."""
    outer, inner = wide.split("."), narrow.split(".")
    for position, part in enumerate(outer):
        if part == ">":
            return len(inner) > position
        if position >= len(inner) or inner[position] == ">" or part not in ("*", inner[position]):
            return False
    return len(outer) == len(inner)

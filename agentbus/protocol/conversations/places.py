"""Where the sessions of an agent are: the id of such a place, and the mark in the registry that says it is alive.

A worker may not read who is alive, but it may read these marks: they say that some worker of the place has lived within
the last 90 seconds, and nothing else.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

from agentbus.protocol.subjects import REGISTRY_BUCKET, REGISTRY_STREAM, last_of

STREAM: Final = REGISTRY_STREAM
HOME_VARIABLES: Final = (
    "HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME", "QWEN_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME",
    "XDG_STATE_HOME",
)  # fmt: skip
"""What says where agents keep their sessions."""


def place_id(machine: str, user: str, bus: str, agent: str, state_dir: str, environment: Mapping[str, str]) -> str:
    """Return the id of a place, which tells nothing of what it is made from.

    Its first part is that of the machine, its second that of the agent's home there: if only the second is another one,
    the sessions of the place are gone for good.
    """
    where = _digest([machine, user, bus, agent, state_dir])[:16]
    home = _digest([f"{name}={environment.get(name, '')}" for name in HOME_VARIABLES])[:8]
    return f"{where}-{home}"


def has_moved(place: str, here: str) -> bool:
    """Whether a place was here, and the home of its agent is another one by now."""
    return place != here and place.partition("-")[0] == here.partition("-")[0]


def mark(agent: str, place: str) -> str:
    """The key that the living workers of a place write, as a subject; no worker process can have such a key."""
    return f"$KV.{REGISTRY_BUCKET}.{agent}.place.{place}"


def reading(agent: str) -> tuple[str, ...]:
    """Where the workers of an agent read all such keys of it."""
    return (last_of(STREAM, mark(agent, "*")),)


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()

"""Where operators ask something of the workers of an agent: one key for each, in a bucket that forgets nothing."""

from typing import Final

from agentbus.protocol.subjects import is_agent_id

BUCKET: Final = "AGENT_CONTROL"
STREAM: Final = f"KV_{BUCKET}"
KEYS: Final = f"$KV.{BUCKET}.>"
MAX_ENTRY_BYTES: Final = 4 << 10


def key(agent: str) -> str:
    """The key of one agent, as the subject that its changes are published on."""
    return f"$KV.{BUCKET}.{agent}"


def agent_of_key(subject: str) -> str | None:
    """The agent whose key a subject is; None if it is none."""
    agent = subject.removeprefix(key(""))
    return agent if agent != subject and is_agent_id(agent) else None

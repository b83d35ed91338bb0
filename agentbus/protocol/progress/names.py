"""Names of the progress streams: each agent has one, with a subject for each of its tasks."""

from typing import Final

from agentbus.protocol import subjects
from agentbus.protocol.subjects import TaskKey

_PREFIX: Final = "AGENT_PROGRESS_"


def stream(agent: str) -> str:
    """The stream that keeps what the runs of an agent tell."""
    return f"{_PREFIX}{agent}"


def agent_of_stream(name: str) -> str | None:
    """The agent whose progress stream has this name; None if it is another stream."""
    agent = name.removeprefix(_PREFIX)
    return agent if agent != name and subjects.is_agent_id(agent) and subjects.agent_id(agent) == agent else None


def of_task(key: TaskKey) -> str:
    """Where the runs of one task tell what they do."""
    return f"agent.{key.agent}.progress.{subjects.owned(key.owner)}{key.id}"


def of_agent(agent: str, owner: str | None = None) -> str:
    """The same for all tasks of an agent, or for those of one named owner: all that a member may read."""
    return f"agent.{agent}.progress.{subjects.owned(owner) if owner is not None else ''}>"

"""The URIs of the resources."""

import re
from typing import Final, NamedTuple

from agentbus.protocol import subjects

AGENTS: Final = "agentbus://agents"
INBOX: Final = "agentbus://agents/{agent}/results"
TASK: Final = "agentbus://tasks/{task_id}"
STREAM: Final = "agentbus://streams/{stream}"

_PARTS: Final = re.compile(r"agentbus://(?P<kind>agents|tasks|streams)(?:/(?P<name>[^/]+)(?P<rest>/results)?)?")


class ResourceId(NamedTuple):
    """What a URI names: `agents`, or an `inbox`, a `task` or a `stream` with its name."""

    kind: str
    name: str = ""


def inbox(agent: str) -> str:
    """The URI of an agent's result inbox."""
    return INBOX.replace("{agent}", agent)


def stream(name: str) -> str:
    """The URI of a stream."""
    return STREAM.replace("{stream}", name)


def parse(uri: str) -> ResourceId | None:
    """What a URI names; None if it is no resource of this server."""
    found = _PARTS.fullmatch(uri)
    if found is None:
        return None
    kind, name, rest = found["kind"], found["name"], found["rest"]
    if kind == "agents" and name is None:
        return ResourceId("agents")
    if kind == "agents" and rest and subjects.is_agent_id(name):
        return ResourceId("inbox", subjects.agent_id(name))
    if kind == "tasks" and name and not rest and subjects.is_task_id(name):
        return ResourceId("task", name)
    if kind == "streams" and not rest and name in (subjects.TASKS_STREAM, subjects.RESULTS_STREAM):
        return ResourceId("stream", name)
    return None

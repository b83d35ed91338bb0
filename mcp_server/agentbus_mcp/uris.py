"""Builds and parses the URIs of the resources."""

import re
from typing import Final, NamedTuple

from agentbus.protocol import subjects
from agentbus.protocol.task_names import TaskName, is_task_name, task_name

AGENTS: Final = "agentbus://agents"
INBOX: Final = "agentbus://agents/{agent}/results"
TASK: Final = "agentbus://tasks/{agent}/{task_id}"
TASK_OF_OWNER: Final = "agentbus://tasks/{agent}/~{owner}/{task_id}"
TASK_BY_ID: Final = "agentbus://tasks/{task_id}"
FILE: Final = "agentbus://tasks/{agent}/{task_id}/files/{name}"
FILE_OF_OWNER: Final = "agentbus://tasks/{agent}/~{owner}/{task_id}/files/{name}"
FILE_BY_ID: Final = "agentbus://tasks/{task_id}/files/{name}"
"""A `/` in the name of a file is `%2F` in these."""
STREAM: Final = "agentbus://streams/{stream}"
QUESTIONS: Final = "agentbus://questions"

_PARTS: Final = re.compile(
    r"agentbus://(?P<kind>agents|tasks|streams|questions)(?:/(?P<name>[^/]+)(?:/(?P<rest>(?:~[^/]+/)?[^/]+))?)?"
)


class ResourceId(NamedTuple):
    """A kind of resource: `agents`, `questions`, or an `inbox`, a `task` or a `stream` with its name.

    Tasks have their agent and owner in the name where the URI has them: `code/job-1`, `code/~alice/job-1`.
    """

    kind: str
    name: str = ""


def inbox(agent: str) -> str:
    """The URI of an agent's result inbox."""
    return INBOX.replace("{agent}", agent)


def task(name: TaskName) -> str:
    """The URI of a task."""
    return TASK_BY_ID.replace("{task_id}", str(name))


def stream(name: str) -> str:
    """The URI of a stream."""
    return STREAM.replace("{stream}", name)


def parse(uri: str) -> ResourceId | None:
    """Parse a URI; None if it names no resource of this server."""
    found = _PARTS.fullmatch(uri)
    if found is None:
        return None
    match found["kind"], found["name"], found["rest"]:
        case "agents", None, None:
            return ResourceId("agents")
        case "questions", None, None:
            return ResourceId("questions")
        case "agents", str(agent), "results" if subjects.is_agent_id(agent):
            return ResourceId("inbox", subjects.agent_id(agent))
        case "tasks", str(task_id), None if subjects.is_task_id(task_id):
            return ResourceId("task", task_id)
        case "tasks", str(agent), str(rest) if is_task_name(f"{agent}/{rest}"):
            return ResourceId("task", str(task_name(f"{agent}/{rest}")))
        case "streams", (subjects.TASKS_STREAM | subjects.RESULTS_STREAM) as name, None:
            return ResourceId("stream", name)
        case _:
            return None

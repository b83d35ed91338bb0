"""Names that people try for a command because another program has them, and what they meant.

Where the command is one that changes something, a guess does not run it: it is named.
"""

from collections.abc import Mapping
from typing import Final

_TASK: Final = {
    name: f"It is `agentbus task {meant}`."
    for name, meant in {
        "answer": "answer",
        "cancel": "cancel",
        "get": "get ID",
        "list": "list",
        "ls": "list",
        "publish": "publish",
        "retry": "retry",
        "show": "get ID",
        "submit": "publish",
        "wait": "wait",
    }.items()
}
_SEE_LOG: Final = "Its log is in ~/.agentbus/logs, on its machine; what a task does shows `agentbus task logs -f ID`."
_END_WORKER: Final = (
    "On its machine, Ctrl-C or SIGTERM ends a worker, and `agentbus service uninstall ID` its service; "
    "from here, `agentbus agent pause ID` has it take no tasks."
)
_GUESSED: Final[Mapping[str, Mapping[str, str]]] = {
    "agentbus": {
        **_TASK,
        "agents": "It is `agentbus agent list`.",
        "approve": "It is `agentbus question answer ID --approve`.",
        "deny": "It is `agentbus question answer ID --deny`.",
        "down": "`agentbus up` runs in the foreground: Ctrl-C where it runs, or SIGTERM, stops the bus.",
        "events": "It is `agentbus watch`.",
        "join": "It is `agentbus worker init --bundle FILE` or `agentbus coordinator init --bundle FILE`.",
        "log": "It is `agentbus task logs ID`, with -f to follow; the log of a worker is in ~/.agentbus/logs.",
        "logs": "It is `agentbus task logs ID`, with -f to follow; the log of a worker is in ~/.agentbus/logs.",
        "pause": "It is `agentbus agent pause ID`.",
        "ps": "See `agentbus status`, `agentbus worker list` and `agentbus task list`.",
        "questions": "It is `agentbus question list`.",
        "results": "It is `agentbus result get`.",
        "resume": "It is `agentbus agent resume ID`.",
        "start": "`agentbus up` runs a bus here, `agentbus worker run` a worker.",
        "stop": "`agentbus task cancel --all` ends all tasks, `agentbus agent pause ID` has an agent take no more.",
        "tasks": "It is `agentbus task list`.",
        "token": "It is `agentbus mcp token`.",
        "workers": "It is `agentbus worker list`.",
    },
    "agentbus agent": {
        "get": "See `agentbus agent list --agent ID` and `agentbus worker list --agent ID`.",
        "ls": "It is `agentbus agent list`.",
        "show": "See `agentbus agent list --agent ID` and `agentbus worker list --agent ID`.",
        "start": "`agentbus worker run` starts a worker; `agentbus agent resume ID` ends a pause.",
        "stop": "It is `agentbus agent pause ID`; `agentbus task cancel --agent ID` ends its tasks.",
    },
    "agentbus task": {
        "create": "It is `agentbus task publish`.",
        "delete": "It is `agentbus task cancel`.",
        "diff": "It is `agentbus work diff ID`.",
        "log": "It is `agentbus task logs ID`.",
        "ls": "It is `agentbus task list`.",
        "result": "It is `agentbus result get ID`.",
        "run": "It is `agentbus run AGENT CONTENT`.",
        "status": "It is `agentbus task get ID`.",
        "stop": "It is `agentbus task cancel ID`.",
        "submit": "It is `agentbus task publish`.",
        "tail": "It is `agentbus task logs -f ID`.",
        "watch": "It is `agentbus task logs -f ID`, or `agentbus task wait ID` for the result. All: `agentbus watch`.",
    },
    "agentbus worker": {
        "log": _SEE_LOG,
        "logs": _SEE_LOG,
        "ls": "It is `agentbus worker list`.",
        "ps": "It is `agentbus worker list`.",
        "show": "It is `agentbus worker list`.",
        "start": "It is `agentbus worker run`, or `agentbus service install` for one that stays.",
        "status": "It is `agentbus worker list`; `agentbus service status` shows the services of this machine.",
        "stop": _END_WORKER,
    },
}


def meant_by(group: str, name: str) -> str | None:
    """Return a sentence that names what a person meant by a command that there is not; None if it is not known.

    Args:
        group: the words before it, such as `agentbus task`.
    """
    return _GUESSED.get(group, {}).get(name)

"""What a worker tells the driver of an agent, on standard input: the prompt, the session, what is permitted.

It imports little, as all of this folder: it is a process of its own for each run.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

START_S: Final = 120.0
"""How long an agent may take for each step before the prompt: to start with Node on a busy machine takes half a minute,
and it starts MCP servers meanwhile."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What to do.

    Attributes:
        session: an earlier session, to go on with; None for a new one.
        mode: the mode that the session gets; empty for that in which the agent starts.
        permissions: what is answered when the agent asks: `ask` waits for a person.
        mcp_servers: for the session, as the protocol has them.
        answers: a FIFO from which answers to questions are read, one line of JSON each.
        question_wait_s: for how long a question is open; then it is denied.
        start_s: how long each step before the prompt may take.
    """

    prompt: str
    session: str | None = None
    mode: str = ""
    permissions: Literal["deny", "allow", "ask"] = "deny"
    mcp_servers: Sequence[dict[str, Any]] = ()
    answers: str | None = None
    question_wait_s: float = 3600.0
    start_s: float = START_S

    def to_bytes(self) -> bytes:
        """Return it as the driver reads it."""
        return json.dumps(asdict(self), ensure_ascii=False).encode(errors="replace")


def assignment_in(data: bytes) -> Assignment:
    """Read an assignment, which is the worker's own."""
    return Assignment(**json.loads(data))

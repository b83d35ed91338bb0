"""Tells the audit what only a client can tell: that its party cancelled or retried a task, or paused an agent."""

from contextlib import suppress

from agentbus.bus.jetstream import Bus
from agentbus.errors import BusError
from agentbus.protocol.audit import names as audit
from agentbus.protocol.audit.lines import said_body
from agentbus.protocol.subjects import TaskKey


async def note(
    bus: Bus, verb: audit.Verb, key: TaskKey | str | None, *, by: str, detail: str = "", inside: bool = False
) -> None:
    """Send a line to the audit. Nothing waits for it and nothing fails with it: a full audit must not stop work.

    Args:
        key: the task, or the agent, that `by` did something with.
        detail: the id of a new task, the decision, or the reason of a pause; never the content of a task.
        inside: the user is inside the account of the streams, as an administrator's is: the server adds no id there.
    """
    subject = audit.said(verb)
    with suppress(BusError):
        await bus.publish(audit.said_by(by, subject) if inside else subject, said_body(by, key, detail))

"""Traces across the bus: W3C trace context in the headers of messages, and in the environment of agent commands.

Spans are made through OpenTelemetry's API; a program that wants them brings the SDK. Nothing of it is imported until a
message carries a trace, or this process has imported the API itself: until then each function here is a look-up or two.
"""

import os
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agentbus.protocol.outcomes.run_report import Run

ENVIRONMENT: Final = frozenset({"TRACEPARENT", "TRACESTATE", "BAGGAGE"})
"""The variables by which a process hands its trace to its children."""

_API: Final = "opentelemetry.trace"
_NAMES: Final = ("traceparent", "tracestate")
_PARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,100})?")
_MEMBER: Final = re.compile(
    r"([a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)
_STATE_CHARS: Final = 512
_STATE_MEMBERS: Final = 32


def carried(headers: Mapping[str, str]) -> dict[str, str]:
    """The trace context that headers carry, if it is one: what comes over the bus is untrusted.

    A `traceparent` that is none is ignored, with what follows it; a `tracestate` that is none, or longer than 512
    characters, is left out. Names are taken as W3C writes them and as Go's libraries do.
    """
    parent = headers.get("traceparent") or headers.get("Traceparent")
    if not parent or not _PARENT.fullmatch(parent):
        return {}
    state = headers.get("tracestate") or headers.get("Tracestate")
    return {"traceparent": parent, "tracestate": state} if state and _is_state(state) else {"traceparent": parent}


def _is_state(text: str) -> bool:
    members = [stripped for member in text.split(",") if (stripped := member.strip(" \t"))]
    return (
        len(text) <= _STATE_CHARS
        and len(members) <= _STATE_MEMBERS
        and all(_MEMBER.fullmatch(member) for member in members)
    )


def headers() -> dict[str, str]:
    """What a message carries that is sent now: the current span, if there is one.

    Baggage is not passed on: it holds what a program has put there for its own services, which may be a secret.
    """
    if _API not in sys.modules:
        return {}
    from agentbus.observability import spans

    return {name: value for name, value in spans.headers().items() if name in _NAMES and len(value) <= _STATE_CHARS}


def environment() -> dict[str, str]:
    """The same for a process that is started now."""
    return {name.upper(): value for name, value in headers().items()}


def trace_id() -> str | None:
    """The trace of the current span, in 32 hexadecimal digits, if there is one."""
    parent = headers().get("traceparent")
    return parent.split("-")[1] if parent else None


def publishing(agent: str, task_id: str, size: int) -> AbstractContextManager[None]:
    """A span around the publication of a task of `size` bytes, for the length of the block.

    Its parent is the current span, else the one that started this process and told it so in the environment.
    """
    started_by = carried(_of_this_process()) if "TRACEPARENT" in os.environ else {}
    if not started_by and _API not in sys.modules:
        return nullcontext()
    from agentbus.observability import spans

    return spans.publishing(started_by, agent, task_id, size)


def _of_this_process() -> dict[str, str]:
    return {name: os.environ[name.upper()] for name in _NAMES if name.upper() in os.environ}


def processing(
    headers: Mapping[str, str], *, agent: str, task_id: str, worker: str, attempt: int
) -> AbstractContextManager[None]:
    """A span around one attempt of a task, in the trace that its message carries, for the length of the block."""
    parent = carried(headers)
    if not parent and _API not in sys.modules:
        return nullcontext()
    from agentbus.observability import spans

    return spans.consuming("process", parent, agent=agent, task_id=task_id, worker=worker, attempt=attempt)


def settling(headers: Mapping[str, str], *, agent: str, worker: str, task_id: str = "") -> AbstractContextManager[None]:
    """The same around what becomes of a message whose task is not run."""
    parent = carried(headers)
    if not parent and _API not in sys.modules:
        return nullcontext()
    from agentbus.observability import spans

    return spans.consuming("settle", parent, agent=agent, task_id=task_id, worker=worker)


def resumed(headers: Mapping[str, str]) -> AbstractContextManager[object]:
    """For the length of the block, the span that a message carries is the current one: its work is gone on with."""
    if not (other := carried(headers)):
        return nullcontext()
    from agentbus.observability import spans

    return spans.resumed(other)


def outcome(status: str, *, error: str | None = None, reason: str | None = None, exit_code: int | None = None) -> None:
    """Say in the current span what the attempt came to; `error` names the kind of failure, in few different words."""
    if _API not in sys.modules:
        return
    from agentbus.observability import spans

    spans.outcome(status, error, reason, exit_code)


def agent_run(agent: str, run: "Run") -> None:
    """Say in the current span what an agent says of its run: model, session, tokens, cost."""
    if _API not in sys.modules:
        return
    from agentbus.observability import spans

    spans.agent_run(agent, run)


def event(name: str, **attributes: str | float) -> None:
    """Note in the current span what happened now."""
    if _API not in sys.modules:
        return
    from agentbus.observability import spans

    spans.event(name, attributes)


def link(headers: Mapping[str, str]) -> None:
    """Link the current span to the one that a message carries: it has led to what is answered here."""
    if _API not in sys.modules or not (other := carried(headers)):
        return
    from agentbus.observability import spans

    spans.link(other)


def flush(timeout_s: float) -> None:
    """Have the SDK, if there is one, send what it has collected, for a process that ends without its usual exit."""
    if _API not in sys.modules:
        return
    from agentbus.observability import spans

    spans.flush(timeout_s)

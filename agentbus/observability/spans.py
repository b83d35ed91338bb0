"""The spans of agentbus, by OpenTelemetry's conventions for messaging. Used through `observability.tracing` only.

Without an SDK the API makes spans that record nothing and pass on the context of their parent.
"""

import threading
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Literal

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from agentbus.errors import AgentBusError
from agentbus.protocol import subjects
from agentbus.protocol.outcomes.run_report import MAX_NAME_CHARS, Run

_TRACER: Final = trace.get_tracer("agentbus")
# Not the propagator that the environment configures: both ends of a message must speak the same, and no one
# configures them together.
_W3C: Final = TraceContextTextMapPropagator()
_KINDS: Final = {"process": SpanKind.CONSUMER, "settle": SpanKind.CLIENT}


def headers() -> dict[str, str]:
    """The current span as W3C trace context; empty without one."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier


@contextmanager
def publishing(started_by: Mapping[str, str], agent: str, task_id: str, size: int) -> Generator[None]:
    """See `agentbus.observability.tracing.publishing`."""
    context = get_current()
    if not trace.get_current_span(context).get_span_context().is_valid:
        context = _W3C.extract(started_by, context)
    attributes = {**_about("publish", "send", agent, task_id), "messaging.message.body.size": size}
    name = f"publish {subjects.tasks(agent)}"
    with _TRACER.start_as_current_span(name, context, SpanKind.PRODUCER, attributes) as span:
        try:
            yield
        except AgentBusError as error:
            span.set_attribute("error.type", type(error).__name__)
            raise


@contextmanager
def consuming(
    operation: Literal["process", "settle"],
    parent: Mapping[str, str],
    *,
    agent: str,
    task_id: str,
    worker: str,
    attempt: int | None = None,
) -> Generator[None]:
    """See `agentbus.observability.tracing.processing` and `settling`."""
    attributes = {
        **_about(operation, operation, agent, task_id),
        "messaging.consumer.group.name": subjects.durable(agent),
        "messaging.client.id": worker,
        **({} if attempt is None else {"agentbus.task.attempt": attempt}),
    }
    # A task belongs to the trace of its publisher, and not to a span in which an operator may have started the worker.
    context = _W3C.extract(parent, Context())
    name = f"{operation} {subjects.tasks(agent)}"
    with _TRACER.start_as_current_span(name, context, _KINDS[operation], attributes):
        yield


def resumed(other: Mapping[str, str]) -> AbstractContextManager[object]:
    """See `agentbus.observability.tracing.resumed`."""
    return trace.use_span(trace.get_current_span(_W3C.extract(other, Context())))


def outcome(status: str, error: str | None, reason: str | None, exit_code: int | None) -> None:
    """See `agentbus.observability.tracing.outcome`."""
    span = trace.get_current_span()
    span.set_attribute("agentbus.task.status", status)
    if exit_code is not None:
        span.set_attribute("process.exit.code", exit_code)
    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(StatusCode.ERROR, reason)


def agent_run(agent: str, run: Run) -> None:
    """See `agentbus.observability.tracing.agent_run`. The names are those of OpenTelemetry's conventions for GenAI.

    They have none for a cost. The provider of the model is left out: no agent tells it.
    """
    usage = run.usage
    known: dict[str, str | int | float | None] = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": agent,
        "gen_ai.agent.version": run.version,
        "gen_ai.request.model": run.model,
        "gen_ai.conversation.id": run.session,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "agentbus.run.agent": run.kind,
        "agentbus.run.turns": run.turns,
        "agentbus.run.cost_usd": run.cost_usd,
    }
    trace.get_current_span().set_attributes(
        {name: _bounded(value) for name, value in known.items() if value is not None}
    )


def _bounded(value: str | float) -> str | float:
    return value[:MAX_NAME_CHARS] if isinstance(value, str) else value


def event(name: str, attributes: Mapping[str, str | float]) -> None:
    """See `agentbus.observability.tracing.event`."""
    trace.get_current_span().add_event(name, dict(attributes))


def link(other: Mapping[str, str]) -> None:
    """See `agentbus.observability.tracing.link`."""
    context = trace.get_current_span(_W3C.extract(other, Context())).get_span_context()
    span = trace.get_current_span()
    if context.is_valid and span.is_recording():
        span.add_link(context)


def flush(timeout_s: float) -> None:
    """See `agentbus.observability.tracing.flush`."""
    send = getattr(trace.get_tracer_provider(), "force_flush", None)  # the SDK's; the API knows of none
    if send is not None:
        # An exporter whose collector does not answer may take longer than a user waits for the end of a process.
        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        sending.join(timeout_s)


def _about(operation: str, kind: str, agent: str, task_id: str) -> dict[str, str | int]:
    return {
        "messaging.system": "nats",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": subjects.tasks(agent),
        "agentbus.agent": agent,
        **({"messaging.message.id": task_id} if task_id else {}),
    }

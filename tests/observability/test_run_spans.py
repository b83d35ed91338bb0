"""What an agent says of its run stands in the span of the attempt, by the names of OpenTelemetry's conventions."""

import re
from pathlib import Path

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as conventions

from agentbus import Coordinator
from agentbus.observability import spans as agentbus_spans
from agentbus.provision.nats_server import NatsServer
from support.jobs import outcome
from support.playing import playing
from support.traced_runs import ended_spans, traced_worker

NAMES = {value for name, value in vars(conventions).items() if name.startswith("GEN_AI_") and isinstance(value, str)}


async def test_the_span_of_an_attempt_has_the_model_the_session_the_tokens_and_the_cost(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    file = tmp_path / "spans.jsonl"
    async with traced_worker(playing(tmp_path, server.url, "claude", "ok"), file):
        status = await outcome(coordinator, "work")
        [span] = await ended_spans(file, "process agent.code.tasks")
    assert status.run is not None
    told = {name: value for name, value in span["attributes"].items() if name.startswith(("gen_ai.", "agentbus.run."))}
    assert told == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "code",
        "gen_ai.agent.version": "2.1.332",
        "gen_ai.request.model": "claude-opus-5-5",
        "gen_ai.conversation.id": status.run.session,
        "gen_ai.usage.input_tokens": 1500,
        "gen_ai.usage.cache_read.input_tokens": 300,
        "gen_ai.usage.output_tokens": 57,
        "agentbus.run.agent": "claude",
        "agentbus.run.turns": 1,
        "agentbus.run.cost_usd": 0.006,
    }


async def test_an_attempt_of_an_agent_that_tells_nothing_has_none_of_it(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    file = tmp_path / "spans.jsonl"
    async with traced_worker(playing(tmp_path, server.url, "codex", "context"), file):
        await outcome(coordinator, "work")
        [span] = await ended_spans(file, "process agent.code.tasks")
    told = {name for name in span["attributes"] if name.startswith(("gen_ai.", "agentbus.run."))}
    assert told == {"gen_ai.operation.name", "gen_ai.agent.name", "gen_ai.conversation.id", "agentbus.run.agent"}


def test_every_name_is_one_of_the_conventions() -> None:
    source = Path(agentbus_spans.__file__).read_text(encoding="utf-8")
    used = set(re.findall(r'"(gen_ai\.[a-z_.]+)"', source))
    assert used
    assert used <= NAMES

"""What runs used and cost, in the metrics of their worker: each run once, in a bounded number of series."""

from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.observability.metrics_endpoint import new_registry
from agentbus.protocol.outcomes.run_report import Run, Usage
from agentbus.provision.nats_server import NatsServer
from agentbus_worker.usage.counters import UsageCounters
from support.harness import worker
from support.jobs import acknowledged, publish, settled
from support.playing import playing
from support.scraping import scrape, until, url_of


async def test_each_run_is_counted_once_also_one_that_is_repeated(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    keys = {"retry_on": ["truncated"], "retry_backoff_seconds": 0.1, "max_attempts": 3}
    async with worker(playing(tmp_path, server.url, "claude", "max_tokens", worker=keys, metrics={"port": 0})) as child:
        url = await url_of(child)
        status = await settled(coordinator, await publish(coordinator, "work"))
        await acknowledged(coordinator)
        after = await until(url, 3 * 228, "agentbus_tokens_total", agent="code", model="claude-opus-5-5", type="output")
    of_model = {"agent": "code", "model": "claude-opus-5-5"}
    assert status.run is not None
    assert status.run.usage.output_tokens == 228
    assert after.value("agentbus_tokens_total", type="input", **of_model) == 3 * 6000
    assert after.value("agentbus_tokens_total", type="cached_input", **of_model) == 3 * 1200
    assert after.value("agentbus_cost_usd_total", **of_model) == pytest.approx(3 * 0.024)


async def test_a_run_whose_agent_names_no_model_and_no_cost_has_no_cost(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    async with worker(playing(tmp_path, server.url, "codex", "ok", metrics={"port": 0})) as child:
        url = await url_of(child)
        await settled(coordinator, await publish(coordinator, "work"))
        await until(url, 57, "agentbus_tokens_total", agent="code", model="unknown", type="output")
        after = await scrape(url)
    assert not [name for name, _ in after.series if name.startswith("agentbus_cost_usd")]


def test_models_with_strange_names_and_too_many_models_have_one_series_together() -> None:
    registry = new_registry()
    counters = UsageCounters(registry, "code")
    names = [*(f"model-{number}" for number in range(30)), 'x"} 1\nforged 2', "m" * 101, "", "model-0"]
    for name in names:
        counters.count(Run("claude", model=name, usage=Usage(output_tokens=1), cost_usd=0.5))
    counters.count(Run("claude", usage=Usage(output_tokens=1)))
    samples = {
        sample.labels["model"]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "agentbus_tokens_total"
    }
    assert samples == {**{f"model-{number}": 1 for number in range(20)}, "model-0": 2, "other": 13, "unknown": 1}

"""How long results, states and files are kept is a choice that a bus remembers, and that keeps what points to them."""

from collections.abc import Mapping
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import compare, ensure_files_bucket, set_up
from agentbus.bus.wanted.retention import NOT_ASKED, Keep, Retention, chosen, retention_of
from agentbus.errors import ConfigError
from agentbus.protocol import subjects
from support.harness import run_cli

DAY_NS = 86_400 * 10**9
KEPT = ("AGENT_RESULTS", "KV_AGENT_STATE", "OBJ_AGENT_FILES_code", "OBJ_AGENT_FILES_doc")


def ages(results: float | None, states: float | None) -> dict[str, dict[str, Any]]:
    """Configurations of the two streams, by days; None for one that is missing."""
    found = {subjects.RESULTS_STREAM: results, subjects.STATE_STREAM: states}
    return {name: {"max_age": int(days * DAY_NS)} for name, days in found.items() if days is not None}


def in_days(retention: Retention) -> tuple[float, float]:
    return retention.results_ns / DAY_NS, retention.states_ns / DAY_NS


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (ages(None, None), (30, 38)),
        (ages(14, 22), (14, 22)),
        (ages(8, 16), (8, 16)),
        (ages(8.5, 40), (8.5, 40)),
        (ages(14, None), (14, 22)),
        (ages(None, 20), (12, 20)),
        (ages(None, 90), (30, 90)),
        (ages(1, 38), (30, 38)),  # a redelivery could store a result twice
        (ages(1, 20), (12, 20)),
        (ages(30, 30), (30, 38)),  # results would outlive their states
        (ages(1, 1), (30, 38)),
        (ages(0, 0), (0, 0)),  # for ever
        (ages(30, 0), (30, 0)),
        (ages(0, 38), (0, 0)),
    ],
)
def test_what_a_bus_has_is_left_as_far_as_it_keeps_the_rules(
    found: Mapping[str, Mapping[str, Any]], wanted: tuple[float, float]
):
    assert in_days(retention_of(found)) == wanted
    assert in_days(chosen(found, NOT_ASKED)) == wanted


@pytest.mark.parametrize(
    ("keep", "wanted"), [(Keep(14, 22), (14, 22)), (Keep(14), (14, 38)), (Keep(None, 90), (30, 90))]
)
def test_what_was_asked_for_replaces_what_a_bus_has(keep: Keep, wanted: tuple[float, float]):
    assert in_days(chosen(ages(30, 38), keep)) == wanted


@pytest.mark.parametrize(
    ("now", "keep", "fix"),
    [
        (ages(30, 38), Keep(60), "use --keep-states 68"),
        (ages(30, 38), Keep(None, 20), "use --keep-results 12"),
        (ages(30, 38), Keep(20, 20), "use --keep-states 28"),
        (ages(0, 0), Keep(None, 20), "use --keep-results 12"),
    ],
)
def test_a_result_that_would_outlive_its_state_is_refused_with_the_option_that_is_missing(
    now: Mapping[str, Mapping[str, Any]], keep: Keep, fix: str
):
    with pytest.raises(ConfigError, match=r"a state must be kept 8 days longer") as refused:
        chosen(now, keep)
    assert str(refused.value).endswith(fix)


async def kept(coordinator: Coordinator) -> tuple[float, ...]:
    return tuple([(await coordinator.bus.stream_info(name)).max_age_s / 86_400 for name in KEPT])


async def test_set_up_changes_the_streams_and_the_files_of_every_agent_and_remembers_it(coordinator: Coordinator):
    url = coordinator.bus.settings.servers
    await set_up(coordinator.bus, ["code", "doc"])
    assert await kept(coordinator) == (30, 38, 38, 38)
    done = await run_cli("setup", "--nats-url", url, "--keep-results", "14", "--keep-states", "22")
    assert done.code == 0, done.err
    assert await kept(coordinator) == (14, 22, 22, 22)
    for more in ((), ("--update",)):
        done = await run_cli("setup", "--nats-url", url, "--agent", "code", "--agent", "doc", *more)
        assert '"different"' not in done.out
        assert await kept(coordinator) == (14, 22, 22, 22)
    found = [item async for item in compare(coordinator.bus, KEPT[:2], ["code", "doc"])]
    assert {item.outcome for item in found} == {"found"}
    await set_up(coordinator.bus, ["review"])
    await ensure_files_bucket(coordinator.bus, "by-its-worker")
    for agent in ("review", "by-its-worker"):
        assert (await coordinator.bus.stream_info(f"OBJ_AGENT_FILES_{agent}")).max_age_s == 22 * 86_400


async def test_a_retention_that_breaks_the_rules_is_refused_and_changes_nothing(coordinator: Coordinator):
    url = coordinator.bus.settings.servers
    done = await run_cli("setup", "--nats-url", url, "--keep-results", "60")
    assert (done.code, done.out) == (1, "")
    assert "use --keep-states 68" in done.err
    done = await run_cli("setup", "--nats-url", url, "--keep-results", "7")
    assert (done.code, "8<=x<=3650" in done.err) == (2, True)
    assert (await coordinator.bus.stream_info("AGENT_RESULTS")).max_age_s == 30 * 86_400


async def test_an_age_that_another_tool_made_too_short_is_reported_and_updated_on_request(coordinator: Coordinator):
    bus = coordinator.bus
    config = (await bus.stream_info("KV_AGENT_STATE")).config
    await bus.api("STREAM.UPDATE.KV_AGENT_STATE", {**config, "max_age": 20 * DAY_NS})
    found = {item.name: item for item in await set_up(bus)}
    assert found["KV_AGENT_STATE"].differences == ("max_age is 1728000 s, wanted 3283200 s",)
    await set_up(bus, update=True)
    assert (await bus.stream_info("KV_AGENT_STATE")).max_age_s == 38 * 86_400

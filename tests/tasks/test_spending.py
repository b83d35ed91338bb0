"""What settled tasks used and cost: summed up as the agents tell it, and nothing that they do not."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.cli.coordinator import cost, cost_report
from agentbus.cli.coordinator.cost_report import CostReport
from agentbus.config.toml_text import toml_text
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import Record, settled
from agentbus.protocol.messages import decode_result
from agentbus.protocol.outcomes.run_report import Run, Usage
from agentbus.protocol.outcomes.usage_of_runs import earlier_in, with_run
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.listing import spending as sums
from agentbus.tasks.listing.spending import GROUPINGS, Grouping, Spending, Spent, spending
from agentbus.tasks.listing.wanted import Wanted
from support.harness import eventually, run_cli, worker, worker_toml
from support.installation import own_bus
from support.jobs import acknowledged, agent_keys, publish, short_lease
from support.jobs import settled as settled_by_worker
from support.mcp_harness import result_message
from support.playing import playing
from support.terminal import shown_on_terminal

ALL = Wanted(with_results=False, settled=True)


def run(model: str | None = "opus", read: int | None = 100, cost_usd: float | None = 0.5) -> dict[str, Any]:
    counts = {"input_tokens": read, "cached_input_tokens": read // 2, "output_tokens": read // 10} if read else {}
    known = {"model": model, "usage": counts or None, "cost_usd": cost_usd}
    return {"format": "claude", **{name: value for name, value in known.items() if value is not None}}


async def done(bus: Coordinator, task_id: str, report: Any = None, *, agent: str = "code", attempt: int = 1) -> None:
    """A task that was settled after so many attempts, with what the agent reports of the last one."""
    await bus.publish(agent, "work", task_type="test", task_id=task_id)
    ledger, key = Ledger(bus.bus), TaskKey(agent, task_id)
    record = await ledger.read(key)
    assert isinstance(record, Record)
    message = {**result_message(task_id, "done", agent=agent), **({} if report is None else {"run": report})}
    entry = record.entry.model_copy(update={"attempt": attempt})
    await ledger.write(key, settled(entry, decode_result(encode(message))), revision=record.revision)


async def summed(bus: Coordinator, by: Grouping = "agent", **more: Any) -> Spending:
    return await spending(bus.bus, ALL, by, **more)


async def test_the_figures_of_tasks_are_summed_up_by_agent_model_day_and_sender(coordinator: Coordinator) -> None:
    await done(coordinator, "a", run())
    await done(coordinator, "b", run("haiku", 10, 0.25))
    await done(coordinator, "c", run(), agent="doc")
    await coordinator.publish("code", "work", task_type="test", task_id="waiting")
    by_agent = (await summed(coordinator)).groups
    assert {name: (one.tasks, one.input_tokens, one.cost_usd) for name, one in by_agent.items()} == {
        "code": (2, 110, 0.75),
        "doc": (1, 100, 0.5),
    }
    by_model = (await summed(coordinator, "model")).groups
    assert {name: (one.tasks, one.cached_input_tokens, one.output_tokens) for name, one in by_model.items()} == {
        "opus": (2, 100, 20),
        "haiku": (1, 5, 1),
    }
    by_sender = (await summed(coordinator, "sender")).groups
    assert {name: one.tasks for name, one in by_sender.items()} == {"agent-main": 3}
    days = (await summed(coordinator, "day")).groups
    today, now = (await coordinator.task("c", agent="doc").status()).record.changed_at, datetime.now(UTC)
    assert sum(one.tasks for one in days.values()) == 3
    assert f"{today:%Y-%m-%d}" in days
    assert set(days) <= {f"{day:%Y-%m-%d}" for day in (now - timedelta(days=1), now, now + timedelta(days=1))}


async def test_what_agents_do_not_tell_is_counted_and_not_guessed(coordinator: Coordinator) -> None:
    await done(coordinator, "told", run(), attempt=3)
    await done(coordinator, "no-cost", run(None, 10, None))
    await done(coordinator, "nothing", {"format": "codex"})
    await done(coordinator, "text")
    await done(coordinator, "never-ran", attempt=0)
    [spent] = (await summed(coordinator)).groups.values()
    assert (spent.tasks, spent.ran, spent.repeated) == (5, 4, 1)
    assert (spent.without_cost, spent.without_tokens) == (3, 2)
    assert (spent.cost_usd, spent.input_tokens) == (0.5, 110)
    assert set((await summed(coordinator, "model")).groups) == {"opus", "unknown"}
    nothing = (await summed(coordinator, "model")).groups["unknown"].to_json()
    assert "cost_usd" not in nothing
    assert nothing["input_tokens"] == 10


@pytest.mark.parametrize(
    "report", [7, [], {"format": 7}, {"format": "claude", "usage": 3, "cost_usd": -1, "model": {}},
               {"format": "claude", "cost_usd": 1e308, "usage": {"input_tokens": -5, "output_tokens": "9"}}],
)  # fmt: skip
async def test_a_report_that_is_none_says_nothing(coordinator: Coordinator, report: Any) -> None:
    await done(coordinator, "a", report)
    total = (await summed(coordinator)).total
    assert (total.tasks, total.without_cost, total.without_tokens, total.cost_usd) == (1, 1, 1, 0)


async def test_no_result_is_read_where_the_header_of_an_entry_says_enough(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await done(coordinator, "a", run("m" * 190))
    await done(coordinator, "b", run())
    monkeypatch.setattr(type(coordinator.bus), "last_message", None)
    assert (await summed(coordinator)).total.cost_usd == 1.0


async def test_a_search_ends_at_a_time_and_one_that_stops_early_goes_on(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        await done(coordinator, f"t{number:02}", run(cost_usd=0.25))
    middle = (await coordinator.task("t30", agent="code").status()).record.changed_at
    since = await summed(coordinator, since=middle)
    assert (since.total.tasks, since.oldest, since.found.cursor) == (10, middle, None)
    monkeypatch.setattr(sums, "_FIRST", 2)  # windows of a few entries
    whole, parts = await summed(coordinator, search_s=0), 1
    while whole.found.partial:
        assert whole.found.left
        whole.go_on_with(await summed(coordinator, search_s=0, cursor=whole.found.cursor))
        parts += 1
    assert (whole.total.tasks, whole.total.cost_usd) == (40, 10.0)
    assert parts > 2


async def test_groups_that_others_name_are_bounded(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "MOST_GROUPS", 3)
    for number in range(5):
        await done(coordinator, f"t{number}", run(f"model-{number}"))
    groups = (await summed(coordinator, "model")).groups
    assert {name: one.tasks for name, one in groups.items()} == {
        "model-4": 1,
        "model-3": 1,
        "model-2": 1,
        "(others)": 2,
    }


# -- the command -----------------------------------------------------------------------------------------------------


async def test_the_cost_of_a_real_run_is_shown_where_tasks_are(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    async with worker(playing(tmp_path, server.url, "claude", "ok")):
        task_id = await publish(coordinator, "work")
        await settled_by_worker(coordinator, task_id)
        await acknowledged(coordinator)
    url = ("--nats-url", server.url)
    piped, listed, model, shown, table, got = await asyncio.gather(
        run_cli("cost", *url),
        run_cli("task", "list", *url),
        run_cli("cost", "--by", "model", "--since", "1h", *url),
        shown_on_terminal("cost", *url),
        shown_on_terminal("task", "list", *url),
        shown_on_terminal("task", "get", task_id, *url),
    )
    assert json.loads(piped.out) == {
        "agent": "code", "tasks": 1, "ran": 1, "repeated": 0, "incomplete": 0, "without_tokens": 0, "without_cost": 0,
        "input_tokens": 1500, "cached_input_tokens": 300, "output_tokens": 57, "cost_usd": 0.006,
    }  # fmt: skip
    assert "the ledger keeps settled tasks for 38 days" in piped.err
    assert json.loads(listed.out)["run"] == {
        "format": "claude", "model": "claude-opus-5-5", "cost_usd": 0.006,
        "usage": {"input_tokens": 1500, "cached_input_tokens": 300, "output_tokens": 57},
    }  # fmt: skip
    assert json.loads(model.out)["model"] == "claude-opus-5-5"
    assert "$0.0060" in shown
    assert "$0.0060" in table
    for words in ("claude-opus-5-5", "1,500 in, 300 of them cached, 57 out", "$0.0060"):
        assert words in got


# Uses tokens in each run. The first fails, the worker of the second is killed once a renewal has told of it, the third
# is given back at a stop, the fourth answers.
SPENDER = """
n=$(ls {folder} | grep -c '^run'); : > {folder}/run.$n
message='{{"type":"step_finish","sessionID":"s","part":{{"reason":"%s","cost":0.5,"tokens":{{"input":90,"output":10,"cache":{{"read":10}}}}}}}}\\n'
printf '{{"type":"step_start","sessionID":"s"}}\\n'
if [ $n = 3 ]; then
  printf '{{"type":"text","sessionID":"s","part":{{"text":"done"}}}}\\n'
  printf "$message" stop
  exit 0
fi
printf "$message" tool-calls
if [ $n = 0 ]; then exit 3; fi
: > {folder}/spent.$n
exec sleep 1000
"""


async def test_every_attempt_of_a_task_counts_also_one_that_failed_was_lost_or_was_given_back(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus)
    await short_lease(coordinator)
    keys = {"retry_on": ["exit:3", "lost"], "retry_backoff_seconds": 0.01, "kill_grace_seconds": 0.2,
            "drain_timeout_seconds": 0.1, "max_attempts": 5}  # fmt: skip
    script = ["sh", "-c", SPENDER.format(folder=tmp_path), "sh", "{input}"]
    config = agent_keys(worker_toml(tmp_path, server.url, chat_cmd=script, worker=keys), output="opencode")
    ledger, key = Ledger(coordinator.bus), TaskKey("code", "t")

    async def told() -> bool:
        record = await ledger.read(key)
        return isinstance(record, Record) and record.entry.claim is not None and record.entry.claim.used is not None

    async with worker(config) as first:
        await coordinator.publish("code", "work", task_type="test", task_id="t")
        await eventually((tmp_path / "spent.1").exists, "the second run")
        await eventually(told, "a renewal that tells what the run has used")
        first.kill()
    async with worker(config):
        await eventually((tmp_path / "spent.2").exists, "the third run")
    async with worker(config):
        await settled_by_worker(coordinator, "t")
        await acknowledged(coordinator)
    status = await coordinator.task("t", agent="code").status()
    assert status.run is not None
    assert (status.run.cost_usd, status.cost_usd) == (0.5, 2.0)
    assert status.result is not None
    assert status.result.usage == status.usage
    url = ("--nats-url", server.url)
    piped, listed, got, spent = await asyncio.gather(
        run_cli("cost", *url),
        shown_on_terminal("task", "list", *url),
        shown_on_terminal("task", "get", "t", *url),
        coordinator.spending("sender", agent="code"),
    )
    assert json.loads(piped.out) == {
        "agent": "code", "tasks": 1, "ran": 1, "repeated": 1, "incomplete": 0, "without_tokens": 0, "without_cost": 0,
        "input_tokens": 400, "cached_input_tokens": 40, "output_tokens": 40, "cost_usd": 2.0,
    }  # fmt: skip
    assert "$2.0000" in listed
    assert "400 in, 40 of them cached, 40 out, $2.0000" in got
    assert (spent.total.cost_usd, spent.total.repeated, list(spent.groups)) == (2.0, 1, ["agent-main"])


def test_figures_that_lack_those_of_an_attempt_are_counted_as_such() -> None:
    told, silent = Run("claude", cost_usd=0.5, usage=Usage(1, 0, 1)), Run("claude")
    earlier = with_run(None, told)
    for attempts, run_, before, counts in (
        (2, told, None, (0, 1)),  # an older worker had the first one
        (2, told, earlier, (0, 0)),
        (1, told, earlier, (0, 0)),  # the first one was given back
        (2, silent, earlier, (0, 1)),
        (2, None, earlier, (0, 1)),
        (1, None, earlier, (0, 0)),  # there was no other
        (3, None, None, (1, 0)),
        (2, silent, None, (1, 0)),
    ):
        spent = Spent()
        spent.add(attempts, run_, before)
        assert (spent.without_cost, spent.incomplete) == counts


def test_sums_of_runs_stay_within_what_readers_take() -> None:
    much = Run("claude", model="m" * 500, usage=Usage(2**53, 2**53, 2**53), cost_usd=2.0**53)
    sums = with_run(with_run(None, much), much)
    assert sums is not None
    assert earlier_in({"earlier_runs": sums.to_json()}) == sums
    assert (sums.runs, sums.input_tokens, sums.cost_usd) == (2, 2**53, 2**53)
    wrongs: list[Any] = [7, [], {"runs": -1}, {"cost_usd": float("nan")}, {"input_tokens": 2**60}, {"model": "m" * 500}]
    for wrong in wrongs:
        assert earlier_in({"earlier_runs": wrong}) is None


async def test_the_table_fits_the_terminal_and_names_cannot_act_on_it(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await done(coordinator, "a", run("\x1b[2Jevil-" + "m" * 100, 15_000_000, 1234.5))
    await done(coordinator, "b", run("haiku", 10, None))
    for width in (120, 80, 40):
        shown = await shown_on_terminal("cost", "--by", "model", "--nats-url", server.url, env={"COLUMNS": str(width)})
        table = shown.partition("of 2 tasks that ran")[0]
        assert all(len(line) <= width for line in table.splitlines()), table
        assert "$1,234.50" in table
        assert "\x1b[2J" not in shown
    assert "of 2 tasks that ran, 1 tell no cost and 0 no tokens" in shown


async def test_an_interrupted_search_prints_the_figures_so_far_and_how_to_go_on(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(40):
        await done(coordinator, f"t{number:02}", run())
    monkeypatch.setattr(sums, "_FIRST", 2)
    asked = 0

    async def cut(*args: Any, **more: Any) -> Spending:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise asyncio.CancelledError
        return await spending(*args, **more, search_s=0)

    monkeypatch.setattr(cost_report, "spending", cut)
    with pytest.raises(asyncio.CancelledError):
        await CostReport(coordinator.bus, ALL, "agent", None).run(None)
    printed = capsys.readouterr()
    first = json.loads(printed.out)
    assert 0 < first["tasks"] < 40
    cursor = int(printed.err.rpartition("--cursor ")[2])
    rest = await summed(coordinator, cursor=cursor)
    assert first["tasks"] + rest.total.tasks == 40


async def test_a_member_sees_what_its_own_tasks_cost_and_no_others(tmp_path: Path) -> None:
    async with own_bus(tmp_path, coordinators={"alice": ("member", None)}) as bus:
        async with (
            bus.coordinator("main") as main,
            bus.coordinator("alice", "member") as alice,
            worker(bus.worker_toml(tmp_path, "code")),
        ):
            for who in (main, alice, alice):
                await settled_by_worker(who, await publish(who, "say:done"))
        seen: dict[str, Any] = {}
        for name, role in (("main", "operator"), ("alice", "member")):
            config = tmp_path / f"{name}.toml"
            config.write_text(toml_text({"coordinator": {"id": name, "role": role}, "nats": bus.nats(name)}), "utf-8")
            config.chmod(0o600)
            ran = await run_cli("cost", "--by", "sender", "--config", str(config))
            assert ran.code == 0, ran.err
            seen[name] = {one["sender"]: one["tasks"] for one in map(json.loads, ran.out.splitlines())}
        assert seen == {"main": {"agent-main": 1, "agent-alice": 2}, "alice": {"agent-alice": 2}}
        assert bus.violations() == []


def test_the_command_offers_every_grouping() -> None:
    assert cost._GROUPINGS == tuple(GROUPINGS) == get_args(Grouping)  # pyright: ignore[reportPrivateUsage]

"""Calls of tools before which Claude Code asks: the run ends with the question, and the answer runs the very call."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.topology import consumer_config
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer
from support.conversing import conversing_worker, done, home, run_of
from support.harness import SUPPORT, eventually, worker
from support.jobs import acknowledged, short_lease
from support.supervised import kill_with_supervisors

COMMAND = [sys.executable, str(SUPPORT / "deferring_agent.py")]


def asking_worker(folder: Path, url: str, **agent: Any) -> Path:
    """The configuration of a worker whose agent asks before it touches a file, in a place of its own."""
    return conversing_worker(folder, url, command=COMMAND, agent={"ask_before": ["Bash(touch *)"], **agent})


def requests(folder: Path) -> list[str]:
    """The tasks whose runs have asked the model, in order."""
    noted = folder / "home" / "requests"
    return noted.read_text(encoding="utf-8").split() if noted.exists() else []


async def test_an_approval_runs_the_very_call_and_nothing_is_paid_twice(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    async with worker(asking_worker(tmp_path, server.url), env=home(tmp_path)):
        task = await coordinator.publish("code", f"use cd / && touch {made}", task_type="test", task_id="a")
        asked = await done(task)
        assert asked["status"] == "needs_approval"
        question = asked["question"]
        assert (question["tool"], question["arguments"]) == ("Bash", {"command": f"cd / && touch {made}"})
        assert (question["text"], len(question["arguments_digest"])) == ("I try it.", 64)
        assert Path(question["folder"]).is_dir()
        assert f"Bash: cd / && touch {made}" in asked["result"]
        assert not made.exists()
        [listed] = (await coordinator.questions()).questions
        shown = listed.to_json()
        assert (shown["operation"], shown["arguments"]) == ("Bash", question["arguments"])
        answer = await task.answer(approve=True)
        result = await done(answer)
        assert (result["status"], result["result"]) == ("completed", "ran: ")
        assert made.exists()
        assert (run_of(result)["resumed"], run_of(result)["session"]) == (True, run_of(asked)["session"])
        assert [run_of(one)["cost_usd"] for one in (asked, result)] == [0.25, 0.25]
        assert run_of(result)["usage"] == {"input_tokens": 10, "cached_input_tokens": 0, "output_tokens": 2}
        plain = await done(await coordinator.publish("code", "use true", task_type="test", task_id="plain"))
        assert plain["status"] == "completed"
        assert (await task.answer(approve=True)).known
        await acknowledged(coordinator)
    asked_the_model = requests(tmp_path)
    assert asked_the_model == ["a", "a.answer", "plain", "plain"], "as many requests as without a question"


async def test_an_approval_is_for_one_use_of_one_call_with_the_words_of_who_gave_it(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    made, other = tmp_path / "made", tmp_path / "other"
    async with worker(asking_worker(tmp_path, server.url), env=home(tmp_path)):
        use = f"use touch {made}"
        task = await coordinator.publish("code", f"{use}\n{use}\nuse touch {other}", task_type="test", task_id="a")
        assert (await done(task))["status"] == "needs_approval"
        first = await task.answer(approve=True, comment="only this once")
        asked = await done(first)
        assert (asked["status"], asked["question"]["arguments"]) == ("needs_approval", {"command": f"touch {made}"})
        assert made.exists()
        made.unlink()
        second = await first.answer(approve=True)
        asked = await done(second)
        assert (asked["status"], asked["question"]["arguments"]) == ("needs_approval", {"command": f"touch {other}"})
        assert made.exists()
        assert not other.exists()
        result = await done(await second.answer(approve=False, comment="other is not ours"))
    assert result["status"] == "completed"
    assert "who says: only this once" in result["result"]
    assert "denied: Denied by agent-main: other is not ours" in result["result"]
    assert not other.exists()


async def test_a_denied_call_never_runs_and_the_session_goes_on_with_the_reason(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    async with worker(asking_worker(tmp_path, server.url), env=home(tmp_path)):
        task = await coordinator.publish("code", f"use touch {made}\nuse touch {made}", task_type="test", task_id="a")
        asked = await done(task)
        result = await done(await task.answer(approve=False, comment="not on a Friday"))
    assert (asked["status"], result["status"]) == ("needs_approval", "completed")
    assert result["result"].count("denied: Denied by agent-main: not on a Friday") == 2, "it is not asked again"
    assert run_of(result)["session"] == run_of(asked)["session"]
    assert not made.exists()
    assert requests(tmp_path) == ["a", "a.answer", "a.answer"]


async def test_where_the_session_is_gone_the_task_begins_anew_with_the_approval_of_that_call(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    async with worker(asking_worker(tmp_path, server.url), env=home(tmp_path)):
        task = await coordinator.publish("code", f"use touch {made}\nuse touch {made}x", task_type="test")
        asked = await done(task)
        (tmp_path / "home" / "sessions" / f"{run_of(asked)['session']}.json").unlink()
        result = await done(await task.answer(approve=True))
    assert run_of(result)["resumed"] is False
    assert made.exists()
    assert (result["status"], result["question"]["arguments"]) == ("needs_approval", {"command": f"touch {made}x"})


async def test_an_agent_without_sessions_begins_anew_with_the_approval(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    config = asking_worker(tmp_path, server.url)
    text = config.read_text(encoding="utf-8")
    config.write_text("\n".join(line for line in text.splitlines() if "resume_cmd" not in line), encoding="utf-8")
    async with worker(config, env=home(tmp_path)):
        task = await coordinator.publish("code", f"use touch {made}", task_type="test")
        assert (await done(task))["status"] == "needs_approval"
        answer = await task.answer(approve=True)
        result = await done(answer)
    assert (result["status"], "needs" in result["task"]) == ("completed", False)
    assert made.exists()


@pytest.mark.long
async def test_an_answer_that_finds_the_session_gone_on_says_the_decision_in_its_prompt(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    async with worker(asking_worker(tmp_path, server.url), env=home(tmp_path)):
        task = await coordinator.publish("code", f"remember heron\nuse touch {made}", task_type="test", task_id="a")
        session = run_of(await done(task))["session"]
        file = tmp_path / "home" / "sessions" / f"{session}.json"
        found = json.loads(file.read_bytes())
        file.write_text(json.dumps({**found, "open": None}), encoding="utf-8")  # as if someone had gone on with it
        result = await done(await task.answer(approve=True))
        assert (result["status"], result["result"], result["attempt"]) == ("completed", "told approved", 1)
        told = json.loads(file.with_suffix(".told").read_bytes())
        assert told["original"] == "the task before, as you know it from this conversation"
        asked = await done(await coordinator.publish("code", f"use touch {made}", task_type="test", task_id="b"))
        assert asked["status"] == "needs_approval"
        again = await done(await coordinator.task("b").follow_up("recall", task_id="between"))
        assert again["status"] == "completed"
        late = await done(await coordinator.task("b").answer(approve=False))
        assert late["result"] == "told denied"
    assert not made.exists()


@pytest.mark.long
async def test_the_hooks_of_the_user_stay_and_learn_which_call_was_approved(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    """A hook of the user that defers by itself, on a worker that asks for nothing."""
    made, own = tmp_path / "made", tmp_path / "home" / ".claude" / "settings.json"
    answer = '{"hookSpecificOutput":{"permissionDecision":"defer"}}'
    hook = f"grep -q \"${{AGENTBUS_APPROVED_CALL:-none}}\" || echo '{answer}'"
    config = asking_worker(tmp_path, server.url, ask_before=[])
    own.parent.mkdir()
    own.write_text(json.dumps({"hooks": {"PreToolUse": [{"hooks": [{"command": hook}]}]}}), encoding="utf-8")
    async with worker(config, env=home(tmp_path)):
        task = await coordinator.publish("code", f"use touch {made}", task_type="test")
        assert (await done(task))["status"] == "needs_approval"
        result = await done(await task.answer(approve=True))
        assert (result["status"], made.exists()) == ("completed", True)
        made.unlink()
        denied = await coordinator.publish("code", f"use touch {made}", task_type="test")
        await done(denied)
        assert (await done(await denied.answer(approve=False)))["result"].endswith("told denied")
        assert not made.exists()


async def test_the_text_way_goes_on_in_the_session_without_the_task_again(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    async with worker(asking_worker(tmp_path, server.url, ask_before=[]), env=home(tmp_path)):
        task = await coordinator.publish("code", "remember heron\nask May I?", task_type="test", task_id="a")
        asked = await done(task)
        assert (asked["status"], "question" in asked) == ("needs_approval", False)
        answer = await task.answer(approve=True, comment="yes")
        result = await done(answer)
        assert (result["result"], run_of(result)["session"]) == ("told approved", run_of(asked)["session"])
        assert (result["task"]["continue"]["task"], result["task"]["needs"]) == ("a", ["continue"])
        assert (await done(await answer.follow_up("recall")))["result"] == "heron"
        assert (await task.answer(approve=True, comment="yes")).known


@pytest.mark.long
async def test_an_approval_that_a_killed_worker_had_begun_is_not_used_again(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    await short_lease(coordinator)
    name = subjects.durable_of_parties("code")
    of_parties = consumer_config("code", name, of_parties=True, ack_wait_s=1.5)
    await coordinator.bus.create_consumer(subjects.TASKS_STREAM, name, of_parties)
    made, go = tmp_path / "made", tmp_path / "go"
    config = asking_worker(tmp_path, server.url)
    async with worker(config, env=home(tmp_path)) as first:
        use = f"use touch {made}; until [ -e {go} ]; do sleep 0.02; done"
        task = await coordinator.publish("code", use, task_type="test", task_id="a")
        assert (await done(task))["status"] == "needs_approval"
        answer = await task.answer(approve=True)
        await eventually(made.exists, "the approved call runs")
        kill_with_supervisors(first)
    made.unlink()
    async with worker(config, env=home(tmp_path)):
        result = await done(answer)
        assert (result["status"], result["attempt"]) == ("completed", 2)
        assert "told approved" in result["result"], "it is told the decision; a call that matches asks again"
    assert not made.exists()


async def test_an_agent_that_another_one_has_started_is_denied_and_the_run_goes_on(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    async with worker(asking_worker(tmp_path, server.url), env=home(tmp_path)):
        result = await done(await coordinator.publish("code", f"helper touch {made}", task_type="test"))
    assert (result["status"], made.exists()) == ("completed", False)
    assert "only the main agent can wait" in result["result"]


async def test_where_no_living_worker_can_go_on_an_answer_begins_anew_and_stays_the_same(
    coordinator: Coordinator, server: NatsServer, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    config = asking_worker(tmp_path, server.url)
    async with worker(config, env=home(tmp_path)):
        task = await coordinator.publish("code", f"use touch {made}", task_type="test")
        assert "place" in run_of(await done(task))
    text = config.read_text(encoding="utf-8")
    config.write_text("\n".join(line for line in text.splitlines() if "resume_cmd" not in line), encoding="utf-8")
    async with worker(config, env=home(tmp_path)):
        answer = await task.answer(approve=True)
        result = await done(answer)
    assert (result["status"], "needs" in result["task"], "resumed" in run_of(result)) == ("completed", False, False)
    assert made.exists()
    assert (await task.answer(approve=True)).known, "although a worker that can may come now"

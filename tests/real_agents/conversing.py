"""The cases of several tasks: a real agent goes on with a session, and Claude Code asks before it uses a tool.

What is wrong is told under `wrong` of the last result.
"""

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from agentbus import Coordinator
from agentbus.protocol.json_codec import Json, object_in
from agentbus.task_handle import TaskHandle
from real_agents.agents import PROMPT
from real_agents.model_server import REQUESTS, SAID
from support.mcp_harness import data_of, over_stdio

_ASK_BEFORE: Final = "Bash(touch *)"
_WORD: Final = "heron"
_COMMENT: Final = "not on a Friday"


def keys_of(case: str, command: list[str]) -> dict[str, Any]:
    """Return the keys of a worker of such a case."""
    asks = {"ask_before": [_ASK_BEFORE]} if case in ("approved", "not_approved", "hooks_off", "bare") else {}
    return {"resume_cmd": [*command, "--resume", "{session}"], **asks}


async def converse(bus: Coordinator, agent: str, case: str, folder: Path, model: str) -> dict[str, Json]:
    """Run the tasks of a case, which a worker in `folder` waits for; returns the last result."""
    made = folder / "tasks" / "made_by_the_tool"
    asks = PROMPT if case in ("unasked", "approved", "not_approved", "hooks_off", "bare") else f"{SAID}{_WORD}."
    task = await bus.publish(agent, asks, task_type="test", task_id=case.replace("_", "-"))
    first = await _result(task)
    match case:
        case "unasked":
            return _told(first, [] if made.exists() else ["the tool has not done its work"])
        case "hooks_off" | "bare":  # no person is asked, and nothing is done
            wrong = ["the tool has done its work"] if made.exists() else []
            denied = object_in(first.get("run")).get("denied")
            return _told(first, wrong if denied else [*wrong, "does not name a denied call"])
        case "approved" | "not_approved":
            return await _answered(task, first, case, made, model)
        case "folder_gone":  # OpenCode hangs for ever in another folder than its session's
            shutil.rmtree(folder / "tasks" / task.id)
            return await _result(await task.follow_up("Which word?", task_id=f"{task.id}.second"))
        case _:
            second = await _result(await task.follow_up("Which word?", task_id=f"{task.id}.second"))
            return _told(second, list(_not_one_session(first, second)))


def _not_one_session(first: dict[str, Json], second: dict[str, Json]) -> Iterator[str]:
    before, after = object_in(first.get("run")), object_in(second.get("run"))
    if _WORD not in str(second.get("result")):
        yield "does not know the word of its first task"
    if after.get("resumed") is not True or after.get("session") != before.get("session"):
        yield "has not gone on with the session"
    usage = [(object_in(run.get("usage")), run.get("cost_usd")) for run in (before, after)]
    for name in ("input_tokens", "output_tokens"):
        counted, again = (int(one.get(name) or 0) for one, _ in usage)
        if not 0 < again <= counted:
            yield f"{name} of the second run, {again}, are not its own: the first one had {counted}"
    costs = [cost for _, cost in usage]
    if (costs[0] is None) != (costs[1] is None) or (costs[0] and not 0 < (costs[1] or 0) <= costs[0] * 1.001):
        yield f"the cost of the second run is not its own: {costs[1]} after {costs[0]}"


async def _answered(task: TaskHandle, first: dict[str, Json], case: str, made: Path, model: str) -> dict[str, Json]:
    wrong: list[str] = []
    if first["status"] != "needs_approval" or object_in(first.get("question")).get("tool") != "Bash":
        return _told(first, ["has not asked"])
    if made.exists():
        wrong.append("the tool has done its work before it was approved")
    asked = _requests(model, case)
    approve = case == "approved"
    result = await _result(await task.answer(approve=approve, comment="" if approve else _COMMENT))
    if made.exists() != approve:
        wrong.append(f"the tool {'has' if made.exists() else 'has not'} done its work after the answer")
    more = _requests(model, case) - asked
    if more != 1 or asked != 1:
        wrong.append(f"{more} requests after the answer and {asked} before it, and one each are needed")
    plain = _requests(model, "unasked")
    if plain and asked + more > plain + 1:
        wrong.append(f"{asked + more} requests, and {plain} without a question")
    run = object_in(result.get("run"))
    if run.get("resumed") is not True or run.get("session") != object_in(first.get("run")).get("session"):
        wrong.append("has not gone on with the session")
    if object_in(run.get("usage")) != object_in(object_in(first.get("run")).get("usage")):
        wrong.append("the usage of the second run is not its own")
    return _told(result, wrong)


async def answer_person(
    bus: Coordinator, url: str, task: TaskHandle, folder: Path, *, approve: bool
) -> dict[str, Json]:
    """Wait until a run asks, answer it by the MCP tool while it goes on, and return the result of its task."""
    made, wrong, answered = folder / "tasks" / "made_by_the_tool", list[str](), set[str]()
    async with over_stdio(folder / "mcp.log", "auto", "--nats-url", url) as client:
        while (await bus.wait([task], on_question=lambda _: True)).pending:  # OpenCode asks twice
            listed = data_of(await client.call_tool("list_questions", {"agent": task.agent}))["questions"]
            for question in listed:
                if made.exists() and not answered:
                    wrong.append("the tool has done its work before it was approved")
                if question["id"] not in answered:
                    answer = {"task_id": question["id"], "approve": approve, "comment": _COMMENT}
                    answered.add(question["id"])
                    told = data_of(await client.call_tool("answer_approval", answer))
                    if told["state"] != "working":
                        wrong.append(f"the answer was told as {told['state']}")
    if not answered:
        wrong.append("has not asked")
    result = await _result(task)
    if made.exists() != approve:
        wrong.append(f"the tool {'has' if made.exists() else 'has not'} done its work after the answer")
    return _told(result, wrong)


def _requests(model: str, case: str) -> int:
    """Return how often the model was asked in a case."""
    with urllib.request.urlopen(f"{model}/{case}/{REQUESTS}") as answer:  # of this machine
        return int(json.loads(answer.read())[REQUESTS])


async def _result(task: TaskHandle) -> dict[str, Json]:
    return (await task.result()).to_json()


def _told(result: dict[str, Json], wrong: list[str]) -> dict[str, Json]:
    return {**result, "wrong": "; ".join(wrong)}

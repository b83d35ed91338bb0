"""What the page shows and does, over HTTP with a real bus and a real worker."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentbus import Coordinator
from agentbus.admin.audit_log import Wanted, newest_lines
from agentbus.provision.nats_server import NatsServer
from support.harness import eventually, worker, worker_toml
from support.ui_page import act, board, browser, frames, new_link, ui_server

pytestmark = pytest.mark.posix("needs a worker")


async def task(http: httpx2.AsyncClient, name: str) -> dict[str, Any]:
    answer = await http.get("api/task", params={"name": name})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def until_state(http: httpx2.AsyncClient, name: str, state: str) -> dict[str, Any]:
    async def has_state() -> dict[str, Any] | None:
        found = await task(http, name)
        return found if found["state"] == state else None

    return await eventually(has_state, f"{name} is {state}")


async def test_what_a_person_does_on_the_page_happens_and_is_shown(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with (
        worker(worker_toml(tmp_path, server.url, worker={"concurrency": 2})),
        ui_server(tmp_path / "ui.log", "--nats-url", server.url) as ui,
        browser(ui) as http,
    ):
        sent = {"to": "code", "content": "say:hello", "task_id": "job-1"}
        for _ in range(2):  # sent again after a lost answer
            assert (await act(http, "publish", **sent)).json() == {"name": "code/job-1", "id": "job-1"}
        done = await until_state(http, "code/job-1", "completed")
        assert (done["prompt"]["text"], done["answer"]["text"], done["can"]) == ("say:hello", "hello\n", ["retry"])
        assert (await act(http, "publish", **{**sent, "content": "other"})).status_code == 409
        assert (await act(http, "publish", to="code", content=" ")).status_code == 422
        assert (await act(http, "publish", to="no agent", content="x")).status_code == 422
        assert (await act(http, "publish", to=1, content="x")).json()["error"] == "the field to must be a text"
        assert (await http.get("api/task", params={"name": "code/none"})).status_code == 404

        again = (await act(http, "retry", name="code/job-1")).json()["name"]
        await until_state(http, again, "completed")

        await act(http, "publish", to="code", content=f"say:begun wait:{tmp_path / 'never'}", task_id="long")
        running = await until_state(http, "code/long", "working")
        assert running["prompt"]["text"].startswith("say:begun")  # from the queue: there is no result yet
        assert running["can"] == ["cancel"]
        kinds, size = set[str](), 0
        async with asyncio.timeout(60):
            async for name, data, count in frames(http, task="code/long"):
                size += count
                kinds.add(name)
                if name == "log" and any("begun" in line.get("text", "") for line in data["lines"]):
                    break
        assert {"hello", "section", "version", "log"} <= kinds
        assert (await board(http))["running"]["order"] == ["code/long"]
        assert (await act(http, "cancel", name="code/long", reason="enough")).status_code == 200
        assert (await until_state(http, "code/long", "cancelled"))["cancel"]["reason"] == "enough"

        await act(http, "publish", to="code", content="exit:3", task_id="bad")
        assert (await until_state(http, "code/bad", "failed"))["failure"]["code"] == "exit"
        await eventually(lambda: _has(http, "trouble", "failed:code/bad"), "the failure needs a person")

        assert (await act(http, "pause", agent="code", reason="for now")).status_code == 200
        await eventually(lambda: _has(http, "trouble", "paused:code"), "the pause needs a person")
        assert (await act(http, "resume", agent="code")).status_code == 200
        listed = (await http.get("api/tasks", params={"state": "failed"})).json()["tasks"]
        assert [one["id"] for one in listed] == ["bad"]
        assert (await http.get("api/tasks", params={"state": "odd"})).status_code == 422
        spent = (await http.get("api/cost", params={"days": "1"})).json()
        assert spent["by_agent"][0]["name"] == "code"
    told = {line.what for line in await newest_lines(coordinator.bus, Wanted(), 50) if line.who == "main"}
    assert {"publish", "cancel", "retry", "pause", "resume"} <= told


async def _has(http: httpx2.AsyncClient, section: str, key: str) -> bool:
    return any(found.startswith(key) for found in (await board(http)).get(section, {}).get("rows", {}))


async def test_of_two_people_who_answer_one_question_the_second_is_told_of_the_first(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with (
        worker(worker_toml(tmp_path, server.url)),
        ui_server(tmp_path / "ui.log", "--nats-url", server.url) as ui,
        browser(ui) as one,
        browser(ui, await new_link(one)) as other,
    ):
        await act(one, "publish", to="code", content="approval", task_id="ask")
        await eventually(lambda: _has(one, "questions", "code/ask"), "the question needs a person")
        answers = await asyncio.gather(
            act(one, "answer", id="code/ask", approve=True), act(other, "answer", id="code/ask", approve=False)
        )
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        [told] = [answer.json()["error"] for answer in answers if answer.status_code == 409]
        assert "answer" in told
        await eventually(lambda: _gone(one), "the question is gone")


async def _gone(http: httpx2.AsyncClient) -> bool:
    return not (await board(http)).get("questions", {"order": [0]})["order"]


async def test_a_long_prompt_is_cut_and_shown_whole_when_asked_for(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    prompt = "a\u202eb" + "x" * 900_000
    await coordinator.publish("code", prompt, task_id="long")
    async with ui_server(tmp_path / "ui.log", "--nats-url", server.url) as ui, browser(ui) as http:
        found = await task(http, "code/long")
        assert found["prompt"]["chars"] == len(prompt)
        assert len(found["prompt"]["text"]) < 21_000
        assert found["prompt"]["text"].startswith(r"a\u202eb")  # what is hidden is shown
        whole = (await http.get("api/text", params={"name": "code/long", "part": "prompt"})).text
        assert whole == prompt.replace("\u202e", r"\u202e")

"""What the page answers to what its own pages do not ask, and what it says to a person who has mistyped."""

from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.provision.nats_server import NatsServer
from support.ui_page import act, browser, frames, ui_server

pytestmark = pytest.mark.posix("not tried on Windows")

LARGE = "9" * 5_000


async def test_a_number_that_is_too_large_is_none_and_no_fault_of_the_server(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    async with ui_server(tmp_path / "ui.log", "--nats-url", server.url) as ui, browser(ui) as http:
        boot = (await http.get("api/board")).json()["boot"]
        for path, field in (("cost", "days"), ("questions", "cursor"), ("tasks", "cursor")):
            answer = await http.get(f"api/{path}", params={field: LARGE})
            assert answer.status_code == 200, (path, answer.text)
        assert (await http.get("api/cost", params={"days": "99999"})).json()["days"] == 38
        async for name, _, _ in frames(http, since=LARGE, boot=boot):
            assert name == "hello"
            break
    assert "Traceback" not in (tmp_path / "ui.log").read_text(encoding="utf-8")


async def test_a_task_for_an_agent_that_was_never_seen_is_published_with_the_name_that_was_meant(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
):
    await set_up(coordinator.bus, ["code"])
    async with ui_server(tmp_path / "ui.log", "--nats-url", server.url) as ui, browser(ui) as http:
        said = (await act(http, "publish", to="cod", content="x")).json()
        assert said["name"].startswith("cod/")
        assert said["note"] == (
            "this bus has never seen an agent cod: the task waits for its first worker; did you mean code?"
        )
        assert "note" not in (await act(http, "publish", to="code", content="x")).json()

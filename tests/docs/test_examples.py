"""The programs in docs/examples do what the pages say, and the pages show them as they are."""

import os
import shutil
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.config.loading import URL_VARIABLE
from agentbus.provision.nats_server import NatsServer
from agentbus.testing.fake_agent import fake_agent
from agentbus.testing.temporary_bus import temporary_bus
from support.documentation import EXAMPLES, marked, run
from support.harness import ROOT, Process, Ran, eventually, process, worker, worker_toml

pytestmark = pytest.mark.posix("the documentation is checked on one system")


def test_examples_are_shown_as_they_are() -> None:
    shown = {ROOT / block.marker.removeprefix("same as "): block.text for block in marked("same as .*")}
    assert set(shown) == set(EXAMPLES.glob("*.py"))
    for path, text in shown.items():
        assert path.read_text(encoding="utf-8") == text, path.name


def example_environment(server: NatsServer) -> dict[str, str]:
    return {**os.environ, URL_VARIABLE: server.url, "PYTHONUNBUFFERED": "1"}


async def test_the_example_ask_one_prints_the_whole_output_or_why_there_is_none(tmp_path: Path) -> None:
    async with temporary_bus() as bus, fake_agent(bus, "code") as code:

        async def ask() -> Ran:
            env = {**os.environ, URL_VARIABLE: bus.url}
            return await run(sys.executable, str(EXAMPLES / "ask_one.py"), cwd=tmp_path, env=env)

        code.answer("x" * 100_000)
        answered = await ask()
        code.fail("no repository here", exit_code=3)
        failed = await ask()
    assert (answered.code, answered.out) == (0, "x" * 100_000), answered.err
    assert failed.out.startswith("failed ")
    assert "no repository here" in failed.out


async def test_the_example_fan_out_prints_every_answer(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        for agent in ("code", "doc"):
            await stack.enter_async_context(worker(worker_toml(tmp_path, server.url, agent=agent)))
        ran = await run(sys.executable, str(EXAMPLES / "fan_out.py"), cwd=tmp_path, env=example_environment(server))
    assert ran.code == 0, ran.err
    assert "code completed What" in ran.out
    assert "doc completed What" in ran.out


async def test_the_example_many_publishes_each_file_once(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / name).touch()
    argv = [sys.executable, str(EXAMPLES / "many.py"), str(folder)]
    first = await run(*argv, cwd=tmp_path, env=example_environment(server))
    (folder / "three").touch()
    second = await run(*argv, cwd=tmp_path, env=example_environment(server))
    assert (first.out.count("is published"), first.code) == (2, 0), first.err
    assert (second.out.count("is published"), second.out.count("was published before")) == (1, 2), second.err
    assert len((await coordinator.list_tasks()).tasks) == 3


async def test_the_example_test_review_passes_in_a_project_of_its_own(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "test_review.py", tmp_path)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_review.py"]
    ran = await run(*argv, cwd=tmp_path, env=dict(os.environ))
    assert ran.code == 0, ran.out
    assert "2 passed" in ran.out


async def test_the_example_temporary_bus_needs_nothing(tmp_path: Path) -> None:
    ran = await run(sys.executable, str(EXAMPLES / "temporary_bus.py"), cwd=tmp_path, env=dict(os.environ))
    assert (ran.code, ran.out) == (0, "code completed\ndoc failed\n"), ran.err


async def test_the_example_follow_goes_on_where_it_stopped(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    @asynccontextmanager
    async def follow(name: str) -> AsyncGenerator[Process]:
        argv = [sys.executable, str(EXAMPLES / "follow.py")]
        with process(argv, tmp_path / name, cwd=tmp_path, env=example_environment(server)) as child:
            yield child

    async with worker(worker_toml(tmp_path, server.url)):
        first = await coordinator.publish("code", "say:one", task_type="test")
        async with follow("first.log") as child:
            await child.until_said(f"completed {first.id} one")
            await eventually((tmp_path / "inbox.cursor").exists, "the cursor is kept")
        (tmp_path / "inbox.new").write_text("", encoding="utf-8")  # killed while it wrote the next place
        second = await coordinator.publish("code", "say:two", task_type="test")
        async with follow("second.log") as child:
            await child.until_said(f"completed {second.id} two")
            assert not child.said(first.id)

"""`agentbus watch`: one safe line an event, from now or behind a position, over a bus that is away, to a clean end."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.notify.host_session import ENVIRONMENT, host_session
from agentbus.notify.session_tasks import FOLDER, PublishedTasks, SessionTasks
from agentbus.provision.nats_server import NatsServer, run_server
from support.free_ports import free_port
from support.harness import BOUND_S, eventually
from support.mcp_harness import settle

pytestmark = pytest.mark.posix("signals end the command")


@asynccontextmanager
async def watch(url: str, *args: str, ready: bool = True, **env: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentbus", "watch", "--nats-url", url, *args,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **env},
    )  # fmt: skip
    try:
        if ready:
            await said(child, "connected")
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def line_of(child: asyncio.subprocess.Process) -> str:
    assert child.stdout is not None
    async with asyncio.timeout(BOUND_S):
        return (await child.stdout.readline()).decode().rstrip("\n")


async def said(child: asyncio.subprocess.Process, text: str) -> None:
    assert child.stderr is not None
    async with asyncio.timeout(BOUND_S):
        while text.encode() not in (line := await child.stderr.readline()):
            assert line, f"it ended without saying {text!r}"


async def finish(bus: Coordinator, task_id: str, **how: str) -> None:
    task = await bus.publish("code", "x", task_id=task_id)
    await settle(bus, task_id, task=task.message, **how)  # pyright: ignore[reportArgumentType]


async def until_followed(bus: Coordinator) -> None:
    async def followed() -> bool:
        return (await bus.bus.api("STREAM.INFO.KV_AGENT_STATE"))["state"]["consumer_count"] > 0

    await eventually(followed, "the ledger is followed")


async def test_events_are_lines_of_text_or_json_and_the_position_is_kept(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await set_up(coordinator.bus, ["code"])
    position = str(tmp_path / "position.json")
    async with watch(server.url, "--position", position, ready=False) as child:
        await until_followed(coordinator)
        await finish(coordinator, "one", output="\x1b[1m")
        found = json.loads(await line_of(child))
        assert (found["event"], found["task_id"], found["status"], found["text"]) == (
            "settled", "one", "completed", "task one of agent code completed",
        )  # fmt: skip
        child.send_signal(signal.SIGINT)
        assert await child.wait() == 130
    for number in range(3):
        await finish(coordinator, f"away-{number}", status=("completed", "failed", "needs_approval")[number])
    async with watch(server.url, "--position", position, "--lines", "--on", "failed,asks", ready=False) as child:
        assert await line_of(child) == "agentbus: task away-1 of agent code failed"
        assert await line_of(child) == "agentbus: task away-2 of agent code asks for an approval"


async def test_a_bus_that_comes_later_is_waited_for_and_a_reader_that_goes_ends_the_command(tmp_path: Path) -> None:
    port = free_port()
    async with watch(f"nats://127.0.0.1:{port}", "--lines", ready=False) as child:
        await said(child, "connection refused")
        async with run_server(store=tmp_path / "store", port=port) as server, connect(server.url) as bus:
            await set_up(bus.bus, ["code"])
            await until_followed(bus)
            await finish(bus, "one")
            assert await line_of(child) == "agentbus: task one of agent code completed"
            child.stdout._transport.close()  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess, reportUnknownMemberType]  # no public way to close a pipe of a child
            async with asyncio.timeout(BOUND_S):
                assert await child.wait() == 0


async def test_a_session_is_told_of_its_own_tasks_and_not_of_those_whose_results_it_has_seen(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_up(coordinator.bus, ["code"])
    monkeypatch.setenv(ENVIRONMENT, "second")
    PublishedTasks("main").note([("code", "of-second")])
    monkeypatch.setenv(ENVIRONMENT, "first")
    PublishedTasks("main").note([("code", "of-first")])
    mine = PublishedTasks("main")
    mine.note([("code", "seen"), ("code", "last")])
    mine.saw([("code", "seen")])
    for task_id in ("of-second", "seen", "of-first", "last"):
        await finish(coordinator, task_id)
    async with watch(server.url, "--session", ready=False, **{ENVIRONMENT: "first"}) as child:
        lines = [await line_of(child), await line_of(child)]
        await eventually(lambda: list(Path(FOLDER).expanduser().glob("*.position")), "what was told is noted")
    assert lines == [
        "agentbus: task of-first of agent code completed; get_results reads its result",
        "agentbus: task last of agent code completed; get_results reads its result",
    ]
    async with watch(server.url, "--session", ready=False, **{ENVIRONMENT: "first"}) as child:
        mine.note([("code", "later")])
        await finish(coordinator, "later")
        assert "task later of" in await line_of(child), "the others are not told again"


async def test_what_servers_have_noted_is_private_bounded_and_read_with_care(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, "one")
    server = PublishedTasks("main")
    server.note(("code", f"t{number}") for number in range(2_100))
    folder = Path(FOLDER).expanduser()
    [file] = folder.glob("*.json")
    assert (file.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    for number, wrong in enumerate(["", "[]", "[" * 9_000, '{"tasks": [{"agent": "\\u001b", "id": "x"}]}', "\xff"]):
        (folder / f"wrong-{number}.json").write_text(wrong, encoding="utf-8")
    tasks = SessionTasks(host_session())
    tasks.look()
    assert tasks.agents == {"code"}
    assert len(tasks._tasks) == 2_000  # pyright: ignore[reportPrivateUsage]

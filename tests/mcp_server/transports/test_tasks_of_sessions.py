"""The stdio server notes what the session of its host has published and seen, for the monitor of that session."""

import sys
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.notify.host_session import ENVIRONMENT, HostSession, host_session
from agentbus.notify.session_tasks import SessionTasks
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from support.harness import run_python
from support.mcp_harness import data_of, over_stdio, settle

pytestmark = pytest.mark.posix("not tried on Windows")


async def test_what_is_published_and_what_is_read_is_noted_for_this_session_alone(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await set_up(coordinator.bus, ["code"])
    async with over_stdio(tmp_path / "log", "auto", "--nats-url", server.url, env={ENVIRONMENT: "mine"}) as client:
        call = {"to": ["code"], "content": "x", "task_type": "test"}
        for task_id in ("read", "unread"):
            data_of(await client.call_tool("publish_task", {**call, "task_id": task_id}))
        await settle(coordinator, "read")
        data_of(await client.call_tool("get_results", {"task_ids": ["read"]}))
    mine, other = SessionTasks(HostSession("named:mine")), SessionTasks(HostSession("named:other"))
    mine.look()
    other.look()
    read, unread = TaskKey("code", "read"), TaskKey("code", "unread")
    assert [read in mine, mine.is_seen(read), unread in mine, mine.is_seen(unread)] == [True, True, True, False]
    assert read not in other
    assert mine.began is not None


async def test_server_and_monitor_find_their_host_through_shells_and_launchers() -> None:
    """Both are started by this process: one directly, one by a shell."""
    show = (
        "from agentbus.notify.host_session import host_session as find; "
        "print(find().process, find({'AGENTBUS_SESSION': 'x'}).id)"
    )
    direct = await run_python("-c", show)
    shell = "import subprocess, sys; subprocess.run(['sh', '-c', f'\"$1\" -c \"$2\"; true', 'sh', *sys.argv[1:]])"
    by_shell = await run_python("-c", shell, sys.executable, show)
    assert direct.out == by_shell.out
    process, named = direct.out.split()
    assert named == "named:x"
    assert process == host_session({}).process
    one, two = HostSession("id:1", "7@1.00", 7), HostSession("id:2", "7@1.00", 7)
    assert one.is_that_of(two), "after /clear the process is the same"
    assert one.is_that_of(HostSession("id:1", "8@2.00", 8)), "a session that is resumed has the same id"
    assert not one.is_that_of(HostSession("id:2", "7@2.00", 7)), "a number of a process is used again"
    assert not HostSession().is_that_of(HostSession())
    assert not HostSession("", "1@0.00", 1).lives

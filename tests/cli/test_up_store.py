"""`agentbus up` on a store that another one uses: two servers on one store would write over each other's messages."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from agentbus.provision.nats_server import BINARY_VARIABLE
from support.harness import Process, alive, eventually, process, run_cli

pytestmark = pytest.mark.posix("signals")


def up_on(store: Path) -> list[str]:
    return [sys.executable, "-m", "agentbus", "up", "--port", "0", "--store", str(store)]


async def serving(up: Process) -> dict[str, Any]:
    """What it says of itself once it serves."""
    line = await eventually(
        lambda: [one for one in up.log.read_text(encoding="utf-8").splitlines() if one.startswith("{")],
        "it says where the bus is",
    )
    return json.loads(line[0])


async def refused(store: Path) -> str:
    ran = await run_cli("up", "--port", "0", "--store", str(store))
    assert (ran.code, ran.out) == (1, "")
    [line] = ran.err.splitlines()
    return line


async def test_a_second_up_on_a_store_is_refused_and_names_the_first(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with process(up_on(store), tmp_path / "first") as first:
        bus = await serving(first)
        assert await refused(store) == (
            f"error: another `agentbus up` (process {first.pid}) serves {store} at {bus['url']}; "
            "use that bus, or take another folder with --store"
        )
        assert (await run_cli("status", "--nats-url", bus["url"])).code == 0
        os.kill(first.pid, signal.SIGTERM)
        assert await first.exit_code() == 0
    with process(up_on(store), tmp_path / "next") as following:
        await serving(following)


async def test_a_second_up_is_refused_while_the_server_of_the_first_is_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, binary = tmp_path / "store", tmp_path / "never-ready"
    binary.write_text("#!/bin/sh\nexec sleep 1000\n", encoding="utf-8")
    binary.chmod(0o700)
    monkeypatch.setenv(BINARY_VARIABLE, str(binary))
    with process(up_on(store), tmp_path / "first") as loading:
        await loading.until_said("is loading")
        assert await refused(store) == (
            f"error: another `agentbus up` (process {loading.pid}) is starting with {store}; "
            "wait for it, or take another folder with --store"
        )
        os.kill(loading.pid, signal.SIGTERM)
        assert await loading.exit_code() == 0


async def test_a_store_is_free_after_a_kill_once_its_server_is_gone_too(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with process(up_on(store), tmp_path / "first") as first:
        server = (await serving(first))["pid"]
        try:
            first.kill()
            said = await refused(store)
        finally:
            os.kill(server, signal.SIGKILL)
    assert said.startswith(f"error: the nats-server (process {server}, at nats://127.0.0.1:")
    assert said.endswith(f") of an `agentbus up` that was killed still uses {store}; end that process first")
    await eventually(lambda: not alive(server), "the server is gone")
    with process(up_on(store), tmp_path / "next") as following:
        await serving(following)

"""`agentbus up` on a store that the server needs long to load. Here, what holds it up is a file that is missing."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from agentbus.provision.nats_server import BINARY_VARIABLE, find_binary
from support.harness import eventually, process

pytestmark = pytest.mark.posix("the slow server is a shell script")

LONGEST_START_ONCE_S = 20.0
"""After so long, earlier versions ended the server, and the next start met the same."""


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file without which nats-server does not go on."""
    binary, gate = tmp_path / "slow-nats-server", tmp_path / "loaded"
    binary.write_text(
        f"#!/bin/sh\nwhile [ ! -e '{gate}' ]; do sleep 0.1; done\nexec '{find_binary().absolute()}' \"$@\"\n",
        encoding="utf-8",
    )
    binary.chmod(0o700)
    monkeypatch.setenv(BINARY_VARIABLE, str(binary))
    return gate


def command(tmp_path: Path) -> list[str]:
    return [sys.executable, "-m", "agentbus", "up", "--port", "0", "--store", str(tmp_path / "store")]


@pytest.mark.parametrize("for_s", [0.0, pytest.param(LONGEST_START_ONCE_S + 3, marks=pytest.mark.long)])
async def test_up_waits_for_a_server_that_is_loading_and_says_so(tmp_path: Path, loaded: Path, for_s: float):
    out = tmp_path / "out"
    started = time.monotonic()
    with process(command(tmp_path), out) as up:
        said = f"nats-server is loading what {tmp_path / 'store'} holds"
        await eventually(lambda: said in out.read_text(encoding="utf-8"), "it says what it waits for")
        await eventually(lambda: time.monotonic() > started + for_s, "so long", timeout_s=2 * for_s + 1)
        loaded.touch()
        line = await eventually(
            lambda: [one for one in out.read_text(encoding="utf-8").splitlines() if one.startswith("{")],
            "it says where the bus is",
        )
        assert json.loads(line[0])["url"].startswith("nats://127.0.0.1:")
        os.kill(up.pid, signal.SIGTERM)
        assert await up.exit_code() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_up_is_ended_by_a_signal_while_its_server_is_loading(
    tmp_path: Path, loaded: Path, number: signal.Signals
):
    out = tmp_path / "out"
    with process(command(tmp_path), out) as up:
        await eventually(lambda: "is loading" in out.read_text(encoding="utf-8"), "it says what it waits for")
        os.kill(up.pid, number)
        assert await up.exit_code() == 0
    assert not loaded.exists()

"""What a worker is called on a host of any name."""

import os
import re
import socket

import pytest

from agentbus import Coordinator
from agentbus.tasks.presence import Presence, announce
from agentbus_worker.identity import host_name, new_instance

HOSTS = {
    "build.example.com": "build",
    "two words": "two-words",
    "tab\there": "tab-here",
    "line\r\nfeed": "line-feed",
    "a*b>c": "a-b-c",
    "bücher": "b-cher",
    "書籍": "host",
    ".local": "host",
    "": "host",
    "caf\udce9": "caf",  # bytes that are not UTF-8
    "x" * 64: "x" * 64,
}


async def test_a_worker_is_seen_whatever_its_host_is_called(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch):
    for host, shown in HOSTS.items():
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        instance = new_instance()
        assert re.fullmatch(rf"{re.escape(shown)}-{os.getpid()}-[0-9a-f]{{6}}", instance)
        await announce(
            coordinator.bus,
            Presence(
                agent="code", instance=instance, host=host_name(), pid=1, version="1", slots=1, free=1, started_at="now"
            ),
        )
    assert len(await coordinator.agents("code")) == len(HOSTS)

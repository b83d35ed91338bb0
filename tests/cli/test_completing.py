"""Tab completion offers agents, tasks and groups of the bus, at once, and says nothing where there is no bus."""

import json
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.cli.completing import Names, _checked  # pyright: ignore[reportPrivateUsage]
from agentbus.provision.nats_server import NatsServer
from support.free_ports import free_port
from support.harness import Ran, run_cli


async def completed(home: Path, url: str, *words: str) -> Ran:
    """Run what bash runs when Tab is pressed behind these words."""
    environment = {
        "HOME": str(home), "AGENTBUS_NATS_URL": url, "_AGENTBUS_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["agentbus", *words]), "COMP_CWORD": str(len(words)),
    }  # fmt: skip
    return await run_cli(env=environment)


def offered(ran: Ran) -> list[str]:
    assert ran.err == ""
    return [line.partition(",")[2] for line in ran.out.splitlines() if line]


@pytest.mark.posix("modes of files")
async def test_names_of_the_bus_are_offered_also_from_the_cache_when_it_is_away(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish("code", "x", task_id="job-1", group="release")
    await coordinator.publish("doc", "x", task_id="other")
    assert offered(await completed(tmp_path, server.url, "task", "get", "jo")) == ["job-1"]
    assert offered(await completed(tmp_path, server.url, "task", "get", "code/")) == ["code/job-1"]
    assert offered(await completed(tmp_path, server.url, "run", "")) == ["code", "doc"]
    assert offered(await completed(tmp_path, server.url, "task", "list", "--group", "r")) == ["release"]
    [cache] = (tmp_path / ".agentbus" / "cache").iterdir()
    assert cache.stat().st_mode & 0o077 == 0
    await server.stop()
    assert offered(await completed(tmp_path, server.url, "run", "d")) == ["doc"]


async def test_without_a_bus_nothing_is_offered_and_nothing_said(tmp_path: Path) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    assert offered(await completed(tmp_path, url, "task", "get", "")) == []
    assert offered(await completed(tmp_path, "no url", "run", "")) == []


def test_a_cache_that_was_tampered_with_offers_names_only() -> None:
    found: Names = _checked(
        json.loads(
            '{"agents": ["code", "$(id)", 7], "tasks": [["a;b", "x", "y"], ["ok", "ok", "q"]], "groups": [null]}'
        )
    )
    assert found == {"agents": ["code"], "tasks": [["ok", "ok", "q"]], "groups": []}

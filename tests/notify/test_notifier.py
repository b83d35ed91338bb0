"""Notifications reach a real server or command once each, whatever hangs or fails, also after an absence."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.cli.coordinator.events.notifying import target_of
from agentbus.errors import ConfigError, NotDeliveredError
from agentbus.notify import notifier as module
from agentbus.notify.notifier import Notifier, open_notifier
from agentbus.notify.targets import CommandTarget, Target, UrlTarget
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.events.task_event import TaskEvent
from support.harness import BOUND_S, alive, eventually, process
from support.mcp_harness import settle

PAYLOAD = {"id": "settled:main:code:one", "text": "task one of agent code completed"}


@dataclass
class Post:
    head: str
    body: str


@dataclass
class Web:
    """An HTTP server that answers with the next status of a list, and hangs or hangs up where it says so."""

    port: int = 0
    answers: list[int | str] = field(default_factory=list[int | str])
    posts: list[Post] = field(default_factory=list[Post])

    @property
    def url(self) -> str:
        return f"http://user:se%20cret@127.0.0.1:{self.port}/hook/t0ken?key=k3y"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            [length] = [line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-length")]
            self.posts.append(Post(head, (await reader.readexactly(int(length))).decode()))
            answer = self.answers.pop(0) if self.answers else 204
            if answer == "hang":
                await reader.read()
            elif isinstance(answer, int):
                writer.write(
                    f"HTTP/1.1 {answer} Word\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".encode()
                )
                await writer.drain()
        writer.close()


@pytest.fixture
async def web() -> AsyncGenerator[Web]:
    found = Web()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()
    await server.wait_closed()


def event(number: int) -> TaskEvent:
    return TaskEvent("settled", "main", "code", TaskKey("code", f"t{number}"), "completed", datetime.now(UTC))


@contextlib.asynccontextmanager
async def delivering(
    target: Target, file: Path, *events: TaskEvent, give_up_s: float = 600
) -> AsyncGenerator[Notifier]:
    async with open_notifier(target, file, give_up_s) as notifier:
        running = asyncio.create_task(notifier.run())
        for one in events:
            notifier.position.reach(one.at)
            await notifier.take(one)
        yield notifier
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def waiting(file: Path) -> list[str]:
    if not file.exists():
        return ["nothing was written yet"]
    return [one["payload"]["task_id"] for one in json.loads(file.read_text(encoding="utf-8"))["waiting"]]


async def test_a_post_carries_the_event_and_nothing_of_the_address_is_told(web: Web) -> None:
    await UrlTarget(web.url, 30).send(PAYLOAD)
    await UrlTarget(web.url, 30, "text").send(PAYLOAD)
    first, second = web.posts
    assert first.head.startswith("POST /hook/t0ken?key=k3y HTTP/1.1\r\n")
    assert "Authorization: Basic dXNlcjpzZSBjcmV0\r\n" in first.head
    assert "Idempotency-Key: settled:main:code:one\r\n" in first.head
    assert json.loads(first.body) == PAYLOAD
    assert second.body == "agentbus: task one of agent code completed"
    for answer in (500, 302, "hang", "hang up"):
        web.answers = [answer]
        with pytest.raises(NotDeliveredError, match=r"http://127\.0\.0\.1 ") as failed:
            await UrlTarget(web.url, 0.3).send(PAYLOAD)
        assert not any(secret in str(failed.value) for secret in ("t0ken", "k3y", "cret", "user"))
    with pytest.raises(NotDeliveredError, match="cannot be reached"):
        await UrlTarget("http://127.0.0.1:1/secret", 5).send(PAYLOAD)
    for wrong in ("", "ftp://x", "https://", "http://[::1", "http://h:99999/secret", "http://a\nb/secret"):
        with pytest.raises(ConfigError, match="the URL for notifications") as refused:
            UrlTarget(wrong, 30)
        assert "secret" not in str(refused.value)


async def test_an_address_may_have_blanks_and_letters_of_any_language(web: Web) -> None:
    await UrlTarget(f"http://127.0.0.1:{web.port}/my chat/größe%20x?für=a b", 30).send(PAYLOAD)
    assert web.posts[0].head.startswith("POST /my%20chat/gr%C3%B6%C3%9Fe%20x?f%C3%BCr=a%20b HTTP/1.1\r\n")
    with pytest.raises(NotDeliveredError, match="cannot be reached"):
        await UrlTarget("http://bücher.invalid/", 30).send(PAYLOAD)
    for wrong in (f"http://{'a' * 64}.invalid/secret", "http://a..b/secret"):
        with pytest.raises(ConfigError, match="the URL for notifications") as refused:
            UrlTarget(wrong, 30)
        assert "secret" not in str(refused.value)


@pytest.mark.posix("process groups")
async def test_a_command_gets_the_event_on_standard_input_and_one_that_hangs_is_ended_with_its_children(
    tmp_path: Path,
) -> None:
    got = tmp_path / "got"
    keep = f"import sys, pathlib; pathlib.Path({str(got)!r}).write_text(sys.stdin.read() + repr(sys.argv))"
    await CommandTarget((sys.executable, "-c", keep, "; touch x"), 30).send(PAYLOAD)
    assert got.read_text(encoding="utf-8") == json.dumps(PAYLOAD) + "\n['-c', '; touch x']"
    with pytest.raises(NotDeliveredError, match="ended with exit code 3"):
        await CommandTarget((sys.executable, "-c", "raise SystemExit(3)"), 30).send(PAYLOAD)
    with pytest.raises(NotDeliveredError, match="cannot be started: No such file"):
        await CommandTarget((str(tmp_path / "none"),), 30).send(PAYLOAD)
    hangs = f"sleep 600 & echo $! > {tmp_path}/child; wait"
    with pytest.raises(NotDeliveredError, match=r"did not end within 0\.5 s"):
        await CommandTarget(("sh", "-c", hangs), 0.5).send(PAYLOAD)
    child = int((tmp_path / "child").read_text(encoding="utf-8"))
    await eventually(lambda: not alive(child), "what the command has started is gone")


async def test_what_is_refused_is_sent_again_and_holds_up_no_other(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_RETRY_S", 0.05)
    file = tmp_path / "state.json"
    web.answers = [500, "hang up", "hang", 204]
    async with delivering(UrlTarget(web.url, 0.5), file, *(event(number) for number in range(4))):
        await eventually(lambda: len(web.posts) == 7 and not waiting(file), "all were taken")
    tasks = [json.loads(post.body)["task_id"] for post in web.posts]
    assert sorted(set(tasks)) == ["t0", "t1", "t2", "t3"]
    assert len(tasks) == 7, "each that was refused was sent once more"
    assert file.stat().st_mode & 0o777 == 0o600 or os.name == "nt"


async def test_what_was_not_taken_is_sent_by_the_next_run_and_is_given_up_in_the_end(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "state.json"
    web.answers = [503, 503]
    async with delivering(UrlTarget(web.url, 5), file, event(1), event(2)):
        with pytest.raises(ConfigError, match="another agentbus notify runs with"):
            async with open_notifier(UrlTarget(web.url, 5), file, 1):
                pass
        await eventually(lambda: len(web.posts) == 2, "both were sent")
    async with delivering(UrlTarget(web.url, 5), file):
        await eventually(lambda: len(web.posts) == 4 and not waiting(file), "both were taken")
    assert sorted(json.loads(post.body)["task_id"] for post in web.posts) == ["t1", "t1", "t2", "t2"]
    web.answers = [503]
    async with delivering(UrlTarget(web.url, 5), file, event(3), give_up_s=0):
        await eventually(lambda: len(web.posts) == 5 and not waiting(file), "it is given up")
    for wrong in ("", "[]", '{"position": {}}', '{"position": {"at": "x"}}', "[" * 9_000):
        file.write_text(wrong, encoding="utf-8")
        with pytest.raises(ConfigError, match="is no state of agentbus notify; remove it to begin now"):
            async with open_notifier(UrlTarget(web.url, 5), file, 1):
                pass


@pytest.mark.posix("signals end the command")
async def test_a_machine_that_was_off_is_told_of_each_event_once(
    web: Web, server: NatsServer, coordinator: Coordinator, tmp_path: Path, home: Path
) -> None:
    await set_up(coordinator.bus, ["code"])
    url = tmp_path / "url"
    url.write_text(web.url + "\n", encoding="utf-8")
    url.chmod(0o600)

    async def finish(task_id: str, **how: Any) -> None:
        task = await coordinator.publish("code", "x", task_id=task_id)
        await settle(coordinator, task_id, task=task.message, **how)

    def told() -> list[str]:
        return [json.loads(post.body)["task_id"] for post in web.posts]

    @contextlib.contextmanager
    def running():
        argv = [sys.executable, "-m", "agentbus", "notify", "--nats-url", server.url, "--url-file", str(url)]
        with process([*argv, "--on", "failed,asks"], tmp_path / "log") as child:
            yield child
            child.popen.send_signal(signal.SIGINT)
            assert child.popen.wait(BOUND_S) == 130

    with running():
        await eventually(lambda: list((home / ".agentbus" / "notify").glob("*.json")), "it has begun")
    await finish("quiet")
    await finish("bad", status="failed")
    await finish("ask", status="needs_approval")
    with running():
        await eventually(lambda: len(told()) == 2, "the absence is told")
        await finish("worse", status="failed")
        await eventually(lambda: len(told()) == 3, "what follows is told")
    with running():
        await finish("last", status="failed")
        await eventually(lambda: "last" in told(), "and after one more start")
    assert told() == ["bad", "ask", "worse", "last"] or sorted(told()[:2]) == ["ask", "bad"]
    assert len(told()) == 4
    assert "t0ken" not in (tmp_path / "log").read_text(encoding="utf-8")


@pytest.mark.posix("an executable script")
async def test_a_command_beside_the_person_is_run_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "tell-me"
    script.write_text("#!/bin/sh\ncat > got\n", encoding="utf-8")
    script.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for command in ("./tell-me", "~/tell-me"):
        await target_of(command, None, None, 30, "json").send(PAYLOAD)
        assert json.loads((tmp_path / "got").read_text(encoding="utf-8")) == PAYLOAD
        (tmp_path / "got").unlink()

"""A name that another program has for a command is answered with the command, which exists."""

import re
import shlex
from pathlib import Path

import click
import pytest

from agentbus import Coordinator
from agentbus.cli import guessed_names, root
from agentbus.cli.lazy_group import LazyCommand
from agentbus.provision.nats_server import NatsServer
from support.harness import eventually, run_cli, worker, worker_toml
from support.jobs import pid_from, publish
from support.pseudo_terminal import on_terminal

NAMED = re.compile(r"`(agentbus [^`]+)`")
GUESSED = {
    (group, name): text
    for group in ("agentbus", "agentbus agent", "agentbus task", "agentbus worker")
    for name, text in guessed_names._GUESSED[group].items()  # pyright: ignore[reportPrivateUsage]
}


def command_of(line: str) -> click.Command:
    """Find the command that a line begins with."""
    found: click.Command = root
    for word in shlex.split(line)[1:]:
        found = found.load() if isinstance(found, LazyCommand) else found
        if not isinstance(found, click.Group):
            break
        inner = found.get_command(click.Context(found), word)
        assert inner is not None, line
        found = inner
    return found.load() if isinstance(found, LazyCommand) else found


@pytest.mark.parametrize(("group", "name"), GUESSED)
def test_each_answer_names_commands_and_options_that_there_are(group: str, name: str):
    text = GUESSED[group, name]
    lines = NAMED.findall(text)
    assert lines
    for line in lines:
        command = command_of(line)
        options = {option for one in command.params for option in one.opts}
        assert {word for word in shlex.split(line) if word.startswith("-")} <= options, line
    own = command_of(group)
    assert isinstance(own, click.Group)
    assert own.get_command(click.Context(own), name) is None, "a command of that name would never be told of"


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("ps", "agentbus worker list"),
        ("logs", "agentbus task logs ID"),
        ("down", "Ctrl-C where it runs"),
        ("agent show code", "agentbus agent list --agent ID"),
        ("task watch job-1", "agentbus task logs -f ID"),
        ("worker stop", "agentbus agent pause ID"),
    ],
)
async def test_what_a_newcomer_tries_is_answered_with_the_command(line: str, meant: str):
    ran = await run_cli(*line.split())
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert meant in ran.err


async def test_another_mistake_gets_the_nearest_name_as_before():
    ran = await run_cli("task", "lst")
    assert (ran.code, "Did you mean 'list'?" in ran.err) == (2, True)


async def test_help_and_version_are_taken_for_the_options():
    for line, shown in (("help", "Usage: agentbus"), ("help task", "Usage: agentbus task"), ("version", "version")):
        ran = await run_cli(*line.split())
        assert (ran.code, shown in ran.out) == (0, True), line


async def working(server: NatsServer) -> str | None:
    _, shown = await on_terminal("worker", "list", "--nats-url", server.url)
    return shown if "working 1/2" in shown else None


@pytest.mark.posix("runs workers")
async def test_the_list_of_workers_says_what_each_does(tmp_path: Path, server: NatsServer, coordinator: Coordinator):
    none = await on_terminal("worker", "list", "--nats-url", server.url)
    assert none[0] == 0
    assert "no workers are alive" in none[1]
    async with worker(worker_toml(tmp_path, server.url, worker={"concurrency": 2})):
        running = await publish(coordinator, f"pid:{tmp_path}/me sleep:1000")
        await pid_from(tmp_path / "me")
        shown = await eventually(lambda: working(server), "the worker has told that it works")
        assert running in shown
        await coordinator.pause_agent("code", "the key is replaced")
        piped = await run_cli("worker", "list", "--agent", "code", "--nats-url", server.url)
        await coordinator.task(running).cancel()
    assert f'"running":["{running}"]' in piped.out

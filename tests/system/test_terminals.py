"""What another party wrote never acts on a terminal, whichever command shows it; a pipe gets it byte for byte."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import pytest

from agentbus import connect
from agentbus.cli import root
from agentbus.cli.lazy_group import LazyCommand
from agentbus.config.toml_text import toml_text
from agentbus.protocol.json_codec import encode
from agentbus.provision.nats_server import NatsServer, run_server
from support.harness import eventually, run_cli, worker_toml
from support.hidden_characters import ALL, hidden
from support.hostile_bus import AGENT, CLERK, RAW, HostileBus, make_hostile
from support.mcp_harness import result_message
from support.pseudo_terminal import acting, on_terminal, terminal

pytestmark = pytest.mark.posix("a pseudo-terminal")

SHOWN: Final = (r"\x1b]52;c;", r"\u001b]52;c;")
"""How the clipboard sequence is shown, as text and in JSON."""


NO_FILE: Final = ALL.replace("\0", "")[:300]


@dataclass(frozen=True)
class Ground:
    """Where the commands run."""

    bus: HostileBus
    url: str
    folder: Path

    def first(self, state: str, count: int = 1) -> list[str]:
        return self.bus.by_state[state][:count]


@dataclass(frozen=True)
class Shows:
    """How a command is run so that it shows what others wrote.

    Attributes:
        arguments: what follows its name, for each run.
        codes: its exit code.
        quotes: whether the text of others is seen in what it prints.
    """

    arguments: Callable[[Ground], list[list[str]]]
    codes: tuple[int, ...] = (0,)
    quotes: bool = True


def always(*runs: list[str]) -> Callable[[Ground], list[list[str]]]:
    return lambda _: list(runs)


READING: Final[dict[str, Shows]] = {
    "agent list": Shows(always([])),
    "cost": Shows(always(["--by", "sender"])),
    "audit": Shows(always(["--limit", "1000"])),
    "consumers list": Shows(always([], ["--foreign"])),
    "dead list": Shows(always([])),
    "dead show": Shows(lambda ground: [[str(seq) for seq in ground.bus.dead]]),
    "doctor": Shows(always([], ["--json"], ["--role", "administrator"]), (0, 1), quotes=False),
    "question list": Shows(always(["--limit", "200"])),
    "result get": Shows(
        lambda ground: [
            ["--agent", "main", "--limit", "100"],
            ["--agent", AGENT, "--full", ground.bus.output],
            ["--agent", AGENT, "--full", *ground.first("completed")],
        ]
    ),
    "setup": Shows(always(["--agent", AGENT], ["--update", "--agent", CLERK]), quotes=False),
    "status": Shows(always([])),
    "task get": Shows(
        # Each state, and each of the texts, which the numbers of the tasks stand for.
        lambda ground: [
            ["--agent", AGENT, tasks[number % len(tasks)]] for number, tasks in enumerate(ground.bus.by_state.values())
        ]
    ),
    "task list": Shows(always(["--limit", "200"], ["--state", "working"])),
    "task logs": Shows(
        lambda ground: [
            *(["--agent", AGENT, task] for task in ground.bus.by_state["working"]),
            ["--agent", AGENT, "--raw", *ground.first("completed")],
        ]
    ),
    "task wait": Shows(lambda ground: [["--agent", AGENT, *ground.bus.by_state["completed"]]]),
    "work compare": Shows(lambda ground: [["--agent", AGENT, *ground.first("completed"), *ground.first("failed")]]),
    "work diff": Shows(lambda ground: [["--agent", AGENT, *ground.first("completed")]]),
    "work fetch": Shows(
        lambda ground: [["--agent", AGENT, "--to", str(ground.folder / "to"), *ground.first("completed"), NO_FILE]],
        (1,),
    ),
    "work show": Shows(lambda ground: [["--agent", AGENT, *ground.first("completed")]]),
    "worker list": Shows(always([])),
    "top": Shows(always(["--count", "2", "--interval", "0.2"])),
}
ACTING: Final[dict[str, Shows]] = {
    "question answer": Shows(
        lambda ground: [
            ["--deny", "--comment", ALL.replace("\0", "")[:400], f"{AGENT}/{task}#{nonce}-1"]
            for task in ground.first("working")
            for nonce in ("n", "other")
        ]
    ),
    "task answer": Shows(lambda ground: [["--agent", AGENT, "--approve", *ground.first("needs_approval")]]),
    "task cancel": Shows(
        lambda ground: [["--agent", AGENT, *ground.first(state)] for state in ("queued", "completed", "working")]
    ),
    "run": Shows(
        lambda ground: [
            ["--detach", CLERK, ALL.replace("\0", "")],
            # The task of another run: what came of it is shown again.
            *([AGENT, "--task-id", task, "--timeout", "1", "x"] for task in ground.first("completed")),
        ],
        (0, 1),
        quotes=False,
    ),
    "task publish": Shows(
        always(["--to", CLERK, "--task-type", "x", "--task-id", "own", ALL.replace("\0", "")]), quotes=False
    ),
    "agent pause": Shows(always([AGENT, "--reason", ALL.replace("\0", "")[:300]]), quotes=False),
    "agent resume": Shows(always([AGENT]), quotes=False),
    "task retry": Shows(lambda ground: [["--agent", AGENT, *ground.first("completed")]], quotes=False),
    "work apply": Shows(lambda ground: [["--agent", AGENT, *ground.first("completed")]], (1,), quotes=False),
    "consumers remove": Shows(always(["--foreign", "--yes"])),
    "dead requeue": Shows(lambda ground: [[str(ground.bus.dead[0])]], quotes=False),
    "dead drop": Shows(lambda ground: [[str(ground.bus.dead[1])]], quotes=False),
    "backup": Shows(lambda ground: [[str(ground.folder / "backup")]]),
}
ELSEWHERE: Final = {
    "restore": "test_a_restore_names_streams_of_others_without_their_control_characters",
    "worker run": "test_the_log_of_a_worker_on_a_terminal",
    "worker init": "test_a_bundle_that_another_party_made",
    "coordinator init": "test_a_bundle_that_another_party_made",
    "watch": "test_events_on_a_terminal",
    "notify": "test_events_on_a_terminal",
}
"""Commands that take more than a line here, and the test that runs them."""
LOCAL: Final = {
    "agent add", "agent bundle", "agent remove", "agent rotate", "completion", "coordinator add", "coordinator bundle",
    "coordinator list", "coordinator remove", "coordinator rotate", "demo", "init", "mcp config",
    "mcp token add", "mcp token list", "mcp token remove", "mcp token rotate",
    "plugin build", "service install", "service status", "service uninstall", "skill install", "ui", "up",
    "work rescue",
}  # fmt: skip
"""Commands that show nothing but what the person who runs them has on this machine."""


def commands(group: click.Command = root, *path: str) -> Iterator[str]:
    command = group.load() if isinstance(group, LazyCommand) else group
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, *path, name)
    else:
        yield " ".join(path)


def test_every_command_has_its_place_here():
    known = [*READING, *ACTING, *ELSEWHERE, *LOCAL]
    assert sorted(known) == sorted(commands())
    assert set(ELSEWHERE.values()) <= set(globals())


@pytest.fixture(params=[{}, pytest.param({"NO_COLOR": "1"}, marks=pytest.mark.long)], ids=["colour", "no colour"])
def env(request: pytest.FixtureRequest) -> dict[str, str]:
    return request.param


@pytest.fixture
async def ground(server: NatsServer, tmp_path: Path) -> AsyncGenerator[Ground]:
    async with connect(server.url) as bus:
        yield Ground(await make_hostile(bus, server.url), server.url, tmp_path)


async def run_all(ground: Ground, shows: dict[str, Shows], env: dict[str, str]) -> None:
    at_once = asyncio.Semaphore(3)

    async def run(name: str, shows: Shows) -> list[str]:
        faults: list[str] = []
        for arguments in shows.arguments(ground):
            async with at_once:
                code, shown = await on_terminal(*name.split(), "--nats-url", ground.url, *arguments, env=env)
            if code not in shows.codes:
                faults.append(f"{name} {arguments} ended with {code}: {shown[:2000]!a}")
            faults += [f"{name} {arguments}: {fault}" for fault in acting(shown, screen=name == "top")]
            if shows.quotes and not any(text in shown for text in SHOWN):
                faults.append(f"{name} {arguments} does not show what others wrote: {shown[:2000]!a}")
            if "Traceback" in shown:
                faults.append(f"{name} {arguments}: {shown[-3000:]}")
        return faults

    faults = await asyncio.gather(*(run(name, one) for name, one in shows.items()))
    assert not any(faults), "\n".join(fault for some in faults for fault in some)


async def test_no_command_that_reads_lets_text_of_others_act_on_a_terminal(ground: Ground, env: dict[str, str]):
    await run_all(ground, READING, env)


async def test_no_command_that_acts_lets_text_of_others_act_on_a_terminal(ground: Ground, env: dict[str, str]):
    for name, shows in ACTING.items():
        await run_all(ground, {name: shows}, env)


async def test_events_on_a_terminal(ground: Ground, env: dict[str, str]):
    position = {"at": "2020-01-01T00:00:00+00:00"}
    (ground.folder / "watch.json").write_text(json.dumps(position), encoding="utf-8")
    (ground.folder / "notify.json").write_text(json.dumps({"position": position}), encoding="utf-8")
    for name, more in (
        ("watch", ["--position", str(ground.folder / "watch.json")]),
        ("notify", ["--exec", "cat /nonexistent", "--state", str(ground.folder / "notify.json")]),
    ):
        argv = ["-m", "agentbus", name, "--nats-url", ground.url, *more]
        async with terminal(argv, env=env) as running:
            await running.until_shown("needs_approval" if name == "notify" else "asks for an approval")
            running.child.send_signal(signal.SIGINT)
        assert acting(running.shown) == []
        assert "Traceback" not in running.shown


async def test_the_log_of_a_worker_on_a_terminal(ground: Ground, env: dict[str, str]):
    config = worker_toml(ground.folder, ground.url, agent=CLERK, chat_cmd=["true", "{input}"])
    async with terminal(["-m", "agentbus", "worker", "run", "--config", str(config), "--verbose"], env=env) as worker:
        for number in range(len(ground.bus.by_state["queued"])):
            settled = f"work-{number}: settled"
            await worker.until(lambda settled=settled: settled in worker.text, settled)
        worker.child.send_signal(signal.SIGINT)
    assert worker.child.returncode == 0, worker.shown
    assert acting(worker.shown) == []
    assert SHOWN[1] in worker.shown  # quoted: the quotation is that of JSON


async def test_a_restore_names_streams_of_others_without_their_control_characters(
    ground: Ground, env: dict[str, str], tmp_path: Path
):
    folder = str(tmp_path / "copy")
    made = await run_cli("backup", "--nats-url", ground.url, folder)
    assert made.code == 0, made.err
    async with run_server(store=tmp_path / "other") as empty:
        code, shown = await on_terminal("restore", "--nats-url", empty.url, folder, env=env)
        again, refused = await on_terminal("restore", "--nats-url", empty.url, folder, env=env)
    assert (code, again) == (0, 1), shown
    assert acting(shown + refused) == []
    assert SHOWN[0] in shown


@pytest.mark.parametrize("role", ["worker", "coordinator"])
async def test_a_bundle_that_another_party_made(role: str, tmp_path: Path, env: dict[str, str]):
    made = tmp_path / "x.bundle"
    made.write_text(toml_text({"bundle": {ALL: ALL, "role": ALL}}), encoding="utf-8")
    named = tmp_path / f"{ALL[:40]}.bundle".replace("/", "")
    for file in (made, named):
        arguments = ["--bundle", str(file), "--folder", str(tmp_path / "joined")]
        code, shown = await on_terminal(role, "init", *arguments, env=env)
        assert code == 1
        assert acting(shown) == []
        assert r"\x1b]8;;" in shown


async def test_each_stream_is_judged_by_itself(ground: Ground):
    """A pipe gets the bytes as they are, a terminal beside it does not."""
    arguments = ["-m", "agentbus", "task", "list", "--nats-url", ground.url, "--limit", "200"]
    ran = await run_cli(*arguments[2:])
    assert "\x1b]52;c;" in ran.err
    assert all(json.loads(line)["state"] for line in ran.out.split("\n")[:-1])
    with (tmp_file := ground.folder / "piped").open("wb") as sink:
        async with terminal(arguments, streams="stderr", pipe=sink.fileno()) as listing:
            pass
    assert acting(listing.shown) == []
    assert SHOWN[0] in listing.shown
    assert tmp_file.read_bytes().decode() == ran.out
    with tmp_file.open("wb") as sink:
        async with terminal(arguments, streams="stdout", pipe=sink.fileno()) as listing:
            pass
    assert acting(listing.shown) == []
    assert SHOWN[0] in listing.shown
    assert tmp_file.read_bytes().decode() == ran.err


async def test_in_a_pipe_an_output_is_byte_for_byte_what_the_agent_printed(ground: Ground):
    command = [sys.executable, "-m", "agentbus", "result", "get", "--nats-url", ground.url, "--agent", AGENT, "--full"]
    for task_id, wanted in ((ground.bus.output, RAW), (ground.first("completed")[0], ALL.encode())):
        child = await asyncio.create_subprocess_exec(*command, task_id, stdout=asyncio.subprocess.PIPE)
        out, _ = await child.communicate()
        assert (child.returncode, out) == (0, wanted)


async def test_in_a_pipe_a_dead_letter_has_the_text_that_was_kept(ground: Ground):
    ran = await run_cli("dead", "show", "--nats-url", ground.url, str(ground.bus.dead[0]))
    assert json.loads(ran.out)["data"] == RAW.decode(errors="replace")
    assert any(hidden(char) for char in ran.out.strip())


async def test_json_on_a_terminal_means_what_it_means_in_a_pipe(ground: Ground):
    seqs = [str(seq) for seq in ground.bus.dead]
    ran = await run_cli("dead", "show", "--nats-url", ground.url, *seqs)
    _, shown = await on_terminal("dead", "show", "--nats-url", ground.url, *seqs)
    assert [json.loads(line) for line in shown.splitlines()] == [json.loads(line) for line in ran.out.split("\n")[:-1]]


async def test_new_results_are_shown_harmlessly_as_they_arrive(ground: Ground):
    arguments = [
        "-m",
        "agentbus",
        "result",
        "get",
        "--nats-url",
        ground.url,
        "--agent",
        "main",
        "--limit",
        "0",
        "--watch",
    ]
    async with connect(ground.url) as bus:
        before = len(await bus.bus.consumers("AGENT_RESULTS"))

        async def followed() -> bool:
            return len(await bus.bus.consumers("AGENT_RESULTS")) > before

        async with terminal(arguments) as watching:
            await eventually(followed, "the inbox is watched")
            await bus.bus.store("agent.main.results", json.dumps({"type": ALL}).encode())
            await bus.bus.store("agent.main.results", encode(result_message("new", ALL, error=ALL)))
            await watching.until_shown("n[/link]")
            watching.child.send_signal(signal.SIGINT)
    assert acting(watching.shown) == []
    assert SHOWN[0] in watching.shown

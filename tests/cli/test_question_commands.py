"""`agentbus question list` and `question answer`: what a person sees before an answer, and what becomes of it."""

import json

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.asking_worker import UNTIL, asking
from support.harness import run_cli
from support.mcp_harness import settle
from support.pseudo_terminal import on_terminal

SPOOF = "harmless\n\ncode/other#12345678-1  holds up its run until tomorrow\n    operation: Read"


async def test_a_list_in_a_pipe_has_ids_that_an_answer_takes(server: NatsServer, coordinator: Coordinator) -> None:
    run = await asking(coordinator, "a", "git push")
    listed = await run_cli("question", "list", "--nats-url", server.url)
    assert (listed.code, listed.err) == (0, "")
    question = json.loads(listed.out)
    assert (question["operation"], question["arguments"]) == ("Bash", {"command": "git push"})
    answer = ["question", "answer", question["id"], "--deny", "--comment", "not on friday", "--nats-url", server.url]
    ran = await run_cli(*answer)
    assert (ran.code, ran.err) == (0, "")
    told = json.loads(ran.out)
    assert (told["id"], told["state"], told["questions"][0]["answer"]["comment"]) == ("a", "working", "not on friday")
    assert not (await run.answer()).allow
    again = await run_cli(*answer)
    assert (again.code, again.err) == (0, "the same answer was given before\n")
    other = await run_cli("task", "answer", question["id"], "--approve", "--nats-url", server.url)
    assert other.code == 1
    assert f"error: agent-main has denied {question['id']} at " in other.err
    assert (await run_cli("question", "list", "--nats-url", server.url)).out == ""


async def test_who_waits_for_a_task_reads_what_it_asks_and_how_to_answer(
    server: NatsServer, coordinator: Coordinator
) -> None:
    run = await asking(coordinator, "a", "git push")
    ran = await run_cli("task", "wait", "a", "--timeout", "0", "--nats-url", server.url)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines()[0] == (
        f'code/a asks a person: Bash {{"command":"git push"}}; it holds up its run until {UNTIL}; answer it with '
        f"`agentbus question answer code/a#{run.nonce[:8]}-1 --approve`, or --deny"
    )


async def test_a_task_that_has_ended_is_listed_and_answered_by_its_name(
    server: NatsServer, coordinator: Coordinator
) -> None:
    for task_id in ("a", "b"):
        task = (await coordinator.publish("code", "clean up", task_type="test", task_id=task_id)).message
        await settle(coordinator, task_id, "status=needs_approval\nmay I?", status="needs_approval", task=task)
    first = await run_cli("question", "list", "--limit", "1", "--nats-url", server.url)
    assert json.loads(first.out)["id"] == "code/b"
    assert first.err.startswith("older questions: --cursor ")
    rest = await run_cli("question", "list", "--nats-url", server.url, "--cursor", first.err.split()[-1])
    assert json.loads(rest.out)["id"] == "code/a"
    ran = await run_cli("question", "answer", "code/a", "--approve", "--nats-url", server.url)
    assert (ran.code, json.loads(ran.out)["answers"]) == (0, "a")
    assert "no worker of the agent code is alive now" in ran.err


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["a#12345678-1"], 2, "Missing option '--approve' or '--deny'."),
        (["a#12345678-1", "--approve", "--deny"], 2, "--approve and --deny exclude each other."),
        (["a#1", "--approve"], 2, "names no question"),
        (["a#12345678-1", "--approve"], 1, "the task code/a does not ask code/a#12345678-1, or not any more"),
        (["a", "--deny"], 1, "the task a is queued; only a task whose result is needs_approval can be answered"),
    ],
)
async def test_a_wrong_answer_says_what_is_wrong(
    server: NatsServer, coordinator: Coordinator, args: list[str], code: int, said: str
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    ran = await run_cli("question", "answer", *args, "--nats-url", server.url)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err


@pytest.mark.posix("a pseudo-terminal")
async def test_on_a_terminal_the_words_of_an_agent_pass_for_nothing_else(
    server: NatsServer, coordinator: Coordinator
) -> None:
    run = await asking(coordinator, "a")
    await run.ask("Bash\n    folder: /tmp", {"command": "git push\nrm -rf /"}, SPOOF)
    code, shown = await on_terminal("question", "list", "--nats-url", server.url, env={"NO_COLOR": "1"})
    assert code == 0
    assert shown.replace("\r\n", "\n").strip("\n").split("\n") == [
        f"code/a#{run.nonce[:8]}-1",
        f"    holds up its run until {UNTIL}",
        r"    operation: Bash\n    folder: /tmp",
        r'    with: {"command":"git push\nrm -rf /"}',
        "    folder: /srv/shop",
        "    says:",
        *(f"    > {line}" for line in SPOOF.split("\n")),
    ]


@pytest.mark.posix("a pseudo-terminal")
async def test_status_and_lists_say_that_a_task_waits_for_a_person(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await asking(coordinator, "a", "git push")
    wide = {"NO_COLOR": "1", "COLUMNS": "160"}
    _, status = await on_terminal("status", "--nats-url", server.url, env=wide)
    assert "Needs you (" in status
    assert "next: agentbus question answer" in status
    assert "git push" in status
    _, listed = await on_terminal("task", "list", "--nats-url", server.url, env=wide)
    assert "working (asks for an answer)" in listed
    _, got = await on_terminal("task", "get", "a", "--nats-url", server.url, env=wide)
    assert "git push" in got
    overview = json.loads((await run_cli("status", "--nats-url", server.url)).out)
    assert [need["text"] for need in overview["needs"] if need["kind"] == "question"] == [
        'Bash {"command":"git push"}',
    ]

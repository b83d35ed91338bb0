"""The commands of the README and the tutorials do what they promise, in every terminal in which they are typed."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from agentbus.coordinator import connect
from support.documentation import COMMANDS, README, TUTORIAL, Block, marked
from support.harness import BOUND_S, SUPPORT
from support.reader import Reader

# Every command starts a process of its own, which takes seconds on a machine that is busy.
pytestmark = pytest.mark.posix("runs shell commands of the documentation")

FIRST_TASK = TUTORIAL / "first-task.md"
TWO_MACHINES = TUTORIAL / "two-machines.md"
CONVERSATION = TUTORIAL / "conversation.md"
FOLLOWED = rf"{COMMANDS}|write .+|the output before.+"


def on_one_machine(page: Path) -> list[Block]:
    return [block for block in marked(FOLLOWED, page) if " machine" not in block.marker]


def on_two_machines(page: Path) -> list[Block]:
    return [block for block in marked(FOLLOWED, page) if " machine" in block.marker]


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 250


@pytest.mark.parametrize(("page", "results"), [(README, 1), (FIRST_TASK, 4)], ids=lambda value: str(value)[-20:])
async def test_a_newcomer_gets_a_first_result(page: Path, results: int, tmp_path: Path) -> None:
    with ExitStack() as terminals:
        reader = Reader(tmp_path, terminals)
        for block in on_one_machine(page):
            await reader.follow(block)
        async with (
            asyncio.timeout(BOUND_S),
            connect(reader.environment["AGENTBUS_NATS_URL"]) as coordinator,
            coordinator.inbox(after=0) as inbox,
        ):
            found = [(await inbox.next()).result for _ in range(results)]
            assert [result and result.status for result in found] == ["completed"] * results


async def test_a_reader_answers_a_question_and_follows_up(tmp_path: Path) -> None:
    with ExitStack() as terminals:
        reader = Reader(tmp_path, terminals)
        reader.use_agent("claude", SUPPORT / "reviewing_agent.py")
        for block in on_one_machine(CONVERSATION):
            await reader.follow(block)


@pytest.mark.gate("README")
@pytest.mark.parametrize("page", [README, TWO_MACHINES], ids=lambda page: page.stem)
async def test_two_machines_work_together(page: Path, tmp_path: Path) -> None:
    with ExitStack() as terminals:
        reader = Reader(tmp_path, terminals)
        for block in on_two_machines(page):
            if "worker machine" in block.marker:
                carry(reader, "code", "worker")
                carry(reader, "main", "coordinator")
            await reader.follow(block)


def carry(reader: Reader, bundle: str, to: str) -> None:
    """What the reader does with scp."""
    here, there = (reader.machine(name).home / f"{bundle}.bundle" for name in ("bus", to))
    if here.exists():
        here.rename(there)

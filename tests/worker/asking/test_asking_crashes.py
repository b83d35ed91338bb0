"""A worker that dies between two steps of a question: the answer is given once at most, and none is lost unsaid."""

import sys
from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.acp_driver import AGENT
from support.answering import answer, chosen, waiting
from support.harness import SUPPORT, process, worker, worker_toml
from support.jobs import acknowledged, agent_keys, publish, settled, short_lease


@pytest.mark.long
@pytest.mark.parametrize(
    ("point", "asked_again"),
    [("question written, answer not seen", False), ("answer marked, not given", True), ("answer given", True)],
)
async def test_a_question_whose_worker_dies_between_two_steps_is_answered_once(
    tmp_path: Path, server: NatsServer, coordinator: Coordinator, point: str, asked_again: bool
) -> None:
    await short_lease(coordinator, lease_s=1.5)
    words = [*AGENT, "ask_for=a", "say=Done.", "--log", str(tmp_path / "log")]
    config = agent_keys(worker_toml(tmp_path, server.url, chat_cmd=words), output="acp", permissions="ask")
    task_id = await publish(coordinator, "x")
    dying = [sys.executable, str(SUPPORT / "dying.py"), point, "worker", "run", "--config", str(config)]
    with process(dying, tmp_path / "dying.log") as child:
        [question] = await waiting(coordinator, task_id)
        if not asked_again:
            await child.exit_code()
        await answer(coordinator, task_id, question, allow=True)
        await child.exit_code()
        assert child.said(f"dies: {point}\n")
    async with worker(config):
        if asked_again:
            [again] = await waiting(coordinator, task_id)
            assert again.nonce != question.nonce
            await answer(coordinator, task_id, again, allow=False)
        status = await settled(coordinator, task_id)
        await acknowledged(coordinator)
    assert (status.state, status.record.entry.attempt) == ("completed", 2)
    assert chosen(tmp_path / "log")[-1] == ("a", "no" if asked_again else "once")

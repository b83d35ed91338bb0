"""Checks the round trip of a real task: published, run by a real worker, and answered."""

import asyncio
from dataclasses import replace
from typing import Final

from agentbus.admin.doctor.agent.agent_output import check_result
from agentbus.admin.doctor.finding import Finding, failed, ok
from agentbus.bus.jetstream import Bus
from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError

# Agents answer a short prompt within seconds; a cold start of a large model takes a minute.
_ANSWER_S: Final = 120.0
_PROMPT: Final = "This is a test of the connection. Do nothing, and answer with the one word: pong"
_SHOWN_CHARACTERS: Final = 80


async def check_round_trip(bus: Bus, sender: str, agent: str) -> Finding:
    """Publish a small task to an agent as `sender`, and wait for its result. The task runs the agent command."""
    coordinator = Coordinator(bus, sender)
    try:
        if not await coordinator.agents(agent):
            return failed(
                "round trip", f"no worker of {agent} is alive", f"start one: agentbus worker run, for {agent}"
            )
        task = await coordinator.publish(agent, _PROMPT, task_type="agentbus.probe")
        try:
            waited = await coordinator.wait([task.id], timeout_s=_ANSWER_S)
        except asyncio.CancelledError:  # Ctrl-C: it would run later, for no one
            await coordinator.task(task.id).cancel("agentbus doctor was interrupted")
            raise
        status = waited.settled.get(task.id)
        if status is None:
            await coordinator.task(task.id).cancel("agentbus doctor timed out")
            return failed(
                "round trip", f"{agent} has not answered within {_ANSWER_S:g} s", "look at the log of its worker"
            )
        result = status.result
        if status.state == "completed":
            if result and (finding := check_result(result)) is not None:
                return replace(finding, check="round trip")
            answer = str(result.result).strip()[:_SHOWN_CHARACTERS] if result else ""
            return ok("round trip", f"{agent} answered: {answer!r}")
        why = result.error if result else status.state
        return failed("round trip", f"{agent}: {why}", "look at the log of its worker, and run its chat_cmd by hand")
    except AgentBusError as error:
        return failed("round trip", str(error))

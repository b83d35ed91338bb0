"""Builds the view of an agent. What its workers state about themselves is text from another party."""

from typing import Final

from agentbus.admin.queued_tasks import AgentTasks
from agentbus.agent_overview import AgentOverview
from agentbus.protocol.json_codec import Json
from agentbus_mcp.replies.models import AgentView
from agentbus_mcp.sanitize import short

_MAX_TROUBLES: Final = 3
"""Workers of one agent have the same trouble as a rule, and a model pays for every word."""
_SHOWN = ("instance", "host", "version", "command", "slots", "free", "lost", "running", "started_at", "seen_at")


def agent_view(agent: AgentOverview, tasks: AgentTasks, *, detailed: bool) -> AgentView:
    """An agent of the coordinator's overview, and how many of its tasks wait and run; `detailed` adds its workers."""
    account = agent.to_json()
    workers: list[dict[str, Json]] = account["workers"]
    described = next((worker["description"] for worker in workers if worker["description"]), None)
    return AgentView(
        agent=account["agent"],
        online=account["online"],
        workers=len(workers),
        free_slots=sum(worker["free"] for worker in workers),
        waiting=tasks.queued,
        unacknowledged=tasks.running,
        troubles=[short(trouble, 300) for trouble in account.get("troubles", ())[:_MAX_TROUBLES]] or None,
        description=short(described, 500 if detailed else 120) if described else None,
        details=[_worker(worker) for worker in workers] if detailed and workers else None,
    )


def _worker(worker: dict[str, Json]) -> dict[str, Json]:
    values = {key: worker[key] for key in _SHOWN if worker.get(key)}
    values["running"] = [short(task) for task in worker["running"][:32]]
    return {key: short(value) if isinstance(value, str) else value for key, value in values.items()}

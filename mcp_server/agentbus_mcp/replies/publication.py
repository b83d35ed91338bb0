"""Builds the answers of `publish_task`."""

from mcp_types import CallToolResult, ResourceLink

from agentbus.protocol.task_names import TaskName
from agentbus.task_handle import PublishedTask as PublishedHandle
from agentbus_mcp.errors import client_message
from agentbus_mcp.operations.agents_status import AgentsStatus
from agentbus_mcp.operations.publish import PublishOutcome
from agentbus_mcp.replies.build import build_answer
from agentbus_mcp.replies.models import FailedTask, Publication, PublishedTask, Results
from agentbus_mcp.replies.next_calls import wait_call


def publication_of(outcome: PublishOutcome) -> Publication:
    """The publication as the answer states it: each task, whether a worker of its agent is alive, and the failures."""
    published = [_published_task(one, outcome.agents) for one in outcome.published]
    failed = [
        FailedTask(agent=one.agent or "", task_id=one.id, error=client_message(one.error) or "")
        for one in outcome.failed
    ]
    return Publication(
        note=outcome.agents.offline_note(task.agent for task in published if task.state == "queued"),
        published=published,
        failed=failed or None,
        next=wait_call(TaskName(task.task_id, task.agent) for task in published),
    )


def build_publication_answer(publication: Publication) -> CallToolResult:
    """Build the answer of a call that does not wait."""
    failed = len(publication.failed or ())
    published = len(publication.published)
    return build_answer(f"Published {published} of {published + failed} tasks; {failed} failed.", publication)


def build_answer_with_results(publication: Publication, watched: CallToolResult) -> CallToolResult:
    """Build the answer of a call that has waited; `watched` is the answer to watching its tasks."""
    results = Results.model_validate(watched.structured_content)
    fields = {name: getattr(results, name) for name in ("note", "results", "pending", "next")}
    data = publication.model_copy(update=fields)
    links = [part for part in watched.content if isinstance(part, ResourceLink)]
    published = f"Published {len(data.published)} tasks; {len(data.failed or ())} failed"
    waited = f"{len(results.results)} with a result, {len(results.pending or ())} pending"
    return build_answer(f"{published}; {waited}.", data, links)


def _published_task(published: PublishedHandle, agents: AgentsStatus) -> PublishedTask:
    """One published task; the status of its agent is stated while it is queued."""
    view = PublishedTask(
        agent=published.agent, task_id=published.id, state=published.state_at_publish, known=published.known
    )
    if published.state_at_publish != "queued":
        return view
    known = {"online": agents.online(view.agent), "waiting": agents.waiting(view.agent), "note": published.note}
    return view.model_copy(update=known)

"""`agentbus question`: shows what agents ask, and answers it."""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from agentbus.cli import lazy, output
from agentbus.cli.options import (
    Count,
    QuestionName,
    agent_of_task_option,
    agent_option,
    bus_options,
    in_group_option,
    limit_option,
    output_option,
    type_option,
    with_coordinator,
)
from agentbus.cli.waiting_tasks import warn_without_worker

if TYPE_CHECKING:
    from pathlib import Path

    from agentbus.coordinator import Coordinator

_MAX_LISTED = 200
"""The limit of one call of `Coordinator.questions`."""


@click.group()
def question() -> None:
    """See what agents ask, and answer it."""


@question.command(
    "list",
    short_help="List what waits for a person.",
    epilog="""\b
Examples:
  agentbus question list
  agentbus question list --agent code | jq -r .id
  agentbus question list --group release-1.2 --text "git push"

\b
Open questions hold up a run until the time that is shown, and are denied then. An interrupted one belongs to a run
that has ended: an answer is kept for the next attempt. The words are the agent's. If there are older ones, the option
--cursor that continues the list is printed on standard error.""",
)
@agent_option()
@in_group_option
@type_option
@click.option("--text", metavar="TEXT", help="Only questions with this in what is asked, or in what its task is about.")
@output_option
@limit_option("Of how many tasks.", default=50, most=_MAX_LISTED)
@click.option("--cursor", type=Count(min=1), help="Continue an earlier list, towards older tasks.")
@with_coordinator
async def list_(bus: "Coordinator", *, limit: int, cursor: int | None, **filters: Any) -> None:
    """List the questions that wait for a person, those of the task that changed last first.

    They are those of runs that go on or were interrupted, and tasks that ended with a request for approval. Answered
    ones are not listed.
    """
    await lazy.question_list.QuestionSearch(bus, limit, cursor).run(**filters)


@question.command(
    short_help="Approve or deny what an agent asks for.",
    epilog="""\b
Examples:
  agentbus question answer code/job-1#1a2b3c4d-1 --approve
  agentbus question answer code/job-1#1a2b3c4d-1 --deny --comment 'open a pull request instead'
  agentbus question answer code/job-1 --approve

\b
Prints the task that goes on. For a task that has ended, that is its follow-up; wait for that one.""",
)
@click.option("--approve", is_flag=True, help="Allow the step that the agent asked for.")
@click.option("--deny", is_flag=True, help="Forbid it.")
@click.option("--comment", metavar="TEXT", default="", help="A comment for the agent.")
@agent_of_task_option
@bus_options
@click.argument("question_id", metavar="ID", type=QuestionName())
def answer(nats_url: str | None, config: "Path | None", *, approve: bool, deny: bool, **options: Any) -> None:
    """Answer what an agent asks for: the question of a run, or a task that ended with a request for approval.

    A run goes on with the answer. A task that has ended is followed by the task ID.answer. The first answer counts:
    the same one can be sent again, a different one is refused.
    """
    if approve == deny:
        fault = "--approve and --deny exclude each other." if deny else "Missing option '--approve' or '--deny'."
        raise click.UsageError(fault, click.get_current_context())
    lazy.session.run_connected(nats_url, config, partial(_answer, approve=approve, **options))


async def _answer(bus: "Coordinator", *, question_id: str, approve: bool, comment: str, agent: str | None) -> None:
    answered = await bus.answer_question(question_id, approve=approve, comment=comment, agent=agent)
    if answered.follow_up is not None:
        sent = answered.follow_up
        if answered.known:
            output.remark(f"the same answer was sent before; {sent.id} is {sent.state_at_publish}")
        if sent.note is not None:
            output.remark(sent.note)
        await warn_without_worker(bus, sent.agent, only_paused=sent.note is not None)
        output.json_line(sent.message.to_json())
        return
    if answered.known:
        output.remark("the same answer was given before")
    if answered.status is not None:
        if answered.status.state == "queued":  # its run was interrupted, and the answer is kept for the next one
            await warn_without_worker(bus, answered.status.agent)
        output.json_line(answered.status.to_json())

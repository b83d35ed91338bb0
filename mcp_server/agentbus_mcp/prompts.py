"""The prompts `delegate` and `collect`, made of the text of the skill."""

import re
from functools import cache
from typing import Annotated, Any

from mcp.server.mcpserver import MCPServer
from pydantic import Field

from agentbus.provision.assets import asset

_Work = Annotated[str, Field(description="What shall be done, in your own words.")]
_To = Annotated[str, Field(description="Which agents shall do it, with commas between; default: choose them.")]
_TaskIds = Annotated[str, Field(description="The tasks, with commas between; default: find them.")]


def add_prompts(server: MCPServer[Any]) -> None:
    """Have a server offer the prompts."""
    server.prompt(title="Delegate work to agents")(delegate)
    server.prompt(title="Collect results of agents")(collect)


def delegate(work: _Work, to: _To = "") -> str:
    """Give work to one or several agents on other machines, wait for their results and report them."""
    who = f"Give this work to the agents {to}." if to.strip() else "Call list_agents, choose who shall do this work."
    return "\n\n".join(
        [
            f"Delegate work over agentbus, with its MCP tools. {who} Then wait, and report what came back.",
            f"The work:\n\n{work}",
            "How:",
            _part("Give a task", "With the MCP tools:", "Without the MCP tools"),
            _part("Give a task", "Rules:"),
            "How to read what comes back:",
            _part("Read a result"),
        ]
    )


def collect(task_ids: _TaskIds = "") -> str:
    """See what became of tasks that were given to agents, and report their results."""
    which = (
        f"Call watch_results with the tasks {task_ids}."
        if task_ids.strip()
        else "Call list_tasks to see which there are, then get_results for those that are settled."
    )
    report = "Report what came back, what is pending and in which state, and what needs a decision."
    return "\n\n".join(
        [
            f"Collect the results of tasks that agents were given over agentbus, with its MCP tools. {which} {report}",
            "How to read what comes back:",
            _part("Read a result"),
            "Rules:",
            _part("Give a task", "Rules:"),
        ]
    )


@cache
def _part(heading: str, after: str = "", before: str = "") -> str:
    """Extract the text of the skill under a heading, between two of its lines, without paragraphs with links."""
    text = asset("skills/agentbus/SKILL.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    part = section.partition(after)[2] if after else section
    part = part.partition(before)[0] if before else part
    paragraphs = [one for one in part.strip().split("\n\n") if not re.search(r"\]\([^)]*\)", one)]
    assert paragraphs, f"the skill has no part {heading!r} {after!r}"
    return "\n\n".join(paragraphs)

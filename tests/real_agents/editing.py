"""The case `edit`: a real agent changes a file of a repository with its own tool, and the change comes home.

What is wrong is told under `wrong` of the result.
"""

import json
from pathlib import Path
from typing import Any

from agentbus import Coordinator
from agentbus.protocol.json_codec import Json, object_in
from real_agents.agents import PROMPT
from real_agents.model_server import EDITED, EDITED_FILE
from support.harness import eventually, run_python
from support.repositories import git, snapshot, source_repository


class Edit:
    """The repositories of one run: the source that its worker clones, and a clone of a coordinator.

    Args:
        folder: the folder of the worker.
    """

    def __init__(self, folder: Path) -> None:
        self._source = source_repository(folder / "source")
        self._mine = folder / "mine"
        git(folder, "clone", "-q", "--no-local", str(self._source), str(self._mine))

    def sections(self) -> dict[str, dict[str, Any]]:
        """Return the sections of the worker's configuration that name the repository."""
        return {"repository": {"source": str(self._source)}}

    async def run(self, bus: Coordinator, agent: str, url: str) -> dict[str, Json]:
        """Have the agent edit, and apply what came home in the clone; returns the result."""

        async def is_ready() -> bool:
            return any("work" in (one.needs or ()) for one in await bus.agents(agent))

        await eventually(is_ready, "the worker takes tasks with a base")
        source = snapshot(self._source)
        task = await bus.publish(agent, PROMPT, task_type="test", task_id="edit", base="origin/main")
        result = (await task.result()).to_json()
        wrong: list[str] = []
        words = ("work", "apply", f"{agent}/{task.id}", "--merge", "--nats-url", url)
        applied = await run_python("-m", "agentbus", *words, cwd=self._mine)
        if applied.code != 0:
            wrong.append(f"work apply: {applied.err}")
        elif json.loads(applied.out).get("done") is not True:
            wrong.append(f"work apply: {applied.out}")
        if (changed := git(self._mine, "diff", "--name-only", "origin/main", "HEAD")) != EDITED_FILE:
            wrong.append(f"the changed files are {changed.splitlines()}")
        if (self._mine / EDITED_FILE).read_text(encoding="utf-8") != EDITED:
            wrong.append(f"{EDITED_FILE} does not hold the edit")
        if object_in(result.get("changes")).get("files") != 1:
            wrong.append(f"the result says of changes: {result.get('changes')}")
        if snapshot(self._source) != source:
            wrong.append("the source of the worker is not as it was")
        return {**result, "wrong": "; ".join(wrong)}

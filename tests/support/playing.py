"""Workers whose agent command prints what a real agent was recorded to print."""

from pathlib import Path
from typing import Any

from support.harness import worker_toml
from support.jobs import agent_keys
from support.recorded_agents import recording


def playing(folder: Path, url: str, agent: str, case: str, **more: Any) -> Path:
    """The configuration of a worker whose command prints the lines of one recorded case, whatever it is asked."""
    run = recording(agent, case)
    lines = folder / f"{agent}-{case}.out"
    lines.write_text("".join(line + "\n" for line in run.stdout), encoding="utf-8")
    command = ["sh", "-c", f'cat "$0"; exit {run.exit_code}', str(lines), "{input}"]
    return agent_keys(worker_toml(folder, url, chat_cmd=command, **more), output=agent)

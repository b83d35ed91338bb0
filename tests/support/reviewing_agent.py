"""Claude Code as the reader of a tutorial has it: reviews, asks before it pushes, and knows what it did.

It is an agent that asks before it uses a tool; what a person would tell it becomes the steps of that one.
"""

import json
import subprocess
import sys
from pathlib import Path

STEPS = {
    "push": ["remember It divides by the number of prices.", "use git push -q origin HEAD:review"],
    "worst": ["recall"],
}
"""What it does, by a word of the task."""
_BEFORE = "The task, as JSON:"


def main() -> int:
    """Do what the prompt on standard input says; returns the exit code."""
    lines = sys.stdin.read().split("\n")
    if _BEFORE in lines:
        at = lines.index(_BEFORE) + 1
        task = json.loads(lines[at])
        said = str(task["payload"]["content"])
        task["payload"]["content"] = "\n".join(next(steps for word, steps in STEPS.items() if word in said))
        lines[at] = json.dumps(task)
    agent = [sys.executable, str(Path(__file__).with_name("deferring_agent.py")), *sys.argv[1:]]
    return subprocess.run(agent, input="\n".join(lines), text=True, encoding="utf-8", check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

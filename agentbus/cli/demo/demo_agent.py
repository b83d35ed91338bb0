"""The agent command of `agentbus demo`: reads the task out of its prompt and does it.

The worker starts it like any agent command: its last argument is the prompt, its standard output is the answer.
"""

import json
import re
import sys
import time


def main() -> int:
    """Do what the task says, and return the exit code."""
    prompt = sys.argv[-1]
    agent = (re.search(r"You are the agent (\S+)\.", prompt) or ["", "?"])[1]
    task = json.loads((re.search(r"^\{.*\}$", prompt, re.MULTILINE) or ["{}"])[0])
    content = task["payload"]["content"]
    match task["task_type"]:
        case "count_words":
            print(f"{agent} counted {len(content.split())} words.")  # noqa: T201
        case "think":
            print(f"{agent} thinks for {content} s", flush=True)  # noqa: T201
            time.sleep(float(content))
            print(f"{agent} has thought it through.")  # noqa: T201
        case "delete_branch":
            print(f"status=needs_approval\ngit push origin --delete {content}: this cannot be undone.")  # noqa: T201
        case unknown:
            print(f"I do not know how to do {unknown}.", file=sys.stderr)  # noqa: T201
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())

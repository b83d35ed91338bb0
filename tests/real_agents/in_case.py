"""Becomes a real agent in one case: the command of the workers of `make real-agents`.

The id of the task begins with the case. Each run of the agent gets a home of its own, or one for all runs of a
conversation, which tells it to use the model server in that case, and nothing of the environment of the person who runs
this.
"""

import os
import sys
import tempfile
from pathlib import Path

from agentbus.provision.agent_presets import PRESETS
from real_agents.agents import AGENTS, ALL_AGENTS, CONVERSATIONS, MODEL_CASES, NO_SESSION, command_of
from real_agents.model_server import DANGEROUS

_CLOSED = "no_connection"
_GIVEN_BY_THE_WORKER = ("TMPDIR", "RUST_LOG", "GEMINI_TELEMETRY_")


def main(name: str, tools: str, homes: str, url: str, closed: str, *prompt: str) -> None:
    """Run the agent in place of this process; `prompt` is there where it is an argument."""
    case = os.environ["AGENTBUS_TASK_ID"].partition(".")[0].replace("-", "_")
    home = Path(homes) / case
    home.mkdir(parents=True, exist_ok=True)
    if case not in CONVERSATIONS:
        home = Path(tempfile.mkdtemp(dir=home))
    given = {key: value for key, value in os.environ.items() if key.startswith(_GIVEN_BY_THE_WORKER)}
    own = {key: value for key, value in os.environ.items() if key.startswith("AGENTBUS_")}
    model_case = MODEL_CASES.get(case, case)
    if (name, model_case) == ("hermes-acp", "denied"):
        model_case = DANGEROUS
    address = f"{closed if case == _CLOSED else url}/{model_case}"
    paths = [f"{tools}/{folder}" for folder in ("node/bin", "npm/node_modules/.bin", "py/bin")]
    os.environ["PATH"] = ":".join([*paths, "/usr/bin", "/bin"])  # where the program is looked for
    setup = dict(ALL_AGENTS[name].setup(home, address, model_case))
    setup.pop("CLAUDE_CODE_MAX_RETRIES", None)  # what users have
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        **given,
        **own,
        **setup,
    }
    words = command_of(name, case, NO_SESSION if case == "unknown_session" else None)
    if prompt[:1] == ("--resume",):
        words = [word.replace("{session}", prompt[1]) for word in PRESETS[name].resume or ()]
        prompt = prompt[2:]
    if case in CONVERSATIONS:
        words += [*prompt, *(AGENTS[name].allowing if case in ("unasked", "hooks_off", "bare") else ())]
        words += ["--bare"] if case == "bare" else []
    words = [word.replace("{input}", "".join(prompt)) for word in words]
    os.execvpe(words[0], words, environment)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The recorded lines of real agents: `tests/recorded/agents/AGENT/CASE.jsonl`, which `make record-agents` writes."""

import json
from dataclasses import dataclass
from typing import Any, Final

from agentbus_worker.formats.judgement import Ended
from support.harness import ROOT

RECORDED_AGENTS: Final = ROOT / "tests" / "recorded" / "agents"


@dataclass(frozen=True)
class Recording:
    """One run: how it ended, and the lines of each pipe."""

    agent: str
    case: str
    version: str
    command: list[str]
    ended: str
    exit_code: int
    stdout: list[str]
    stderr: list[str]
    side: bytes
    """What it wrote into the file beside, in its form: the records that were kept."""

    def end(self) -> Ended:
        """How the run ended, as a worker would say it."""
        how = "timed out after 100 s and was ended" if self.ended == "timeout" else "the command exited"
        out, err = ("".join(line + "\n" for line in lines) for lines in (self.stdout, self.stderr))
        return Ended("timeout" if self.ended == "timeout" else "exited", self.exit_code, how, out, "", err[-8_192:])


def recording(agent: str, case: str) -> Recording:
    """Read what was recorded of an agent in a case."""
    text = (RECORDED_AGENTS / agent / f"{case}.jsonl").read_text(encoding="utf-8")
    head, *lines = [json.loads(line) for line in text.splitlines()]
    fields: dict[str, Any] = {
        name: head[name] for name in ("agent", "case", "version", "command", "ended", "exit_code")
    }
    out, err = ([line[pipe] for line in lines if pipe in line] for pipe in ("out", "err"))
    side = "".join(json.dumps(json.loads(line["side"]), indent=2) + "\n" for line in lines if "side" in line)
    return Recording(**fields, stdout=out, stderr=err, side=side.encode())

"""Runs a command in this process, which saves a test the start of another one.

Click's own runner keeps standard error apart from 8.2 on only, and agentbus works with older versions.
"""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from agentbus.cli import root
from agentbus.errors import AgentBusError
from support.harness import Ran


@dataclass(frozen=True)
class RanHere(Ran):
    """`error` is what the program would have printed as its one line; `code` is then 1."""

    error: AgentBusError | None = None


def run_here(*args: str) -> RanHere:
    """Run `agentbus` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    code, error = 0, None
    with redirect_stdout(out), redirect_stderr(err):
        try:
            root.main([*args], prog_name="agentbus")
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except AgentBusError as raised:
            code, error = 1, raised
    return RanHere(code, out.getvalue(), err.getvalue(), error)

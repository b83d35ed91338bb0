"""How a command has ended, and what that means: what readers are asked, and what they answer."""

from dataclasses import dataclass
from typing import Literal

from agentbus.protocol.messages import Failure, ResultStatus
from agentbus.protocol.outcomes.run_report import Denied, Run


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command has ended, and what it printed, as far as that was kept.

    Attributes:
        reason: as `running.command.Exit` has it.
        code: the exit code, or the negative number of a signal.
        how: the end in words, such as `the command exited with status 1`; the beginning of the message of a failure.
        stdout: the beginning of standard output, or all of it without the frames of progress bars.
        stdout_end: its end, where `stdout` is only the beginning.
        stderr: the end of standard error.
    """

    reason: Literal["exited", "timeout", "idle", "stopped", "unsupervised"]
    code: int | None
    how: str
    stdout: str = ""
    stdout_end: str = ""
    stderr: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the end of a run means: the status, the last message of the agent, the failure if it is one, the report."""

    status: ResultStatus
    text: str
    run: Run
    failure: Failure | None = None
    question: Denied | None = None

"""How a command has ended, and what that means: what readers are asked, and what they answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from agentbus.protocol.messages import Failure, ResultStatus
from agentbus.protocol.outcomes.failure_codes import LONG_RETRY_S, FailureCode
from agentbus.protocol.outcomes.run_report import Run
from agentbus.protocol.questions.asked_call import AskedCall


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Why a run is ended before its time.

    Attributes:
        reason: `stalled`: nothing came of it for too long; `hopeless`: it tries again in vain, or waits for too long.
        how: in words, without those of the agent.
        code: of the failure.
        retry_after_s: when the model's server answers again, if it said so.
    """

    reason: Literal["stalled", "hopeless"]
    how: str
    code: FailureCode
    http_status: int | None = None
    retry_after_s: float | None = None


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
        given_up: why it was ended before its time, if it was.
        longest_wait_s: `max_retry_after_seconds`: a server that names a longer time has no room for this account.
    """

    reason: Literal["exited", "timeout", "idle", "stalled", "hopeless", "stopped", "unsupervised"]
    code: int | None
    how: str
    stdout: str = ""
    stdout_end: str = ""
    stderr: str = ""
    given_up: GivenUp | None = None
    longest_wait_s: float = LONG_RETRY_S


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the end of a run means: the status, the last message of the agent, the failure if it is one, the report."""

    status: ResultStatus
    text: str
    run: Run
    failure: Failure | None = None
    question: AskedCall | None = None


@dataclass(frozen=True, slots=True)
class SideFile:
    """A file in which an agent says what it does not print, if it is asked to.

    Attributes:
        name: of the file, in the temporary folder of the run.
        variable: names the file to the agent.
        environment: what the agent needs in its environment besides.
    """

    name: str
    variable: str
    environment: Mapping[str, str]


STOPPED: Final[dict[FailureCode, str]] = {
    "empty": "the agent ended without an answer",
    "refused": "the model refused to answer",
    "truncated": "the answer was cut at the limit of the model",
    "denied": "the agent stopped because it was not permitted to use a tool",
    "turn_limit": "the agent reached its limit of turns",
    "budget": "the agent reached its limit of cost",
    "context": "the conversation does not fit into the model",
}
"""What a failure says of which the agent says nothing."""

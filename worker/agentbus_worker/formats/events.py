"""The events of a run in one form, whatever agent printed them. All text in them is the agent's, and never trusted."""

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from agentbus.protocol.json_codec import Json
from agentbus.protocol.outcomes.failure_codes import FailureCode
from agentbus.protocol.outcomes.run_report import Usage

MAX_SUMMARY_CHARS: Final = 200
"""How much of a call of a tool, of its output or of a notice an event tells: a line on a screen."""


@dataclass(frozen=True, slots=True)
class Start:
    """The agent has begun, or goes on with, a session."""

    session: str | None = None
    model: str | None = None
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """The model said something: a message, or the next part of one."""

    text: str


@dataclass(frozen=True, slots=True)
class Activity:
    """The agent is at work, and there is nothing to show of it yet.

    A part of an answer or of the model's thoughts has come, or a line of a kind that this version does not know.
    """


@dataclass(frozen=True, slots=True)
class Tool:
    """The agent has begun to use a tool. `call` is what the agent calls this use of it; its end has the same."""

    name: str
    summary: str = ""
    call: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ToolEnd:
    """The use of a tool has ended."""

    name: str
    ok: bool
    summary: str = ""
    call: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Retry:
    """The agent could not reach its model, and tries again.

    Attributes:
        attempt: the number of the try that failed, where the agent says it.
        of: how often it tries.
        retry_after_s: when the model's server answers again, if it said so.
        delay_s: how long the agent waits before it tries again, where it says that.
    """

    message: str = ""
    attempt: int | None = None
    of: int | None = None
    code: FailureCode | None = None
    http_status: int | None = None
    retry_after_s: float | None = None
    delay_s: float | None = None

    @property
    def longest_s(self) -> float:
        """For how long nothing comes at least, as far as that is known."""
        return max(self.retry_after_s or 0, self.delay_s or 0)


@dataclass(frozen=True, slots=True)
class Question:
    """The agent asks whether it may use a tool, and has stopped until it is answered.

    Attributes:
        id: names the question to what answers it; its end has the same.
        arguments: of the tool, with long texts cut; `digest` is that of the whole ones.
        title: what the tool is used for, in the agent's words.
    """

    tool: str
    summary: str = ""
    id: str = field(default="", compare=False)
    arguments: Json = field(default=None, compare=False)
    digest: str = field(default="", compare=False)
    folder: str = field(default="", compare=False)
    title: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class QuestionEnd:
    """A question has been answered; or it is `withdrawn`, because its run ends."""

    id: str
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class UsageSoFar:
    """What the run has used up to now."""

    usage: Usage
    cost_usd: float | None = None
    turns: int | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the agent says of itself: a warning, an error that it prints as a message."""

    text: str


Event: TypeAlias = Start | Text | Activity | Tool | ToolEnd | Retry | Question | QuestionEnd | UsageSoFar | Notice

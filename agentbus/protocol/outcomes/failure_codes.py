"""The codes of failures: what each means, whether another attempt can help, whether it pauses a worker, what to do.

The one place for them: results, `retry_on`, the reference and its test take them from here.
"""

from dataclasses import dataclass
from typing import Final, Literal

FailureCode = Literal[
    "auth", "forbidden", "billing", "quota", "rate_limit", "overloaded", "network", "model",
    "context", "refused", "empty", "truncated", "denied", "turn_limit", "budget",
    "timeout", "idle", "stalled", "lost", "exit", "signal", "not_started", "not_ended",
    "workspace", "invalid_output", "rejected", "expired", "session_gone",
]  # fmt: skip
"""Why a task has failed. A later version may write further codes."""

LONG_RETRY_S: Final = 120.0
"""A server that names a longer time has no room for this account: to wait for it is no retry any more."""

Again = Literal["yes", "later", "no"]
"""Whether another attempt of the same task can help: at once, after a while, or not before something is changed."""


@dataclass(frozen=True, slots=True)
class CodeFacts:
    """What is known of a code.

    Attributes:
        meaning: what has happened, and where the border to other codes is.
        again: whether another attempt can help.
        pauses: whether the worker takes no further task for a while: the machine or the account is at fault as a rule.
            `long wait`: where the model's server names a time beyond `max_retry_after_seconds`.
        action: what a person should do.
    """

    meaning: str
    again: Again
    action: str
    pauses: Literal["yes", "no", "long wait"] = "no"


FAILURE_CODES: Final[dict[FailureCode, CodeFacts]] = {
    "auth": CodeFacts(
        "the model's server does not accept the agent's key or login (401)",
        "no",
        "renew the key or the login of the agent on the worker's machine",
        pauses="yes",
    ),
    "forbidden": CodeFacts(
        "the key is accepted, and must not do this (403)",
        "no",
        "give the account the right, or choose a model that it may use",
        pauses="yes",
    ),
    "billing": CodeFacts(
        "the account has no credit, or no valid payment",
        "no",
        "pay, or take another account",
        pauses="yes",
    ),
    "quota": CodeFacts(
        "the server says that what the account may use is used up; a limit on the rate alone is `rate_limit`, "
        "unless the agent is to wait for longer than `max_retry_after_seconds`",
        "later",
        "wait until the quota is renewed, or raise it",
        pauses="yes",
    ),
    "rate_limit": CodeFacts(
        "too many requests or tokens in a short time (429)",
        "later",
        "wait, or run fewer agents on this account",
        pauses="long wait",
    ),
    "overloaded": CodeFacts(
        "the model's server cannot answer now (500, 502, 503, 504, 529)",
        "later",
        "wait",
        pauses="long wait",
    ),
    "network": CodeFacts(
        "the model's server cannot be reached, or the connection broke off",
        "later",
        "check the network and the proxy of the worker's machine",
    ),
    "model": CodeFacts(
        "the model does not exist, or the account does not have it",
        "no",
        "name another model in the agent's command or settings",
        pauses="yes",
    ),
    "context": CodeFacts(
        "the prompt or the conversation does not fit into the model, whether the agent or its server noticed",
        "no",
        "make the task smaller",
    ),
    "refused": CodeFacts(
        "the model, or a filter of its vendor, refused to answer",
        "no",
        "put the task differently, or take another model",
    ),
    "empty": CodeFacts(
        "the agent ended without an error and without an answer; some agents show a refusal in no other way",
        "yes",
        "try again, or put the task differently",
    ),
    "truncated": CodeFacts(
        "the answer was cut at the model's limit; the result has what there is of it",
        "no",
        "ask for a shorter answer, or raise the limit of the agent",
    ),
    "denied": CodeFacts(
        "the agent stopped because it was not permitted to use a tool",
        "no",
        "permit the tool in the agent's command or settings, or give the task to another agent",
    ),
    "turn_limit": CodeFacts(
        "the agent reached its limit of turns",
        "no",
        "make the task smaller, or raise the limit",
    ),
    "budget": CodeFacts(
        "the agent reached its limit of cost",
        "no",
        "make the task smaller, or raise the limit",
    ),
    "timeout": CodeFacts(
        "the command ran for `task_timeout_seconds` and was ended",
        "yes",
        "make the task smaller, or raise the limit; the message has what the agent said last",
    ),
    "idle": CodeFacts(
        "the command printed nothing for `idle_timeout_seconds` and was ended",
        "yes",
        "see what the agent waits for, or raise the limit",
    ),
    "stalled": CodeFacts(
        "the agent did nothing but wait or try again for `stall_timeout_seconds`, and was ended",
        "later",
        "see the last reason in the message",
    ),
    "lost": CodeFacts(
        "the worker ended while it had the task, and the task is not to be repeated",
        "yes",
        "see the log of the worker, and retry the task",
    ),
    "exit": CodeFacts(
        "the agent failed for a reason that has no code of its own: an exit code other than 0, or an error that it "
        "printed",
        "yes",
        "read the message",
    ),
    "signal": CodeFacts(
        "the command was ended by a signal that the worker did not send, for want of memory for example",
        "yes",
        "see the log of the machine",
    ),
    "not_started": CodeFacts(
        "the command could not be started, which is as a rule the fault of the worker's machine: the task went back to "
        "the queue until `setback_limit_seconds` were over",
        "later",
        "repair the command or its configuration on the machines of the agent",
        pauses="yes",
    ),
    "not_ended": CodeFacts(
        "the command could not be ended: it runs as another user, or hangs in the kernel, and may still be at work. "
        "The task is not repeated",
        "no",
        "end the processes on the worker's machine",
    ),
    "workspace": CodeFacts(
        "the repository, the folder or the files of the task could not be made ready, or the disk is full",
        "no",
        "read the message, and put right what it names",
    ),
    "invalid_output": CodeFacts(
        "what the agent answered does not have the form that the task wants",
        "yes",
        "try again, or describe the form better",
    ),
    "rejected": CodeFacts(
        "the worker did not accept the task: it is not valid, or too large",
        "no",
        "publish a task that is valid",
    ),
    "expired": CodeFacts(
        "no worker ran the task while the queue kept it",
        "yes",
        "start a worker of the agent, and publish the task again",
    ),
    "session_gone": CodeFacts(
        "the session that the task goes on with does not exist any more",
        "no",
        "publish the task anew, without a session",
    ),
}


def pauses_worker(code: str, retry_after_s: float | None, *, longest_wait_s: float) -> bool:
    """Whether a worker takes no tasks for a while after a failure with a code.

    Args:
        retry_after_s: when the model's server answers again, if it said so.
        longest_wait_s: `max_retry_after_seconds`.
    """
    facts = next((facts for known, facts in FAILURE_CODES.items() if known == code), None)
    if facts is None or facts.pauses != "long wait":
        return facts is not None and facts.pauses == "yes"
    return (retry_after_s or 0) > longest_wait_s

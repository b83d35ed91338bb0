"""What JetStream's refusals mean: its error numbers, and the errors of ours that they become."""

from typing import Any, Final

from agentbus.errors import (
    ApiError,
    BusError,
    BusUnavailableError,
    ConsumerLimitError,
    SetupMissingError,
    StreamFullError,
    TooLargeError,
    WrongRevisionError,
)
from agentbus.protocol import headers

_WRONG_REVISION: Final = 10071
_UNDECIDED: Final = 10164
"""The answer of a cluster to a compare-and-set while another write of the key is under way, which may come to nothing:
asked again, it is stored, or refused for good."""
_IN_PROCESS: Final = 10158
"""The answer of a cluster to a message while an earlier one with its id is under way. Asked again, it is a duplicate,
or is stored because the earlier one came to nothing."""
_NOT_READY: Final = frozenset({10008, 10039, 10118, _UNDECIDED, _IN_PROCESS})
_NO_LEADER: Final = frozenset({10008, 10118})
_MISSING: Final = {10059: "stream", 10014: "consumer"}
_TOO_MANY_CONSUMERS: Final = 10026
_FULL: Final = frozenset({10002, 10023, 10028, 10047, 10077, 10122})


def is_passing(fault: dict[str, Any]) -> bool:
    """Whether a refusal passes by itself, while JetStream starts, elects a leader or decides another write."""
    return fault.get("err_code") in _NOT_READY


def missing(what: str, subject: str = "") -> SetupMissingError:
    """Make the error for a stream or for JetStream itself that does not exist."""
    if subject.startswith("$JS.API.") and not subject.startswith("$JS.API.DIRECT."):  # those, the stream answers
        return SetupMissingError("JetStream does not answer on this server; enable it in the server's configuration")
    return SetupMissingError(f"{what} does not exist on this bus; make it with: agentbus setup, as the administrator")


def error_of(fault: dict[str, Any], subject: str) -> BusError:
    """Make the error of ours for the `error` in an answer to a request on `subject`."""
    code, number = int(fault.get("code") or 0), int(fault.get("err_code") or 0)
    text = str(fault.get("description") or "no reason given")
    if number in (_WRONG_REVISION, _UNDECIDED):  # the first ends with the revision that the key has: `sequence: 7`
        return WrongRevisionError(f"{subject} has changed meanwhile", revision=_number_behind(text))
    if number == _IN_PROCESS:
        return BusUnavailableError(f"the servers have not agreed on a message for {subject} yet; it may become stored")
    if number in _NO_LEADER:
        return BusUnavailableError(
            f"JetStream has no leader for {subject} ({text}): more than half of the servers of the cluster must be up"
        )
    if number in _MISSING:
        # $JS.API.STREAM.<verb>.<stream>, $JS.API.CONSUMER.<verb>.<stream>.<consumer>...; one verb has two tokens.
        tokens = subject.replace(".MSG.GET.", ".GET.").split(".")
        name = tokens[4 if _MISSING[number] == "stream" else 5]
        return missing(f"the {_MISSING[number]} {name}")
    if number in _FULL:
        return StreamFullError(
            f"the stream that takes {subject} is full ({text}); nothing was stored. "
            "Make room in it, or raise its max_bytes"
        )
    if number == _TOO_MANY_CONSUMERS:
        return ConsumerLimitError(
            f"the stream behind {subject} has as many consumers as it may have ({text}): each list, wait and watch "
            "takes one for a while. Try again later; agentbus setup --update, as the administrator, gives a stream of "
            "an earlier version room for more"
        )
    if number == 10054:
        return TooLargeError(f"the stream refused the message for {subject}: {text}; nothing was stored")
    return ApiError(text, code, number)


def _number_behind(text: str) -> int:
    return headers.number(text.rpartition(" ")[2]) or 0

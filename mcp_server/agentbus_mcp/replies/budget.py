"""Keeps answers within the bytes that a model can spare, by sharing them among the outputs of the results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from agentbus_mcp.replies.models import AgentResult
from agentbus_mcp.replies.results import UncutResult, concise
from agentbus_mcp.sanitize import cut, json_size

DetailLevel = Literal["concise", "detailed"]

ANSWER_BYTES: Final = 65_536
"""How much of all outputs an answer holds at most: hosts cut an answer, or refuse it, at about 25,000 tokens."""
BEGINNING_BYTES: Final = 4_096
"""How much of an output is shown beside other things."""
PART_BYTES: Final = 16_384
"""How much of outputs a detailed answer has, or one that reads on in an output, unless `max_bytes` is given."""
CONCISE_BYTES: Final = 4_000
"""How large a concise answer becomes; of many results, each still has `_LEAST_BYTES` of its output."""
_LEAST_BYTES: Final = 80
_ERROR_CHARS: Final = 500
_ERRORS_CHARS: Final = 1_000
"""How much of errors a concise answer has: of one result, and of all together."""


@dataclass(frozen=True, slots=True)
class ResponseDetail:
    """How much of results a client requests."""

    level: DetailLevel = "concise"
    max_bytes: int | None = None


def share(max_bytes: int, count: int) -> int:
    """How much of each of `count` outputs fits into an answer."""
    return min(max_bytes, ANSWER_BYTES // max(count, 1))


def fit(
    results: Sequence[UncutResult], detail: ResponseDetail, overhead: Callable[[Sequence[AgentResult]], int]
) -> list[AgentResult]:
    """Cut the outputs of results to what a client requests, or to a concise answer.

    Args:
        overhead: the bytes of an answer with these results, used with results without output.
    """
    if detail.level == "concise" and not detail.max_bytes:
        return _fit_concise(results, overhead)
    bound = share(detail.max_bytes or PART_BYTES, len(results))
    views = [result.cut(bound) for result in results]
    return views if detail.level == "detailed" else [concise(view, _ERROR_CHARS) for view in views]


def _fit_concise(results: Sequence[UncutResult], overhead: Callable[[Sequence[AgentResult]], int]) -> list[AgentResult]:
    error_chars = max(_LEAST_BYTES, min(_ERROR_CHARS, _ERRORS_CHARS // max(len(results), 1)))
    concise_results = [UncutResult(concise(result.view, error_chars), result.output) for result in results]
    needs = [json_size(cut(result.output.text, CONCISE_BYTES)) for result in concise_results]
    left = CONCISE_BYTES - overhead([result.cut(0, always_size=False) for result in concise_results])
    allotted = _allot(needs, max(left, _LEAST_BYTES * len(results)))
    return [
        result.cut(CONCISE_BYTES, granted, always_size=False)
        for result, granted in zip(concise_results, allotted, strict=True)
    ]


def _allot(needs: Sequence[int], total: int) -> list[int]:
    """Share bytes among texts: a short text gets what it needs, and leaves the rest of its share to longer ones."""
    granted = [0] * len(needs)
    for left, index in zip(range(len(needs), 0, -1), sorted(range(len(needs)), key=needs.__getitem__), strict=True):
        granted[index] = min(needs[index], total // left)
        total -= granted[index]
    return granted

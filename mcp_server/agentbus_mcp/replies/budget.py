"""Keeps answers within the bytes that a model can spare, by sharing them among the outputs of the results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from agentbus_mcp.replies.models import AgentResult
from agentbus_mcp.replies.results import CONCISE_FILES, UncutResult, concise
from agentbus_mcp.sanitize import cut, json_size

DetailLevel = Literal["concise", "detailed"]

ANSWER_BYTES: Final = 65_536
"""How much of all outputs an answer holds at most: hosts cut an answer, or refuse it, at about 25,000 tokens."""
BEGINNING_BYTES: Final = 4_096
"""How much of an output is shown beside other things."""
PART_BYTES: Final = 16_384
"""How much of outputs a detailed answer has, or one that reads on in an output, unless `max_bytes` is given."""
CONCISE_BYTES: Final = 4_000
"""How large a concise answer becomes; of many results, each still has some of its output."""
_ERROR_CHARS: Final = 500
_ERRORS_CHARS: Final = 1_000
"""How much of errors a concise answer has: of one result, and of all together."""


@dataclass(frozen=True, slots=True)
class _Room:
    """What each of many results still has in a concise answer.

    Attributes:
        error_chars: so much of its error.
        output_bytes: so much of its output, at least.
        places: whether each output that is cut says how long it is and where to read on, or the first one alone; and
            whether a failure has its HTTP status, of which the code says enough.
        figures: whether it has the model and the tokens beside the cost.
        files: how many files it lists that its run has left; of the others it says how many there are.
    """

    error_chars: int
    output_bytes: int
    places: bool = False
    figures: bool = True
    files: int = 0


_ROOMS: Final = (
    _Room(80, 80, places=True, files=CONCISE_FILES),
    _Room(80, 80, places=True, files=2),
    _Room(80, 80, places=True),
    _Room(70, 40),
    _Room(70, 12),
    _Room(70, 12, figures=False),
)
"""The largest in which all results fit is taken. Ten failed ones with long outputs have room for their figures."""


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
    error_chars = max(_ROOMS[0].error_chars, min(_ERROR_CHARS, _ERRORS_CHARS // max(len(results), 1)))
    rooms = [replace(room, error_chars=error_chars) if room.places else room for room in _ROOMS]
    needs = [json_size(cut(result.output.text, CONCISE_BYTES)) for result in results]
    for room in rooms:
        views = [concise(result.view, room.error_chars, figures=room.figures, files=room.files) for result in results]
        brief = [UncutResult(view, result.output) for view, result in zip(views, results, strict=True)]
        least = sum(min(need, room.output_bytes) for need in needs)
        left = CONCISE_BYTES - overhead(_cut(brief, [0] * len(brief), places=room.places))
        if left >= least or room is rooms[-1]:
            return _cut(brief, _allot(needs, max(left, least)), places=room.places)
    raise AssertionError("the last room is always taken")


def _cut(results: Sequence[UncutResult], allotted: Sequence[int], *, places: bool) -> list[AgentResult]:
    """Cut the outputs; see `_Room.places`."""
    views = [
        result.cut(CONCISE_BYTES, granted, always_size=False) for result, granted in zip(results, allotted, strict=True)
    ]
    if places:
        return views
    first = next((number for number, view in enumerate(views) if view.truncated), None)
    return [_without_places(view, reads_on=number == first) for number, view in enumerate(views)]


def _without_places(view: AgentResult, *, reads_on: bool) -> AgentResult:
    failure = view.failure.model_copy(update={"http_status": None}) if view.failure else None
    place = {} if reads_on else {"output_bytes": None, "next_offset": None}
    return view.model_copy(update={"failure": failure, **place})


def _allot(needs: Sequence[int], total: int) -> list[int]:
    """Share bytes among texts: a short text gets what it needs, and leaves the rest of its share to longer ones."""
    granted = [0] * len(needs)
    for left, index in zip(range(len(needs), 0, -1), sorted(range(len(needs)), key=needs.__getitem__), strict=True):
        granted[index] = min(needs[index], total // left)
        total -= granted[index]
    return granted

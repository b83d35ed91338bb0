"""Lists questions for `agentbus question list`: on a terminal with all that a person decides by."""

from typing import TYPE_CHECKING, Any

from agentbus.cli import output
from agentbus.protocol.json_codec import encode
from agentbus.visible_text import one_line

if TYPE_CHECKING:
    from agentbus.coordinator import Coordinator
    from agentbus.tasks.questions.asked import AskedQuestion, QuestionList

_MOST_CHARS = 2_000
"""Of what an agent says, on a terminal. What it wants to do is shown whole: an approval is for all of it."""
_LINE_CHARS = 300
_INDENT = "    "


class QuestionSearch:
    """A list of questions in the making, which prints them as they are found."""

    def __init__(self, bus: "Coordinator", limit: int, cursor: int | None) -> None:
        self._bus = bus
        self._limit = limit
        self._cursor = cursor

    async def run(self, **filters: Any) -> None:
        """Search until there are enough or no more, and say on standard error how far it is, and how it goes on."""
        left, page = self._limit, None
        while left > 0 and (page is None or page.partial):
            page = await self._bus.questions(**filters, limit=left, cursor=self._cursor)
            self._print(page)
            self._cursor = page.cursor
            left -= len({question.status.record.key for question in page.questions})
        if self._cursor is not None:
            output.remark(f"older questions: --cursor {self._cursor}")

    def _print(self, page: "QuestionList") -> None:
        for question in page.questions:
            if output.tabular():
                _show(question)
            else:
                output.json_line(question.to_json())
        for fault in page.unreadable:
            output.remark(f"warning: {fault}")
        if page.partial and page.reached is not None:
            output.remark(f"searched back to {page.reached:%Y-%m-%d %H:%M:%S} UTC; {page.left:,} entries are left")


def in_one_line(question: "AskedQuestion") -> str:
    """Say what a run asks, and how to answer it, to a person who waits for its task."""
    arguments = "" if question.arguments is None else encode(question.arguments).decode()
    asks = one_line(f"{question.operation} {arguments}".strip()[:_LINE_CHARS])
    how = f"answer it with `agentbus question answer {question.id} --approve`, or --deny"
    return f"{question.status.name} asks a person: {asks}; it {_state(question)}; {how}"


def _show(question: "AskedQuestion") -> None:
    """Print a question. What an agent says is quoted line by line, so that it passes for nothing else."""
    output.line(output.Styled(question.id, bold=True))
    output.line(f"{_INDENT}{_state(question)}")
    arguments = "" if question.arguments is None else encode(question.arguments).decode()
    for name, text, whole_bytes in (
        ("operation", question.operation, None),
        ("with", arguments, question.arguments_bytes),
        ("folder", question.folder, None),
    ):
        if text:
            cut = "" if whole_bytes is None else f" (the beginning of {whole_bytes:,} bytes)"
            output.line(f"{_INDENT}{name}: {one_line(text)}{cut}")
    if text := question.text.strip():
        output.line(f"{_INDENT}says:")
        for line in text[:_MOST_CHARS].split("\n"):
            output.line(f"{_INDENT}> {line}")
        if len(text) > _MOST_CHARS:
            output.line(f"{_INDENT}(the beginning of {len(text):,} characters; in a pipe there is more of it)")
    output.line("")


def _state(question: "AskedQuestion") -> str:
    if question.kind == "approval":
        return "has ended, and asks for approval"
    if question.state == "interrupted":
        return "was interrupted: the answer is kept for the next attempt"
    return f"holds up its run until {question.until}"

"""The board: what waits for a person, what runs, what is queued, what was settled last, and the agents; as sections.

It is the same data as `agentbus status`: see `agentbus.admin.overview`. A section holds the first rows; how many there
are stands in the head.
"""

from typing import TYPE_CHECKING, Final

from agentbus.admin.needs import Need
from agentbus.admin.overview import BusOverview, OverviewReader
from agentbus.coordinator import Coordinator
from agentbus.ui.feed import Sections
from agentbus.ui.rows import Row, agent_row, known, question_row, task_row
from agentbus.ui.shown_text import line

if TYPE_CHECKING:
    from agentbus.bus.jetstream import Bus
    from agentbus.protocol.json_codec import Json

SHOWN: Final = 30
"""Rows of a section: what a screen shows, and a little more. Others are a list away."""
_AGENTS_SHOWN: Final = 60
_QUESTIONS_SHOWN: Final = 20
_RECENT: Final = 20


class Board:
    """Reads the sections of the board of one coordinator."""

    def __init__(self) -> None:
        self._reader: OverviewReader | None = None
        self._of: Bus | None = None

    async def read(self, bus: Coordinator) -> Sections:
        """Read all of them, in one overview."""
        if self._reader is None or self._of is not bus.bus:
            self._reader, self._of = OverviewReader(bus, recent=_RECENT), bus.bus
        overview = await self._reader.read()
        return {
            "head": {"head": head_row(bus, overview)},
            "questions": {asked.id: question_row(asked) for asked in overview.needs.asked[:_QUESTIONS_SHOWN]},
            "asking": {"asking": known(more=None if overview.to_the_end else True)},
            "trouble": {key: row for key, row in map(_trouble, overview.needs.named) if row},
            "running": {
                str(one.name): task_row(one, overview.progress.get(one.record.key)) for one in overview.running[:SHOWN]
            },
            "queued": {str(one.name): task_row(one) for one in overview.queued[:SHOWN]},
            "settled": {str(one.name): task_row(one) for one in overview.recent},
            "agents": {one.agent: agent_row(one) for one in overview.agents[:_AGENTS_SHOWN]},
        }


async def older_questions(bus: Coordinator, cursor: int | None) -> Row:
    """Search for questions in the whole ledger, a part at a time: for a person who asks for it.

    Raises:
        MessageError: the cursor is none of this bus.
        BusError: see `Coordinator.questions`.
    """
    found = await bus.questions(limit=_QUESTIONS_SHOWN, cursor=cursor)
    reached = found.reached.isoformat() if found.reached else None
    return known(questions=[question_row(asked) for asked in found.questions], cursor=found.cursor, reached=reached)


def head_row(bus: Coordinator, overview: BusOverview) -> Row:
    """Say which bus and which coordinator this is, how much there is of all, and what is wrong with the streams."""
    counts: dict[str, Json] = {
        "agents": len(overview.agents),
        "online": sum(agent.online for agent in overview.agents),
        "workers": sum(len(agent.workers) for agent in overview.agents),
        "running": max(len(overview.running), sum(one.running or 0 for one in overview.tasks)),
        "queued": max(len(overview.queued), overview.queued_in_all),
        **{f"needs_{kind}": count for kind, count in overview.needs.counts.items()},
    }
    return known(
        servers=line(overview.servers),
        coordinator=overview.coordinator,
        role=bus.role,
        server_version=line(overview.server_version, 40),
        counts=counts,
        warnings=[line(text, 400) for text in overview.warnings],
        missing=[*overview.missing],
        hidden=[*overview.hidden],
        streams=[usage.to_json() for usage in overview.streams] if overview.warnings or overview.missing else None,
    )


def _trouble(need: Need) -> tuple[str, Row]:
    """Describe what needs a person besides questions, which have a section of their own; nothing of these."""
    if need.kind in ("question", "approval"):
        return "", {}
    about = known(kind=need.kind, agent=need.agent, why=line(need.text))
    if need.status is not None:
        return f"{need.kind}:{need.status.name}", {**task_row(need.status), **about}
    return f"{need.kind}:{need.agent}:{line(need.text, 60)}", about

"""The parties that have a ledger of their own, and which part of the storage each of them gets.

Their parts together are that of the ledger of all. Equal parts are what makes them independent: nothing that one party
writes takes room of another. The number of parts is a power of two, above the number of parties: so there is room for
the next party, and the ledgers that exist are lowered seldom.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import ledger_of

_OF_AGENTS: Final = 0.31
_OF_COORDINATORS: Final = 0.04
"""For the records of MCP tasks, which are small."""


@dataclass(frozen=True, slots=True)
class Ledgers:
    """The parties with a ledger of their own, each once.

    Attributes:
        more: whether some of them have none yet: then the others give way.
    """

    agents: Sequence[str]
    coordinators: Sequence[str]
    more: bool = False

    @property
    def parts(self) -> Iterator[tuple[str, str, float]]:
        """The stream of each party, what it takes, and its part of the storage."""
        for parties, keys, share in (
            (self.coordinators, subjects.mcp_tasks, _OF_COORDINATORS),
            (self.agents, subjects.states, _OF_AGENTS),
        ):
            for party in parties:
                yield ledger_of(party), keys(party), share / _parts(len(parties))


def _parts(parties: int) -> int:
    """Return the least power of two above a number."""
    return 1 << parties.bit_length()

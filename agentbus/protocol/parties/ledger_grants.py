"""What parties may read of the ledger: all of it, or the entries of one owner; as one stream, or as one for each party.

No subject of the JetStream API covers the streams of some parties, for a name of a stream is one token. So where the
ledger is divided each of its streams is granted by its name. All of them are listed by one request, which says whose
they are and how full, and nothing of what they hold.
"""

from collections.abc import Sequence
from typing import Final

from agentbus.protocol import accounts, subjects
from agentbus.protocol.parties.ledger_streams import ledger_of, narrowed
from agentbus.protocol.parties.party import Grant

_STATE: Final = subjects.STATE_STREAM
_SINCE: Final = accounts.LAYOUT_WITH_LEDGERS_APART
_LIST: Final = subjects.api("STREAM.LIST")
_INFO: Final = subjects.api(f"STREAM.INFO.{_STATE}")
_PULL_BEFORE: Final = (subjects.pull(_STATE, "*"),)


def _info(party: str) -> str:
    return subjects.api(f"STREAM.INFO.{ledger_of(party)}")


def of_all(parties: Sequence[str] | None) -> tuple[Grant, ...]:
    """Reading the states of all tasks.

    Args:
        parties: whose ledgers there are; None where the ledger is one stream.
    """
    if parties is None:
        return _UNDIVIDED
    return (
        _WHICH_LEDGERS,
        Grant(
            "reading the states of all tasks",
            tuple(
                one
                for party in parties
                for one in (
                    _info(party),
                    subjects.last_of(_STATE, subjects.states(party)),
                    subjects.direct_get(ledger_of(party)),
                )
            ),
            since=_SINCE,
            before=_READING.subjects,
        ),
        # For the filters, see below.
        Grant(
            "following the states of all tasks, or of some",
            tuple(
                one
                for party in parties
                for one in (
                    subjects.create_consumer(ledger_of(party), "*", ">"),
                    subjects.create_consumer(ledger_of(party), "*"),
                )
            ),
            since=_SINCE,
            before=_FOLLOWING.before,
        ),
        Grant(
            "the same, message by message",
            tuple(subjects.pull(ledger_of(party), "*") for party in parties),
            "pull",
            since=_SINCE,
            before=_PULL_BEFORE,
        ),
    )


def of_owner(me: str, tasked: Sequence[str], agents: Sequence[str] | None) -> tuple[Grant, ...]:
    """Reading the states of one's own tasks, and the records of MCP tasks, which one also writes.

    Args:
        tasked: the agents that one gives tasks to: how full their ledgers are, one may ask.
        agents: all agents, in whose ledgers one looks for such tasks; None where the ledger is one stream.
    """
    own, records = subjects.states(owner=me), subjects.mcp_tasks(me)
    states_before = (subjects.last_of(_STATE, own), subjects.create_consumer(_STATE, "*", own))
    records_before = (records, subjects.last_of(_STATE, records), subjects.create_consumer(_STATE, "*", records))
    if agents is None:
        return (
            Grant("the states of its tasks", states_before),
            Grant("the MCP tasks of its clients", records_before),
            Grant("both, message by message", _PULL_BEFORE, "pull"),
            _FILL,
            _WHICH,
        )
    mine = ledger_of(me)
    return (
        _WHICH_LEDGERS,
        Grant(
            "the states of its tasks",
            tuple(
                one
                for agent in agents
                for one in (
                    *((_info(agent),) if agent in tasked else ()),
                    subjects.last_of(_STATE, narrowed(own, agent)),
                    subjects.create_consumer(ledger_of(agent), "*", narrowed(own, agent)),
                )
            ),
            since=_SINCE,
            before=states_before,
        ),
        Grant(
            "the MCP tasks of its clients",
            (records, _info(me), subjects.last_of(_STATE, records), subjects.create_consumer(mine, "*", records)),
            since=_SINCE,
            before=records_before,
        ),
        Grant(
            "both, message by message",
            tuple(subjects.pull(ledger_of(party), "*") for party in dict.fromkeys((*agents, me))),
            "pull",
            since=_SINCE,
            before=_PULL_BEFORE,
        ),
    )


_FILL: Final = Grant(
    "how full the ledger is, and which tasks it has", (_INFO,), since=accounts.LAYOUT_WITH_WHOLE_LEDGER
)
_WHICH_LEDGERS: Final = Grant(
    "which ledgers there are, and how full each of them is", (_LIST,), since=_SINCE, before=(_INFO,)
)
_WHICH: Final = Grant("whether the ledger is one stream", (_LIST,), since=_SINCE)
_READING: Final = Grant(
    "reading the states of all tasks",
    (subjects.direct_get(_STATE), subjects.last_of(_STATE, subjects.STATE_SUBJECTS)),
)
# With a filter that has wildcards, the server looks at every subject of the stream to make a consumer; with `>`, or
# with none, it does not. The first of the two covers every filter, and the two do not meet.
_FOLLOWING: Final = Grant(
    "following the states of all tasks, or of some",
    (subjects.create_consumer(_STATE, "*", ">"), subjects.create_consumer(_STATE, "*")),
    since=accounts.LAYOUT_WITH_WHOLE_LEDGER,
    before=(subjects.create_consumer(_STATE, "*", subjects.STATE_SUBJECTS),),
)
_UNDIVIDED: Final = (
    _READING,
    _FOLLOWING,
    Grant("the same, message by message", _PULL_BEFORE, "pull"),
    _FILL,
    _WHICH,
)

"""How full a stream is, from when on that is a warning, and the command that makes room in it."""

from typing import Final

from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.bus.wanted.retention import DAY_S, DUPLICATE_WINDOW_DAYS, LEAST_RESULTS_DAYS, LEAST_STATES_DAYS
from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import is_ledger, ledger_of

NEARLY_FULL: Final = 0.9
"""The part of a bound from which on tasks are refused. The rest is for what becomes of tasks that were accepted."""
WARNED_FROM: Final = 0.8
"""The part from which on a person is warned: half of the way is left until something is refused."""
_OF_A_TASK: Final = 1 << 10
"""What an accepted task adds to its entry beside its content: ids, names and times of its result, and an answer of a
few lines. Longer answers take of the tenth above the mark."""


def coming_bytes(queue: StreamInfo, agent: str | None = None) -> int:
    """Return what the accepted tasks will add to the ledger: the entry of a settled task holds its content.

    Args:
        queue: with the number of messages of each subject, where an agent is named.
        agent: count the tasks of this agent alone, each with the mean size of all: the server counts no bytes of a
            subject.
    """
    count, of_all = queue.state.messages, queue.state.messages
    if agent is not None:
        found = queue.state.subjects or {}
        count = sum(number for subject, number in found.items() if subjects.publisher_of(subject, agent) is not None)
    return count * _OF_A_TASK + (queue.state.bytes * count // of_all if of_all else 0)


def coming_to_each(queue: StreamInfo) -> dict[str, int]:
    """Return the same for each stream that the ledger may have: for the one of all, and for those of the agents.

    Args:
        queue: with the number of messages of each subject.
    """
    counts: dict[str, int] = {}
    for subject, number in (queue.state.subjects or {}).items():
        if (named := subjects.agent_and_party(subject, "tasks")) is not None:
            counts[named[0]] = counts.get(named[0], 0) + number
    mean = queue.state.bytes / queue.state.messages if queue.state.messages else 0
    of_agents = {ledger_of(agent): int(count * (_OF_A_TASK + mean)) for agent, count in counts.items()}
    return {subjects.STATE_STREAM: coming_bytes(queue), **of_agents}


def warning_of(info: StreamInfo, coming: int = 0) -> str:
    """Say how full a stream is, if that is a warning; else nothing.

    Args:
        coming: bytes that it will get from tasks that were accepted; see `coming_bytes`.
    """
    limit, used, name = info.max_bytes, info.state.bytes, info.config.get("name")
    if info.max_msgs > 0 and info.state.messages >= WARNED_FROM * info.max_msgs:
        return f"{name} holds {info.state.messages} of its {info.max_msgs} messages"
    if limit <= 0 or used + coming < WARNED_FROM * limit:
        return ""
    text = f"{name} holds {used / limit:.0%} of its {limit / (1 << 20):.0f} MiB"
    return f"{text}, and accepted tasks will add {coming / limit:.0%}" if coming >= 0.01 * limit else text


def remedy(info: StreamInfo) -> str:
    """Say how an administrator makes room in a stream, as what follows `can`."""
    name, days = str(info.config.get("name")), int(info.max_age_s / DAY_S)
    more = f"raise its max_bytes (nats stream edit {name} --max-bytes SIZE, or raise max_file: agentbus setup --shares)"
    if is_ledger(name):
        kept = max(LEAST_STATES_DAYS, days // 2)
        if not days or kept < days:
            options = f"--keep-results {kept - DUPLICATE_WINDOW_DAYS} --keep-states {kept}"
            return f"keep tasks for a shorter time (agentbus setup {options}), or {more}"
    elif name == subjects.RESULTS_STREAM:
        kept, purge = max(LEAST_RESULTS_DAYS, days // 2), f"nats stream purge {name} --subject SUBJECT --keep N"
        shorter = f"keep results for a shorter time (agentbus setup --keep-results {kept}), "
        return f"{shorter if not days or kept < days else ''}remove old results ({purge}), or {more}"
    elif name == subjects.TASKS_STREAM:
        return f"start more workers, cancel tasks (agentbus task cancel ID), or {more}"
    elif name == subjects.DEAD_STREAM:
        return f"give dead letters to the workers again, or drop them (agentbus dead list), or {more}"
    return more

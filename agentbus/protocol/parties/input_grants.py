"""What lets tasks bring files: coordinators write the bucket of an agent, each its own, and the workers read it."""

from agentbus.protocol import subjects
from agentbus.protocol.accounts import LAYOUT_WITH_INPUTS
from agentbus.protocol.parties.party import Grant
from agentbus.protocol.work import input_names


def of_owner(agent: str, owner: str) -> Grant:
    """Sending files with tasks for an agent. The owner stands in the subjects, so no grant covers those of others."""
    return Grant(
        f"files that its tasks bring to {agent}: it can write its own, and read none",
        (input_names.chunks(agent, ">", owner), input_names.meta(agent, ">", owner)),
        since=LAYOUT_WITH_INPUTS,
    )


def of_worker(agent: str) -> Grant:
    """Reading what tasks bring, message by message: no consumer, which could deliver elsewhere."""
    stream = input_names.stream(agent)
    return Grant(
        "files that tasks bring to it: it can read them, not write them",
        (subjects.direct_get(stream), subjects.last_of(stream, input_names.all_metas(agent))),
        since=LAYOUT_WITH_INPUTS,
    )

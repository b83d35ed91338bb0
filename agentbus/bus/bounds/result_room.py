"""Whether there will be room for the result of a task, in the inbox that it goes to and in the stream of all.

A result that finds no room waits on the disk of its worker. So tasks are refused while some room is left, for the
results of those that were accepted before.
"""

import math

from agentbus.bus.bounds.fill import NEARLY_FULL, remedy
from agentbus.bus.bounds.rooms import Question, Room
from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.errors import StreamFullError
from agentbus.protocol import subjects


def result_room(bus: Bus, agent: str, inbox: str, size: int) -> Question:
    """Return the question for the room of one result; `size` is that of the task, which its result embeds."""

    async def look() -> Room | StreamFullError:
        subject = subjects.results(inbox, agent)
        info = await bus.stream_info(subjects.RESULTS_STREAM, subjects_filter=subject)
        count = (info.state.subjects or {}).get(subject, 0)
        messages = NEARLY_FULL * info.max_per_subject - count if info.refuses_per_subject else math.inf
        in_bytes = NEARLY_FULL * info.max_bytes - info.state.bytes if info.max_bytes > 0 else math.inf
        if messages < 1:
            return _writer_full(agent, inbox, count, info)
        if in_bytes < size:
            return _stream_full(info)
        return Room(messages, in_bytes)

    return Question(subjects.RESULTS_STREAM, (subjects.RESULTS_STREAM, agent, inbox), size, look)


def _writer_full(agent: str, inbox: str, count: int, info: StreamInfo) -> StreamFullError:
    subject = subjects.results(inbox, agent)
    return StreamFullError(
        f"{agent} has {count} results in the inbox of {inbox}, and may have {info.max_per_subject} there; from "
        f"{NEARLY_FULL:.0%} on, no task is taken that would add one. Nothing was queued. An administrator can remove "
        f"old ones (nats stream purge {info.config.get('name')} --subject {subject} --keep N), or raise max_bytes of "
        "the stream and run agentbus setup --update"
    )


def _stream_full(info: StreamInfo) -> StreamFullError:
    name, mib = info.config.get("name"), 1 << 20
    return StreamFullError(
        f"{name} holds {info.state.bytes / mib:.1f} of {info.max_bytes / mib:.1f} MiB; from {NEARLY_FULL:.0%} on, no "
        f"task is taken that would add a result. Nothing was queued. An administrator can {remedy(info)}"
    )

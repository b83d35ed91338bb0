"""Counts the messages of each subject of a stream, and keeps a changed bound from deleting any."""

from typing import Any, Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.jetstream_answers import read_stream_info

_BOUND: Final = "max_msgs_per_subject"
_WITH_BOUND: Final = (_BOUND, "discard_new_per_subject")


async def subject_counts(bus: Bus, stream: str, subjects_filter: str) -> dict[str, int]:
    """Count the messages of each subject that matches a filter; the server answers in pages of 100,000 subjects.

    Raises:
        SetupMissingError: the stream does not exist.
        PermissionDeniedError: this user may not read it.
    """
    verb = f"STREAM.INFO.{stream}"
    found: dict[str, int] = {}
    while True:
        answer = await bus.api(verb, {"subjects_filter": subjects_filter, "offset": len(found)})
        page = read_stream_info(answer, verb).state.subjects or {}
        found |= page
        if not page or len(found) >= int(answer.get("total") or 0):
            return found


async def without_deletions(bus: Bus, stream: str, config: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a changed configuration without a bound of subjects that one of them exceeds, and the reason.

    A server deletes what is over a new bound: 2.15 at once, 2.10 when it starts the next time.
    """
    bound, now = config.get(_BOUND, -1), (await bus.stream_info(stream)).config
    if bound <= 0 or 0 < now.get(_BOUND, -1) <= bound:
        return config, ()
    counts = await subject_counts(bus, stream, ">")
    fullest = max(counts, key=lambda subject: counts[subject], default="")
    if not fullest or counts[fullest] <= bound:
        return config, ()
    kept = {name: value for name, value in config.items() if name not in _WITH_BOUND}
    kept |= {name: now[name] for name in _WITH_BOUND if name in now}
    reason = f"{_BOUND} was left: {fullest} holds {counts[fullest]} messages, and the server would delete the oldest"
    return kept, (f"{reason}; raise max_bytes, or purge the subject",)

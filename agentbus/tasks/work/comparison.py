"""Compares what several tasks changed: how large each change is, and which files several of them touch.

The files are read from their patches, which are text of agents: names are taken as they stand there, and bounded.
"""

import re
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agentbus.concurrently import concurrently
from agentbus.protocol.json_codec import Json
from agentbus.protocol.work.results import PATCH
from agentbus.tasks.work.artifacts import artifacts_of, changes_of, read_artifact

if TYPE_CHECKING:
    from agentbus.bus.jetstream import Bus
    from agentbus.tasks.status import TaskStatus

_AT_ONCE: Final = 4
_MOST_FILES: Final = 20_000
"""Of one patch. A comparison of more says nothing to a person."""
_MOST_SHOWN: Final = 200
_MOST_LINE_BYTES: Final = 4_096
_HEAD: Final = re.compile(
    rb'diff --git (?:a/(?P<plain>.+) b/(?P=plain)|"a/(?P<quoted>.+)" "b/(?P=quoted)"|(?P<other>.+))'
)


@dataclass(frozen=True, slots=True)
class Compared:
    """The change of one task; `shared` is how many of its files another one changes as well."""

    name: str
    state: str
    commits: int
    files: int
    insertions: int
    deletions: int
    shared: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The changes of several tasks, and the files that several of them change, each with their names."""

    tasks: tuple[Compared, ...]
    overlapping: tuple[tuple[str, tuple[str, ...]], ...]
    overlapping_left: int = 0

    def to_json(self) -> list[dict[str, Json]]:
        """One object for each task, with the files that it shares."""
        return [
            {
                "id": one.name,
                "state": one.state,
                **{name: getattr(one, name) for name in ("commits", "files", "insertions", "deletions")},
                "shared": [
                    {"file": file, "with": [name for name in names if name != one.name]}
                    for file, names in self.overlapping
                    if one.name in names
                ],
            }
            for one in self.tasks
        ]


async def compare(bus: "Bus", statuses: "Sequence[TaskStatus]") -> Comparison:
    """Compare what settled tasks changed.

    Raises:
        NotSettledError: one has no result yet.
        FileMissingError, CorruptFileError: see `agentbus.tasks.work.artifacts.read_artifact`.
    """

    async def files(status: "TaskStatus") -> list[str]:
        patch = next((one for one in artifacts_of(status) if one.name == PATCH), None)
        return [] if patch is None else await files_of_patch(read_artifact(bus, status, patch))

    lists = await concurrently(statuses, files, at_once=_AT_ONCE)
    names = [str(status.name) for status in statuses]
    by_file: dict[str, list[str]] = {}
    for name, listed in zip(names, lists, strict=True):
        for file in listed:
            by_file.setdefault(file, []).append(name)
    shared = sorted((file, tuple(of)) for file, of in by_file.items() if len(of) > 1)
    tasks: list[Compared] = []
    for name, status in zip(names, statuses, strict=True):
        changes = changes_of(status)
        counts = (changes.commits, changes.files, changes.insertions, changes.deletions) if changes else (0, 0, 0, 0)
        tasks.append(Compared(name, status.state, *counts, sum(name in of for _, of in shared)))
    return Comparison(tuple(tasks), tuple(shared[:_MOST_SHOWN]), max(0, len(shared) - _MOST_SHOWN))


async def files_of_patch(pieces: AsyncIterable[bytes]) -> list[str]:
    """Return the files that a patch of git changes, each once; the new name of one that was renamed."""
    found: dict[str, None] = {}
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        rest = rest[: _MOST_LINE_BYTES + 1]
        for line in lines:
            if len(found) < _MOST_FILES and len(line) <= _MOST_LINE_BYTES and (name := _file_in(line)) is not None:
                found[name] = None
    return list(found)


def _file_in(line: bytes) -> str | None:
    head = _HEAD.fullmatch(line)
    if head is None:
        return None
    name = head["plain"] or head["quoted"] or head["other"].rpartition(b" b/")[2] or head["other"]
    return name.decode(errors="backslashreplace")

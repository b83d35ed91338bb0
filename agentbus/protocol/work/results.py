"""What a result says of the work that a run has left: the files that were brought home, and what changed.

A worker writes it, and names and titles come from an agent: each reader checks and bounds what it takes, and takes what
it cannot read as not there.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from agentbus.protocol.json_codec import Json, encode, object_in
from agentbus.protocol.outcomes.run_report import count_in
from agentbus.protocol.work.file_names import name_fault
from agentbus.protocol.work.task_work import ref_fault

ARTIFACTS: Final = "artifacts"
"""The field of a result that lists the files that were brought home."""
CHANGES: Final = "changes"
"""The field of a result that sums up what changed in the repository of the run."""
BUNDLE: Final = "changes.bundle"
"""The artifact that holds the commits since the base. A worker gives this name to no file of an agent."""
PATCH: Final = "changes.patch"
"""The artifact that a person reads: the same as a patch. No file of an agent has this name either."""
OWN_NAMES: Final = frozenset((BUNDLE, PATCH))

MAX_ARTIFACTS: Final = 100
MAX_LISTED_BYTES: Final = 12 << 10
"""Of `artifacts` and `changes`, each, as JSON: a result has 16 KiB for its own fields in the message that it shares
with its task and the head of its output, so a worker leaves out what is beyond; see `within`."""
MAX_TITLES: Final = 20
"""How many commits are listed with their titles: as many as a person reads."""
MAX_TITLE_CHARS: Final = 120
MAX_LEFT_OUT: Final = 20
MAX_WHY_CHARS: Final = 200
MAX_BRANCHES: Final = 10
MAX_SECRETS: Final = 10
MAX_MEDIA_TYPE_CHARS: Final = 100
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_OBJECT: Final = re.compile(r"[!-~]{1,400}")
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*(?:; charset=utf-8)?")
BINARY: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that was brought home.

    Attributes:
        name: below one folder; see `agentbus.protocol.work.file_names`.
        object: its name in the object store of the agent's files.
    """

    name: str
    bytes: int
    sha256: str
    media_type: str
    object: str

    def to_json(self) -> dict[str, Json]:
        """The entry of the field `artifacts`."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that was not brought home, and why."""

    name: str
    why: str

    def to_json(self) -> dict[str, Json]:
        """The entry of a field `left_out`."""
        return {"name": self.name, "why": self.why[:MAX_WHY_CHARS]}


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of a run, with the first line of its message."""

    id: str
    title: str

    def to_json(self) -> dict[str, Json]:
        """The entry of the field `log`."""
        return {"id": self.id, "title": self.title[:MAX_TITLE_CHARS]}


@dataclass(frozen=True, slots=True)
class OtherBranch:
    """A branch of a run beside the one that it left checked out, with commits that this one has not.

    Attributes:
        branch: its name, without `refs/heads/`; under it, it lies in the bundle.
        commits: how many there are from the base to its head.
    """

    branch: str
    head: str
    commits: int

    def to_json(self) -> dict[str, Json]:
        """The entry of the field `branches`."""
        return {"branch": self.branch, "head": self.head, "commits": self.commits}


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed in the repository of a run.

    Attributes:
        base: the commit from which the run started: what the bundle needs.
        head: the commit with all that the run has left; the same as `base` where nothing changed.
        branch: the one in the bundle, without `refs/heads/`.
        base_ref: the name by which the base was asked for, as `origin/main`; None if it was a commit.
        commits: how many there are from `base` to `head`.
        log: the newest of them, newest first.
        files, insertions, deletions: of the difference of the two.
        uncommitted: whether the last commit is the worker's: it holds what the run had not committed.
        left_out: what was not committed, nor brought home.
        left_out_count: how many there are, of which `left_out` lists some.
        branches: further ones that are in the bundle.
        secrets: files in the commits of the run whose names are those of files with secrets; the first ones.
    """

    base: str
    branch: str
    head: str
    commits: int = 0
    files: int = 0
    insertions: int = 0
    deletions: int = 0
    base_ref: str | None = None
    log: tuple[Commit, ...] = ()
    uncommitted: bool = False
    left_out: tuple[LeftOut, ...] = ()
    left_out_count: int = 0
    branches: tuple[OtherBranch, ...] = ()
    secrets: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """The value of the field `changes`, bounded."""
        found: dict[str, Json] = {
            **{name: getattr(self, name) for name in ("base", "branch", "head", *_COUNTS)},
            "log": [one.to_json() for one in self.log[:MAX_TITLES]],
        }
        if self.base_ref is not None:
            found["base_ref"] = self.base_ref
        if self.uncommitted:
            found["uncommitted"] = True
        if self.left_out:
            found["left_out"] = [one.to_json() for one in self.left_out[:MAX_LEFT_OUT]]
            found["left_out_count"] = max(self.left_out_count, len(self.left_out))
        if self.branches:
            found["branches"] = [one.to_json() for one in self.branches[:MAX_BRANCHES]]
        if self.secrets:
            found["secrets"] = [name[:MAX_WHY_CHARS] for name in self.secrets[:MAX_SECRETS]]
        return found


_COUNTS: Final = ("commits", "files", "insertions", "deletions")


def within(artifacts: Sequence[Artifact]) -> tuple[list[Artifact], list[Artifact]]:
    """Divide artifacts into those that a result can list, and those for which it has no room; their order is kept."""
    listed: list[Artifact] = []
    left: list[Artifact] = []
    room = MAX_LISTED_BYTES
    for one in artifacts:
        size = len(encode(one.to_json())) + 1
        if len(listed) < MAX_ARTIFACTS and size <= room:
            listed.append(one)
            room -= size
        else:
            left.append(one)
    return listed, left


def artifacts_in(result: Mapping[str, Json]) -> tuple[Artifact, ...]:
    """Read the field `artifacts` of a result message; what cannot be read, or has a name that is no name, is left out.

    Each name stands once.
    """
    found: dict[str, Artifact] = {}
    for one in _list(result.get(ARTIFACTS), MAX_ARTIFACTS):
        artifact = _artifact(object_in(one))
        if artifact is not None:
            found.setdefault(artifact.name, artifact)
    return tuple(found.values())


def _artifact(fields: Mapping[str, Json]) -> Artifact | None:
    name, object_, sha256 = fields.get("name"), fields.get("object"), fields.get("sha256")
    size, media_type = count_in(fields.get("bytes")), fields.get("media_type")
    if not isinstance(name, str) or name_fault(name) is not None or size is None:
        return None
    if not isinstance(object_, str) or not _OBJECT.fullmatch(object_):
        return None
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        return None
    known = (
        isinstance(media_type, str) and len(media_type) <= MAX_MEDIA_TYPE_CHARS and _MEDIA_TYPE.fullmatch(media_type)
    )
    return Artifact(name, size, sha256, str(media_type) if known else BINARY, object_)


def changes_in(result: Mapping[str, Json]) -> Changes | None:
    """Read the field `changes` of a result message; None if it has none, or what cannot be read."""
    found = object_in(result.get(CHANGES))
    base, branch, head, base_ref = (found.get(name) for name in ("base", "branch", "head", "base_ref"))
    if not isinstance(branch, str) or ref_fault(branch) is not None or not _is_commit(base) or not _is_commit(head):
        return None
    counts = {name: count_in(found.get(name)) or 0 for name in _COUNTS}
    left = left_out_in(found)
    return Changes(
        base=str(base),
        branch=branch,
        head=str(head),
        **counts,
        base_ref=base_ref if isinstance(base_ref, str) and ref_fault(base_ref) is None else None,
        log=tuple(_commits(found.get("log"))),
        uncommitted=found.get("uncommitted") is True,
        left_out=left,
        left_out_count=max(count_in(found.get("left_out_count")) or 0, len(left)),
        branches=tuple(_branches(found.get("branches"))),
        secrets=tuple(_names(found.get("secrets"))),
    )


def left_out_in(fields: Mapping[str, Json]) -> tuple[LeftOut, ...]:
    """Read a field `left_out`, that of `changes` or that of a result, which is of its artifacts."""
    listed = (object_in(one) for one in _list(fields.get("left_out"), MAX_LEFT_OUT))
    pairs = ((one.get("name"), one.get("why")) for one in listed)
    return tuple(
        LeftOut(name[:MAX_WHY_CHARS], why[:MAX_WHY_CHARS] if isinstance(why, str) else "")
        for name, why in pairs
        if isinstance(name, str) and name
    )


def _branches(value: Json) -> Iterator[OtherBranch]:
    for one in map(object_in, _list(value, MAX_BRANCHES)):
        name, head, commits = one.get("branch"), one.get("head"), count_in(one.get("commits"))
        if isinstance(name, str) and ref_fault(name) is None and _is_commit(head) and commits is not None:
            yield OtherBranch(name, str(head), commits)


def _names(value: Json) -> Iterator[str]:
    return (one[:MAX_WHY_CHARS] for one in _list(value, MAX_SECRETS) if isinstance(one, str) and one)


def _commits(value: Json) -> list[Commit]:
    listed = [object_in(one) for one in _list(value, MAX_TITLES)]
    return [
        Commit(str(one["id"]), title[:MAX_TITLE_CHARS])
        for one in listed
        if _is_commit(one.get("id")) and isinstance(title := one.get("title"), str)
    ]


def _is_commit(value: Json) -> bool:
    return isinstance(value, str) and _COMMIT.fullmatch(value) is not None


def _list(value: Json, most: int) -> list[Json]:
    return cast("list[Json]", value)[:most] if isinstance(value, list) else []

"""Builds what a result shows of the work that its run has left: the files, and what changed in its repository."""

from collections.abc import Mapping
from typing import Any, Final

from agentbus.protocol.json_codec import Json
from agentbus.protocol.work.results import Changes, artifacts_in, changes_in, left_out_in
from agentbus_mcp.replies.models import AgentResult
from agentbus_mcp.replies.work_models import ArtifactView, ChangesView, LeftOutView
from agentbus_mcp.sanitize import short, visible

_WHY_CHARS: Final = 80
_TITLES: Final = 3
"""In a concise answer."""


def work_in(fields: Mapping[str, Json]) -> dict[str, Any]:
    """The fields of the view of a result, from the fields of the result; they are checked and bounded."""
    changes = changes_in(fields)
    left_out = [*left_out_in(fields), *(changes.left_out if changes else ())]
    artifacts = [
        ArtifactView(name=visible(one.name), bytes=one.bytes, media_type=one.media_type, sha256=one.sha256)
        for one in artifacts_in(fields)
    ]
    return {
        "artifacts": artifacts or None,
        "changes": _changes(changes) if changes else None,
        "left_out": [LeftOutView(name=short(one.name), why=short(one.why)) for one in left_out] or None,
    }


def concise_work(view: AgentResult, most: int) -> dict[str, Any]:
    """The same for a concise answer: at most so many files, without digests, and of none what was left out."""
    artifacts, changes = view.artifacts or [], view.changes
    left_out = [LeftOutView(name=one.name, why=short(one.why, _WHY_CHARS)) for one in view.left_out or ()][:most]
    more = len(artifacts) - most
    return {
        "artifacts": [one.model_copy(update={"sha256": None}) for one in artifacts[:most]] or None,
        "more_artifacts": more if more > 0 else None,
        "changes": _concise_changes(changes, _TITLES if most else 0) if changes else None,
        "left_out": left_out or None,
    }


def _concise_changes(changes: ChangesView, most: int) -> ChangesView:
    fields: dict[str, Any] = {"base": None, "base_ref": None, "head": None}
    for name in ("log", "branches", "secrets"):
        listed: list[str] = getattr(changes, name) or []
        fields[name] = listed[:most] or None
    return changes.model_copy(update=fields)


def _changes(changes: Changes) -> ChangesView:
    return ChangesView(
        branch=visible(changes.branch),
        base=changes.base,
        base_ref=visible(changes.base_ref) if changes.base_ref else None,
        head=changes.head,
        commits=changes.commits,
        files=changes.files,
        insertions=changes.insertions,
        deletions=changes.deletions,
        uncommitted=changes.uncommitted or None,
        log=[short(one.title) for one in changes.log] or None,
        branches=[short(one.branch) for one in changes.branches] or None,
        secrets=[short(name) for name in changes.secrets] or None,
    )

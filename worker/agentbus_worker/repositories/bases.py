"""Names of commits from which a task may start, as its publisher or the configuration writes them."""

import re
from typing import Final, NamedTuple

_COMMIT: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHORT: Final = re.compile(r"[0-9a-f]{7,64}")
_ORIGIN: Final = "origin/"


class Base(NamedTuple):
    """A commit from which a task starts.

    Attributes:
        commit: its id.
        name: the branch or tag by which it was asked for; None of a commit, and of what the source has checked out.
    """

    commit: str
    name: str | None = None


def is_commit_id(text: str) -> bool:
    """Whether a text is the whole id of a commit."""
    return _COMMIT.fullmatch(text) is not None


def candidates(name: str) -> tuple[str, ...]:
    """Return the names in the mirror that a name may stand for, the most likely first.

    `origin/main` is the branch `main` of the origin of the source, where the source is a checkout that knows it; else
    the branch `main` of the source.
    """
    if is_commit_id(name):
        return (name,)
    found = [name] if name.startswith("refs/") else [f"refs/heads/{name}", f"refs/tags/{name}", f"refs/remotes/{name}"]
    if name.startswith(_ORIGIN):
        found = [f"refs/remotes/{name}", f"refs/heads/{name.removeprefix(_ORIGIN)}", *found]
    elif not name.startswith("refs/"):
        found.append(f"refs/remotes/{_ORIGIN}{name}")
    if _SHORT.fullmatch(name):
        found.append(name)
    return tuple(dict.fromkeys(found))

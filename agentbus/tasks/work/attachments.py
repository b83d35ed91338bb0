"""What the publisher of a task sends with it: files, and from where in the agent's repository it starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Attachments:
    """What a task brings; for the fields see `Coordinator.publish`."""

    files: tuple[Path, ...] = ()
    base: str | None = None
    branch: str | None = None
    commits_of: Path | None = None

    @property
    def of_repository(self) -> bool:
        """Whether the agent needs a repository for it."""
        return bool(self.base or self.branch or self.commits_of)

    def __bool__(self) -> bool:
        return bool(self.files) or self.of_repository


NONE: Final = Attachments()

"""What the configuration of a worker may say of the repository that its agent works in: the section `[repository]`."""

import re
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, Field, StrictBool, model_validator

from agentbus.config.schema import Seconds, Section, Unquoted
from agentbus.protocol.work.task_work import Ref

_URL: Final = re.compile(r"(https?|ssh|git|file)://[^\s\x00-\x1f\x7f]+")
_SCP: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[^\s\x00-\x1f\x7f]+")
"""As ssh writes it: `git@example.com:team/repository.git`."""


def _source(text: str) -> str:
    if _URL.fullmatch(text) or _SCP.fullmatch(text):
        return text
    path = Path(text).expanduser()
    if "://" in text or not path.is_absolute() or not text.isprintable():
        raise ValueError(
            "must be the whole path of a repository, or its URL: https, ssh, git or file, or user@host:path"
        )
    return str(path)


class RepositorySection(Section):
    """Where the agent's work begins, if it has a repository: each task or conversation gets a clone of its own."""

    source: Annotated[str, Field(max_length=2_000), AfterValidator(_source)] | None = None
    base: Ref | None = None
    fetch: StrictBool = True
    timeout_seconds: Seconds = 600
    max_changes_bytes: Annotated[int, Unquoted, Field(ge=1024)] = 134_217_728
    max_clones: Annotated[int, Unquoted, Field(ge=1)] = 100
    max_clones_bytes: Annotated[int, Unquoted, Field(ge=1024)] = 53_687_091_200

    @model_validator(mode="after")
    def _check(self) -> "RepositorySection":
        if self.source is None and self.base is not None:
            raise ValueError("base goes with source, which says where the repository is")
        return self

    @property
    def source_without_password(self) -> str:
        """The source as the agent's clone names it."""
        source = self.source or ""
        parts = urlsplit(source) if _URL.fullmatch(source) else None
        if parts is None or parts.password is None:
            return source
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{parts.username}@{host}" if parts.username else host))

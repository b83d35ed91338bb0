"""The fields of a task that brings files, or says from where in a repository it starts: `files`, `work`, and `needs`.

Both are optional. As with `continue`, they count only where `needs` names them, and only in tasks of the second form:
a worker of an earlier version never gets one, and would run it without what it needs.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from agentbus.errors import MessageError
from agentbus.protocol.conversations.continuation import NEEDS, needs_of
from agentbus.protocol.json_codec import Json, object_in
from agentbus.protocol.validation import fault_line
from agentbus.protocol.work.file_names import check_name, check_together

FILES: Final = "files"
"""The field, and the word in `needs`, of a task that brings files."""
WORK: Final = "work"
"""The field, and the word in `needs`, of a task that says from where in the agent's repository it starts."""
MAX_FILES: Final = 100
"""Of one task: their names stand in the task, and in its result, which embeds it."""
MAX_FILES_BYTES: Final = 256 << 20
"""Of the files of one task together, with the bundle: what a worker lays into one folder before the run."""
MAX_REF_BYTES: Final = 250
_SHA256: Final = r"^[0-9a-f]{64}$"
_OBJECT: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
_REF_CHARS: Final = frozenset(" ~^:?*[\\\"'`$;&|<>(){}!#\x7f")

Sha256 = Annotated[str, StringConstraints(pattern=_SHA256)]
ObjectName = Annotated[str, StringConstraints(pattern=_OBJECT)]
FileName = Annotated[str, AfterValidator(check_name)]
Bytes = Annotated[int, Field(ge=0, le=1 << 53)]


class SentObject(BaseModel):
    """An object that a coordinator has put into the bucket of an agent's inputs: its size, its digest and its name."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, defer_build=True)

    bytes: Bytes
    sha256: Sha256
    object: ObjectName

    def to_json(self) -> dict[str, Json]:
        """The value of the field."""
        return self.model_dump()


class SentFile(SentObject):
    """A file that a task brings. What lies under its object must have its size and digest."""

    name: FileName


def ref_fault(text: str) -> str | None:
    """Return what is wrong with a branch, tag or commit that a task names; None if it can stand in a git command.

    Names that git itself takes, without the marks of an expression such as `main~3`: it is looked up, not evaluated.
    """
    if not text or len(text.encode(errors="replace")) > MAX_REF_BYTES:
        return f"it must have 1 to {MAX_REF_BYTES} bytes"
    if not text.isprintable() or _REF_CHARS.intersection(text):
        return "it holds a blank, or a character that git takes for a part of an expression"
    if text.startswith(("-", "/", ".", "@{")) or text.endswith(("/", ".", ".lock")) or text == "@":
        return "it begins or ends with what no name of a branch, tag or commit has"
    if any(mark in text for mark in ("..", "//", "/.", "@{", ".lock/")):
        return "it holds what no name of a branch, tag or commit has"
    return None


def _check_ref(text: str) -> str:
    if (fault := ref_fault(text)) is not None:
        raise ValueError(f"no name of a branch, tag or commit: {fault}")
    return text


Ref = Annotated[str, AfterValidator(_check_ref)]


class Work(BaseModel):
    """What the field `work` of a task says.

    Attributes:
        base: the branch, tag or commit from which the run starts; None for that of the worker's configuration.
        branch: the branch that it works on; None for `agentbus/<task id>`.
        bundle: commits that the worker's repository may lack, as a git bundle.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, defer_build=True)

    base: Ref | None = None
    branch: Ref | None = None
    bundle: SentObject | None = None

    def to_json(self) -> dict[str, Json]:
        """The value of the field, without what is not said."""
        return self.model_dump(exclude_none=True)


def work_of(fields: Mapping[str, Json]) -> Work | None:
    """Return what the fields of a task say of the repository; None if it needs none.

    Raises:
        MessageError: it needs one, and what it says cannot be read.
    """
    if WORK not in needs_of(fields):
        return None
    try:
        return Work.model_validate(object_in(fields.get(WORK)))
    except ValidationError as error:
        raise MessageError(f"not a valid task: {WORK}.{fault_line(error, 'the whole')}") from None


def files_of(fields: Mapping[str, Json]) -> tuple[SentFile, ...]:
    """Return the files that the fields of a task say it brings; none if it needs none.

    Raises:
        MessageError: it needs some, and what it says cannot be read, or they cannot stand in one folder, or they are
            too many or too large.
    """
    if FILES not in needs_of(fields):
        return ()
    found = fields.get(FILES)
    listed = cast("list[Json]", found) if isinstance(found, list) else []
    if not 0 < len(listed) <= MAX_FILES:
        raise MessageError(f"not a valid task: {FILES}: must list 1 to {MAX_FILES} files")
    try:
        files = tuple(SentFile.model_validate(object_in(one)) for one in listed)
    except ValidationError as error:
        raise MessageError(f"not a valid task: {FILES}.{fault_line(error, 'the whole')}") from None
    if (size := sum(file.bytes for file in files)) > MAX_FILES_BYTES:
        raise MessageError(f"not a valid task: {FILES}: {size} bytes together, and may have {MAX_FILES_BYTES}")
    check_together(file.name for file in files)
    return files


def sent_with(fields: Mapping[str, Json]) -> bool:
    """Whether the fields of a task name objects in the bucket of its agent, which lie there under its owner."""
    needs = needs_of(fields)
    return FILES in needs or (WORK in needs and object_in(fields.get(WORK)).get("bundle") is not None)


def with_work(fields: Mapping[str, Json], work: Work | None, files: Sequence[SentFile]) -> dict[str, Json]:
    """Return the fields of a task that brings files, or says from where it starts."""
    needed = [*([WORK] if work is not None else []), *([FILES] if files else [])]
    if not needed:
        return dict(fields)
    added: dict[str, Json] = {NEEDS: [*needs_of(fields), *needed]}
    if work is not None:
        added[WORK] = work.to_json()
    if files:
        added[FILES] = [file.to_json() for file in files]
    return {**fields, **added}


def identity_of_work(fields: Mapping[str, Json]) -> list[Json]:
    """Return what these fields add to the identity of a task: nothing where they do not stand.

    Names of objects are not part of it: the same file may lie under another one when the task is published again.
    """
    needs = needs_of(fields)
    identity: dict[str, Json] = {}
    if WORK in needs:
        said = object_in(fields.get(WORK))
        identity[WORK] = [said.get("base"), said.get("branch"), object_in(said.get("bundle")).get("sha256")]
    if FILES in needs:
        found = fields.get(FILES)
        listed = [object_in(one) for one in cast("list[Json]", found)] if isinstance(found, list) else []
        identity[FILES] = [[one.get(name) for name in ("name", "bytes", "sha256")] for one in listed]
    return [identity] if identity else []

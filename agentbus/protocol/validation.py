"""Words what pydantic found wrong, without the values: they may be large or secret."""

from collections.abc import Iterator
from typing import NamedTuple

from pydantic import ValidationError


class Fault(NamedTuple):
    """One thing that is wrong: where, pydantic's word for its kind, and why."""

    place: tuple[str, ...]
    kind: str
    text: str


def faults(error: ValidationError) -> Iterator[Fault]:
    """Yield what is wrong, in the order of the fields."""
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        text = fault["msg"].removeprefix("Value error, ").replace("Field required", "is missing")
        yield Fault(tuple(str(part) for part in fault["loc"]), fault["type"], text)


def fault_line(error: ValidationError, whole: str = "") -> str:
    """Say on one line which fields are wrong and why; `whole` names the value where no field is to blame."""
    return "; ".join(dict.fromkeys(f"{'.'.join(fault.place) or whole}: {fault.text}" for fault in faults(error)))

"""JSON values of an agent, of any form: what of them is an object, a list of objects, a text."""

from collections.abc import Iterator
from typing import Any, TypeAlias, cast

Json: TypeAlias = Any
Object: TypeAlias = dict[str, Any]


def object_in(value: Json) -> Object:
    """Return a value that is a JSON object; an empty one for any other."""
    return cast("Object", value) if isinstance(value, dict) else {}


def objects_in(value: Json) -> Iterator[Object]:
    """Yield the items of a list as objects; none for any other value."""
    if isinstance(value, list):
        yield from (object_in(item) for item in cast("list[Any]", value))


def text_in(value: Json) -> str:
    """Return a value that is a text; an empty one for any other."""
    return value if isinstance(value, str) else ""

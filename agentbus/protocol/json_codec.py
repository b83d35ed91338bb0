"""JSON in UTF-8 as the bus carries it: strict when read, without ASCII escapes when written."""

import json
from typing import Any, Final, TypeAlias, cast

import pydantic_core

from agentbus.errors import MessageError

Json: TypeAlias = Any
"""A JSON value as Python has it: dict, list, str, int, float, bool or None."""


_SHOWN_CHARS: Final = 60
_CANONICAL: Final = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def decode(data: bytes) -> Json:
    """Parse JSON as strictly as RFC 8259 has it: UTF-8, no NaN, no lone surrogates, bounded depth.

    Raises:
        MessageError: with the place of the fault.
    """
    try:
        return pydantic_core.from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise MessageError(f"not JSON: {error}") from error


def refuse_changes(data: bytes) -> None:
    """Refuse JSON of which a reader gets something else than was written: for what is to be published.

    Args:
        data: JSON that `decode` takes.

    Raises:
        MessageError: an object has a key twice, of which readers keep one; or a number has more digits than they keep.
    """
    json.loads(data, object_pairs_hook=_with_unique_keys, parse_float=_exact, parse_int=len)


def _with_unique_keys(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for key, value in pairs:
        if key in found:
            raise MessageError(f"ambiguous JSON: an object has the key {key[:_SHOWN_CHARS]!r} twice")
        found[key] = value
    return found


def _exact(text: str) -> float:
    value = float(text)
    if repr(value) == text:
        return value
    from decimal import Decimal, InvalidOperation  # noqa: PLC0415  # few publishers have such a number

    try:
        same = Decimal(text) == Decimal(repr(value))
    except InvalidOperation:  # an exponent beyond all bounds
        same = False
    if not same:
        raise MessageError(
            f"JSON that would change: the number {text[:_SHOWN_CHARS]} would be read as {value!r}; send it as a string"
        )
    return value


def encode(value: Json) -> bytes:
    """Write JSON as UTF-8 on one line, without ASCII escapes.

    Raises:
        MessageError: if the value holds what JSON cannot carry (a lone surrogate, NaN, an unknown type).
    """
    try:
        return _ENCODER.encode(value).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise MessageError(f"cannot be written as JSON in UTF-8: {error}") from error


def object_in(value: Json) -> dict[str, Json]:
    """Return a value that is an object, and an empty object for any other value: messages of others may hold either."""
    return cast("dict[str, Json]", value) if isinstance(value, dict) else {}


def canonical(value: Json) -> bytes:
    """Write JSON with sorted keys: equal values have equal bytes."""
    return _CANONICAL.encode(value).encode()

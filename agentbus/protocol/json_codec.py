"""JSON in UTF-8 as the bus carries it: strict when read, without ASCII escapes when written."""

import json
from typing import Any, Final, TypeAlias, cast

import pydantic_core

from agentbus.errors import MessageError

Json: TypeAlias = Any
"""A JSON value as Python has it: dict, list, str, int, float, bool or None."""


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
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()

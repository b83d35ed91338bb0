"""JSON schemas without what pydantic adds for people: a model reads them at the price of their tokens."""

from typing import Any

from pydantic import BaseModel, ConfigDict


def drop_titles(schema: dict[str, Any]) -> None:
    """Remove the titles of an object and of its properties: they repeat the names."""
    schema.pop("title", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)


def _drop_nulls(schema: dict[str, Any]) -> None:
    """Say of optional properties that they may be absent, and not that they may be null."""
    for field in schema.get("properties", {}).values():
        kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
        if "default" in field and field["default"] is None and len(kinds) == 1:
            del field["anyOf"], field["default"]
            field.update(kinds[0])


def _compact(schema: dict[str, Any]) -> None:
    drop_titles(schema)
    _drop_nulls(schema)


class Answer(BaseModel):
    """Part of what a tool answers. What is None is left out of an answer, and the schema says so."""

    model_config = ConfigDict(json_schema_extra=_compact)
